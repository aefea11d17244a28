//! `squire-proxy redirect` alone: the rules as the real `nft` reads them, what they lead where, what passes, and whether
//! the check tells the truth. Listeners stand where a sidecar would.

use std::process::{Output, Stdio};

use squire_mesh::ports::PROXY_UID;
use squire_tests::{
    Cluster, ClusterPod, Mesh, Process, binary, cluster::APP_UID, in_time, namespace, namespace::Namespace,
};

/// Says a word to everybody who connects, over both families: `port word`, as often as wanted. UDP too.
const SAYING: &str = r#"
import socket, sys, threading
def tcp(port, word):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        c, _ = s.accept()
        c.sendall(word.encode())
        c.close()
def udp(port, word):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", port))
    while True:
        _, peer = s.recvfrom(100)
        s.sendto(word.encode(), peer)
for i in range(1, len(sys.argv), 2):
    for serve in tcp, udp:
        threading.Thread(target=serve, args=(int(sys.argv[i]), sys.argv[i + 1])).start()
"#;

const HEARING: &str = r#"
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
if sys.argv[3:] == ["udp"]:
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.sendto(b"?", (host, port))
    print(s.recv(100).decode())
else:
    print(socket.create_connection((host, port), timeout=20).makefile().read())
"#;

/// What the rules without exclusions look like to nft.
const PLAIN: &str = "\
table inet squire {
	chain outbound {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp return
		oifname \"lo\" return
		meta skuid 2102 return
		meta l4proto tcp redirect to :15001
	}

	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		meta l4proto != tcp return
		iifname \"lo\" return
		tcp dport 15020 return
		meta l4proto tcp redirect to :15006
	}
}
";

async fn redirect(namespace: &Namespace, arguments: &[&str]) -> Output {
    let mut command = namespace.command(binary("squire-proxy"));
    in_time("redirect ends", command.arg("redirect").args(arguments).output())
        .await
        .unwrap()
}

async fn succeeds(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = redirect(namespace, arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn nft(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = namespace.command("nft").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_rules_are_what_nft_reads_with_every_exclusion_in_its_place() {
    if !namespace::possible() {
        return;
    }
    let pod = Namespace::new();
    assert!(succeeds(&pod, &[]).await.contains("written"));
    assert_eq!(nft(&pod, &["list", "ruleset"]).await, PLAIN);

    let mut command = pod.command(binary("squire-proxy"));
    command.args(["redirect", "--exclude-inbound-ports", "22, 8000-8100", "--proxy-uid=7"]);
    command.args([
        "--exclude-outbound-cidrs",
        "10.1.2.3/8,169.254.169.254,fd00:1::/33,::1,0.0.0.0/0",
    ]);
    command.args([
        "--inbound-port",
        "16006",
        "--outbound-port",
        "16001",
        "--admin-port",
        "16020",
    ]);
    command.env("SQUIRE_REDIRECT_EXCLUDE_OUTBOUND_PORTS", "3306");
    command.env("SQUIRE_REDIRECT_EXCLUDE_UIDS", "0,101");
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = "\
table inet squire {
	chain outbound {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp return
		oifname \"lo\" return
		meta skuid 7 return
		meta skuid 0 return
		meta skuid 101 return
		tcp dport 3306 return
		ip daddr 10.0.0.0/8 return
		ip daddr 169.254.169.254 return
		ip6 daddr fd00:1::/33 return
		ip6 daddr ::1 return
		meta nfproto ipv4 return
		meta l4proto tcp redirect to :16001
	}

	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		meta l4proto != tcp return
		iifname \"lo\" return
		tcp dport 16020 return
		tcp dport 22 return
		tcp dport 8000-8100 return
		meta l4proto tcp redirect to :16006
	}
}
";
    let read = nft(&pod, &["--numeric-priority", "list", "ruleset"]).await;
    let read = read.replace("prerouting priority -100", "prerouting priority dstnat");
    assert_eq!(read.replace("skuid \"root\"", "skuid 0"), expected);
}

#[tokio::test]
async fn redirecting_twice_changes_nothing_and_whatever_was_altered_is_repaired() {
    if !namespace::possible() {
        return;
    }
    let pod = Namespace::new();
    nft(&pod, &["add table inet others; add chain inet others mine"]).await;
    succeeds(&pod, &[]).await;
    let whole = nft(&pod, &["list", "ruleset"]).await;
    assert!(succeeds(&pod, &[]).await.contains("already"));
    assert_eq!(nft(&pod, &["list", "ruleset"]).await, whole, "never doubled");

    for alteration in [
        "flush chain inet squire outbound",
        "flush chain inet squire inbound; delete chain inet squire inbound",
        "insert rule inet squire outbound return",
        "add rule inet squire inbound return",
        "add chain inet squire further",
        "flush table inet squire",
        "add table inet squire { flags dormant; }",
        "chain inet squire inbound { policy drop; }",
        "delete table inet squire; add table inet squire",
        "delete table inet squire; add table inet squire; add chain inet squire outbound { type nat hook output priority \
         -99; }; add chain inet squire inbound { type nat hook prerouting priority -100; }",
    ] {
        nft(&pod, &[alteration]).await;
        let said = succeeds(&pod, &[]).await;
        assert!(said.contains("written anew"), "{alteration}: {said}");
        let now = nft(&pod, &["list", "ruleset"]).await;
        assert!(now.contains(PLAIN), "{alteration}: {now}");
        assert!(now.contains("chain mine"), "another table is nobody's business: {now}");
    }
    let handles = nft(&pod, &["-a", "list", "chain", "inet", "squire", "outbound"]).await;
    let handle = handles.lines().find(|line| line.contains("skuid")).unwrap();
    let handle = handle.rsplit(' ').next().unwrap();
    let swap = format!("replace rule inet squire outbound handle {handle} meta skuid 2103 return");
    nft(&pod, &[&swap]).await;
    assert!(
        succeeds(&pod, &[]).await.contains("written anew"),
        "one number was changed"
    );

    // Other exclusions are another set of rules.
    assert!(succeeds(&pod, &["--exclude-uids", "5"]).await.contains("written anew"));
    assert!(succeeds(&pod, &["--undo"]).await.contains("gone"));
    assert!(
        !nft(&pod, &["list", "ruleset"]).await.contains("squire"),
        "nothing is left"
    );
    assert!(succeeds(&pod, &["--undo"]).await.contains("no rules"));
}

/// A root directory as of an image built from scratch: the program, and the libraries that the linker of this build has
/// named in it. No shell, no tool.
async fn scratch() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("proc")).unwrap();
    let program = binary("squire-proxy");
    std::fs::copy(&program, root.path().join("squire-proxy")).unwrap();
    let linked = tokio::process::Command::new("ldd")
        .arg(&program)
        .output()
        .await
        .unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.path().join(&library[1..]);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(library, place).unwrap();
    }
    root
}

#[tokio::test]
async fn an_image_that_holds_nothing_but_the_program_is_enough() {
    if !namespace::possible() {
        return;
    }
    let (pod, root) = (Namespace::new(), scratch().await);
    let there = async |arguments: &[&str]| {
        // Every container has /proc; this one ends with the mount namespace that `ip netns exec` makes.
        let enter = "mount -t proc proc \"$1/proc\" && exec chroot \"$@\"";
        let mut command = pod.command("sh");
        command.args(["-c", enter, "sh"]).arg(root.path());
        command.args(["/squire-proxy", "redirect"]).args(arguments);
        let output = in_time("redirect ends", command.output()).await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    there(&[]).await;
    assert_eq!(nft(&pod, &["list", "ruleset"]).await, PLAIN);
    there(&["--check"]).await;
    there(&["--undo"]).await;
    assert_eq!(nft(&pod, &["list", "ruleset"]).await, "");
}

#[tokio::test]
async fn without_privileges_it_says_what_is_missing_and_nothing_changes() {
    if !namespace::possible() {
        return;
    }
    let pod = Namespace::new();
    for arguments in [&[][..], &["--undo"], &["--check"]] {
        let mut command = pod.command_as(APP_UID, binary("squire-proxy"));
        let output = command.arg("redirect").args(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(77), "{arguments:?}: {said}");
        assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    }
    assert_eq!(nft(&pod, &["list", "ruleset"]).await, "");
    // CAP_NET_ADMIN alone is enough to write, and to prove it CAP_NET_RAW is needed too.
    let capable = |capabilities: &'static str| pod.command_with(APP_UID, capabilities, binary("squire-proxy"));
    let reading = "+net_admin,+dac_override,+dac_read_search";
    let output = capable(reading).arg("redirect").output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = capable(reading).args(["redirect", "--check"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("CAP_NET_RAW"));
    let both = "+net_admin,+net_raw,+dac_override,+dac_read_search";
    let output = capable(both).args(["redirect", "--check"]).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_machines_own_connections_are_not_redirected_unless_that_is_asked_for() {
    if !namespace::possible() {
        return;
    }
    // Sysctls of the whole kernel are seen in its first network namespace alone. Where tests run in a container this is
    // none, and nothing can be told; without a capability nothing is written in either case.
    let first = std::path::Path::new("/proc/sys/net/core/netdev_max_backlog").exists();
    let here = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new("setpriv");
        command.args([
            "--reuid",
            &APP_UID.to_string(),
            "--clear-groups",
            "--bounding-set",
            "-net_admin",
        ]);
        let reading = "+dac_override,+dac_read_search";
        command.args(["--inh-caps", reading, "--ambient-caps", reading, "--"]);
        command.arg(binary("squire-proxy")).arg("redirect").args(arguments);
        let output = command.output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = here(&[]).await;
    assert_eq!(code, if first { 78 } else { 77 }, "{said}");
    assert_eq!(first, said.contains("--whole-machine"), "{said}");
    let (code, said) = here(&["--whole-machine"]).await;
    assert_eq!(code, 77, "then it is only the privilege that is missing: {said}");
    succeeds(&Namespace::new(), &[]).await;
}

#[tokio::test]
async fn the_check_tells_what_is_redirected_from_what_is_not_and_leaves_nothing_behind() {
    if !namespace::possible() {
        return;
    }
    let pod = Namespace::new();
    let interfaces = async || {
        let output = pod.command("ip").args(["-o", "link"]).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    let found = async |arguments: &[&str]| {
        let output = redirect(&pod, &[&["--check"], arguments].concat()).await;
        let text = [output.stdout, output.stderr].concat();
        assert_eq!(interfaces().await, 1, "loopback alone");
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let all = |text: &str, says: &str| text.matches(says).count();

    let (code, text) = found(&[]).await;
    assert_eq!((code, all(&text, ": NOT redirected")), (1, 4), "{text}");
    succeeds(&pod, &[]).await;
    let (code, text) = found(&[]).await;
    assert_eq!((code, all(&text, ": redirected")), (0, 4), "{text}");
    nft(&pod, &["flush chain inet squire outbound"]).await;
    let (code, text) = found(&[]).await;
    assert_eq!((code, all(&text, ": NOT redirected")), (1, 2), "{text}");
    assert!(
        text.contains("inbound IPv4: redirected") && text.contains("outbound IPv6: NOT"),
        "{text}"
    );
    succeeds(&pod, &[]).await;
    nft(&pod, &["insert rule inet squire inbound meta nfproto ipv6 return"]).await;
    let (code, text) = found(&[]).await;
    assert_eq!((code, all(&text, "inbound IPv6: NOT redirected")), (1, 1), "{text}");

    let excluding = ["--exclude-inbound-ports=1-65535", "--exclude-outbound-cidrs=0.0.0.0/0"];
    succeeds(&pod, &excluding).await;
    let (code, text) = found(&excluding).await;
    assert_eq!((code, all(&text, "everything is excluded")), (0, 3), "{text}");
    succeeds(&pod, &[]).await;
    // A packet filter that swallows what was redirected: neither proved nor disproved is not proved.
    nft(&pod, &["add table inet f; add chain inet f c { type filter hook input priority 0; }; add rule inet f c tcp dport 15006 drop"]).await;
    let (code, text) = found(&[]).await;
    assert_eq!((code, all(&text, "NOT proved")), (1, 2), "{text}");
    nft(&pod, &["delete table inet f"]).await;
    pod.run(&[
        "sysctl",
        "-qw",
        "net.ipv6.conf.all.disable_ipv6=1",
        "net.ipv6.conf.default.disable_ipv6=1",
    ]);
    let (code, text) = found(&[]).await;
    assert_eq!(
        (code, all(&text, ": redirected"), all(&text, "not in use")),
        (0, 2, 2),
        "{text}"
    );

    let mut excluded = pod.command_with(PROXY_UID, "+net_admin,+net_raw,+dac_override", binary("squire-proxy"));
    let output = excluded.args(["redirect", "--check"]).output().await.unwrap();
    assert_eq!(
        output.status.code(),
        Some(2),
        "the sidecar's own user proves nothing: {output:?}"
    );
}

/// A pod whose sidecar is a pair of listeners, its application, and somebody else on the network.
struct Stage<'c> {
    pod: &'c ClusterPod<'c>,
    other: &'c ClusterPod<'c>,
    _servers: [Process; 2],
}

impl<'c> Stage<'c> {
    async fn set(pod: &'c ClusterPod<'c>, other: &'c ClusterPod<'c>) -> Self {
        let words = "-c\n15001\noutbound\n15006\ninbound\n15020\nadmin\n8080\napp\n8081\napp";
        let arguments: Vec<&str> = words.split('\n').collect();
        let arguments = [&arguments[..1], &[SAYING], &arguments[1..]].concat();
        let direct = ["-c", SAYING, "80", "direct", "81", "direct"];
        Self {
            pod,
            other,
            _servers: [
                pod.serves(8081, "python3", &arguments).await,
                other.serves(81, "python3", &direct).await,
            ],
        }
    }

    /// What the pod hears from elsewhere.
    async fn hears(&self, host: &str, port: &str) -> String {
        hears(self.pod, APP_UID, &[host, port]).await
    }

    /// What the other one hears from the pod.
    async fn is_heard(&self, host: &str, port: &str) -> String {
        hears(self.other, APP_UID, &[host, port]).await
    }
}

async fn hears(who: &ClusterPod<'_>, uid: u32, arguments: &[&str]) -> String {
    let mut command = who.namespace().command_as(uid, "python3");
    command.args(["-c", HEARING]).args(arguments).stdin(Stdio::null());
    let output = in_time("the client ends", command.output()).await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn everything_goes_through_the_sidecar_but_what_is_its_own_or_stays_in_the_pod_or_is_excluded() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::new());
    let (pod, other) = (cluster.stranger("pod"), cluster.stranger("other"));
    let stage = Stage::set(&pod, &other).await;
    succeeds(pod.namespace(), &[]).await;

    for (mine, theirs) in pod.addresses().iter().zip(&other.addresses()) {
        assert_eq!(stage.hears(theirs, "80").await, "outbound");
        assert_eq!(stage.hears(theirs, "9999").await, "outbound", "nobody listens there");
        assert_eq!(
            hears(&pod, PROXY_UID, &[theirs, "80"]).await,
            "direct",
            "the sidecar's own"
        );
        assert_eq!(stage.hears(mine, "8080").await, "app", "the pod's own address");
        assert_eq!(
            hears(&pod, PROXY_UID, &[mine, "8080"]).await,
            "app",
            "the sidecar reaches the application"
        );
        assert_eq!(stage.is_heard(mine, "8080").await, "inbound");
        assert_eq!(
            stage.is_heard(mine, "15001").await,
            "inbound",
            "the sidecar's ports too"
        );
        assert_eq!(stage.is_heard(mine, "15020").await, "admin");
        assert_eq!(hears(&pod, APP_UID, &[theirs, "80", "udp"]).await, "direct", "UDP");
        assert_eq!(hears(&other, APP_UID, &[mine, "8080", "udp"]).await, "app", "UDP");
        for (from, to) in [(&pod, theirs), (&other, mine)] {
            from.namespace().run(&["ping", "-q", "-c", "1", "-W", "20", to]);
        }
    }
    for loopback in ["127.0.0.1", "127.9.9.9", "::1"] {
        assert_eq!(stage.hears(loopback, "8080").await, "app");
    }

    let network = format!("{}/128", other.v6());
    let excluding = [
        "--exclude-inbound-ports=8080",
        "--exclude-outbound-ports=80",
        "--exclude-uids=1001",
    ];
    succeeds(
        pod.namespace(),
        &[&excluding[..], &["--exclude-outbound-cidrs", &network]].concat(),
    )
    .await;
    assert_eq!(stage.is_heard(&pod.v4(), "8080").await, "app");
    assert_eq!(stage.is_heard(&pod.v6(), "8080").await, "app");
    assert_eq!(stage.is_heard(&pod.v4(), "8081").await, "inbound");
    assert_eq!(stage.hears(&other.v4(), "80").await, "direct");
    assert_eq!(stage.hears(&other.v4(), "81").await, "outbound");
    assert_eq!(stage.hears(&other.v6(), "81").await, "direct");
    assert_eq!(hears(&pod, 1001, &[&other.v4(), "81"]).await, "direct");

    succeeds(pod.namespace(), &["--undo"]).await;
    assert_eq!(stage.hears(&other.v4(), "81").await, "direct");
    assert_eq!(stage.is_heard(&pod.v6(), "8081").await, "app");
}
