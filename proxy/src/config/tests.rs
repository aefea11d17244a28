//! The configuration as people write it: complete ones, and each way to get it wrong.

use std::{collections::BTreeSet, io::Write as _};

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = "\
workload: shop/web-0
trustDomain: cluster.local
trustBundle: root.pem
token: token
control: squire-control.squire-system:15012
";

fn load(text: &str) -> Result<Config, Problems> {
    load_with(text, &[], &[])
}

fn load_with(text: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, Problems> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(&Sources {
        file: Some(file.path().to_owned()),
        environment: environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        flags: flags.iter().map(|f| (*f).to_owned()).collect(),
    })
}

/// Each problem, with its line instead of the temporary file's name.
fn problems(text: &str) -> Vec<String> {
    let found = load(text).expect_err("the configuration is wrong");
    let place = |p: &Problem| match &p.place {
        tree::Place::Line(_, line) => format!("line {line}"),
        tree::Place::File(_) => "file".to_owned(),
        other => other.to_string(),
    };
    found
        .iter()
        .map(|p| format!("{}: {}: {}; {}", place(p), p.path, p.what, p.fix))
        .collect()
}

#[test]
fn a_minimal_configuration_has_the_documented_defaults() {
    let config = load(MINIMAL).unwrap();
    assert_eq!(
        config.mode,
        Mode::Transparent {
            inbound: 15006,
            outbound: 15001
        }
    );
    assert_eq!(
        config.control.id.to_string(),
        "spiffe://cluster.local/ns/squire-system/sa/squire-control"
    );
    assert_eq!(config.ca, config.control);
    assert_eq!(config.admin, "127.0.0.1:15020".parse().unwrap());
    assert_eq!(config.limits.max_connections, 100_000);
    assert_eq!(config.limits.max_pending_handshakes, 4_096);
    assert_eq!(config.limits.handshake_timeout, Duration::from_secs(5));
    assert_eq!(config.pool.ready, 2);
    assert_eq!(config.drain_grace, Duration::from_secs(30));
    assert_eq!(config.svid_lifetime, Duration::from_secs(3600));
    assert_eq!(config.access_log, AccessLog::Stdout);
    assert_eq!(config.bind_source, None);
}

#[test]
fn explicit_listeners_are_read_in_both_families() {
    let config = load(&format!(
        "{MINIMAL}inbound:\n- listen: 127.10.0.1:5432\n  app: 127.0.0.1:15432\n- {{listen: '[::1]:0', app: '[::1]:80', \
         port: 80}}\noutbound:\n- listen: 127.0.0.1:15432\n  to: db.shop:5432\n- listen: 127.0.0.1:9\n  to: \
         10.0.0.9:9\nbindSource: 127.10.0.1\n"
    ))
    .unwrap();
    let Mode::Explicit { inbound, outbound } = config.mode else {
        panic!("explicit")
    };
    assert_eq!(inbound[0].port, 5432);
    assert_eq!((inbound[1].listen, inbound[1].port), ("[::1]:0".parse().unwrap(), 80));
    assert_eq!(
        outbound[0].to,
        HostPort {
            host: Host::Name("db.shop".into()),
            port: 5432
        }
    );
    assert_eq!(
        outbound[1].to,
        HostPort {
            host: Host::Ip("10.0.0.9".parse().unwrap()),
            port: 9
        }
    );
    assert_eq!(config.bind_source, Some("127.10.0.1".parse().unwrap()));
}

#[test]
fn environment_wins_over_file_and_flags_win_over_both() {
    let config = load_with(
        MINIMAL,
        &[
            ("SQUIRE_PROXY_WORKLOAD", "shop/from-env"),
            ("SQUIRE_PROXY_LIMITS_MAX_CONNECTIONS", "7"),
            ("SQUIRE_PROXY_SERVICE_HOST", "10.0.0.1"),
            ("SQUIRE_PROXY_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ],
        &["workload=shop/from-flag", "drain.grace=1m30s"],
    )
    .unwrap();
    assert_eq!(config.workload.as_str(), "shop/from-flag");
    assert_eq!(config.limits.max_connections, 7);
    assert_eq!(config.drain_grace, Duration::from_secs(90));
}

#[test]
fn everything_can_come_from_the_environment() {
    let environment = MINIMAL.lines().map(|line| {
        let (key, value) = line.split_once(": ").unwrap();
        (
            SETTINGS.iter().find(|s| s.path == key).unwrap().variable(),
            value.to_owned(),
        )
    });
    let config = Config::load(&Sources {
        file: None,
        environment: environment.collect(),
        flags: vec![],
    })
    .unwrap();
    assert_eq!(config, load(MINIMAL).unwrap());
}

#[test]
fn all_problems_show_at_once_each_with_its_line() {
    let text = "\
workload: web
trustDomain: Cluster_Local!
trustBundle: root.pem
control: control
limits:
  maxConection: 5
  handshakeTimeout: 5
colour: blue
inbound:
- listen: localhost:1
  app: 127.0.0.1:2
";
    let found = problems(text);
    let expected_starts = [
        "line 1: workload: \"web\": ",
        "line 2: trustDomain: \"Cluster_Local!\": ",
        "file: token: is missing; write a path",
        "line 4: control: \"control\": no port; write host:port",
        "line 10: inbound[0].listen: \"localhost:1\": ",
        "line 7: limits.handshakeTimeout: \"5\": not a duration; write a duration such as",
        "line 6: limits.maxConection: unknown key; did you mean \"maxConnections\"?",
        "line 8: colour: unknown key; known keys here: workload, trustDomain",
    ];
    assert_eq!(found.len(), expected_starts.len(), "{found:#?}");
    for start in expected_starts {
        assert!(found.iter().any(|p| p.starts_with(start)), "{start}\nnot in {found:#?}");
    }
}

#[test]
fn each_mistake_is_named_where_it_was_made() {
    let cases = [
        (
            "mode: explicit\n",
            "mode: is explicit, but neither inbound nor outbound is given",
        ),
        (
            "mode: transparent\noutbound: []\n",
            "mode: is transparent, but explicit listeners are given",
        ),
        (
            "mode: both\n",
            "mode: \"both\": not a mode; write explicit or transparent",
        ),
        ("inboundPort: 15001\n", "outboundPort: 15001 is the inboundPort too"),
        ("inbound: 5\n", "inbound: should be a list"),
        ("limits: 5\n", "limits: should be a map"),
        ("admin: [1]\n", "admin: should be a single value"),
        ("admin: 15020\n", "admin: \"15020\": "),
        ("limits: {maxConnections: 0}\n", "limits.maxConnections: \"0\": "),
        ("svid: {lifetime: 25h}\n", "svid.lifetime: 90000s is out of range"),
        ("log: {level: loud}\n", "log.level: \"loud\": "),
        ("log: {format: xml}\n", "log.format: \"xml\": not a log format"),
        ("accessLog: std\n", "accessLog: \"std\": not a target"),
        (
            "identity: spiffe://other/ns/a/sa/b\n",
            "identity: spiffe://other/ns/a/sa/b is not in trust domain",
        ),
        ("controlId: nobody\n", "controlId: \"nobody\": "),
        (
            "inbound:\n- {listen: '127.0.0.1:0', app: '127.0.0.1:80'}\n",
            "inbound[0].port: is missing",
        ),
        (
            "inbound:\n- {listen: '127.0.0.1:15020', app: '127.0.0.1:80'}\n",
            "inbound[0].listen: 127.0.0.1:15020 is taken by admin",
        ),
        (
            "outbound:\n- {listen: '127.0.0.1:1', to: 'db.shop'}\n",
            "outbound[0].to: \"db.shop\": no port",
        ),
        (
            "outbound:\n- {listen: '127.0.0.1:1', to: '999.1.1.1:1'}\n",
            "outbound[0].to: \"999.1.1.1:1\": the host looks",
        ),
        ("token: other\n", "key \"token\" is given twice"),
        ("a: &x 1\n", "anchors, aliases and tags"),
        ("---\nb: 1\n", "a second document"),
        ("a: [1\n", "not valid YAML"),
    ];
    for (addition, expected) in cases {
        let found = problems(&format!("{MINIMAL}{addition}"));
        assert_eq!(found.len(), 1, "{addition}: {found:?}");
        assert!(found[0].contains(expected), "{addition}: {found:?}");
        assert!(
            found[0].starts_with("line ") || found[0].starts_with("file"),
            "{addition}: {found:?}"
        );
    }
}

#[test]
fn a_sidecar_subscribes_to_everything_unless_it_is_told_otherwise_and_to_no_fewer_selectors_than_it_needs() {
    let all = load(MINIMAL).unwrap().subscription;
    assert_eq!((all.mode, all.max_selectors), (SubscriptionMode::All, 20_000));
    let text = format!("{MINIMAL}subscription: {{mode: on-demand, timeout: 2s, keep: 1m, maxSelectors: 64}}\n");
    let expected = Subscription {
        mode: SubscriptionMode::OnDemand,
        timeout: Duration::from_secs(2),
        keep: Duration::from_secs(60),
        max_selectors: 64,
    };
    assert_eq!(load(&text).unwrap().subscription, expected);
    assert_eq!(
        problems(&format!("{MINIMAL}subscription: {{mode: some, maxSelectors: 63}}\n")),
        [
            "line 6: subscription.mode: \"some\": not a way to subscribe; write all or on-demand",
            "line 6: subscription.maxSelectors: 63 is too few; write 64 or more",
        ]
    );
}

#[test]
fn a_bare_address_is_no_workload_of_a_sidecar() {
    let found = problems(&MINIMAL.replace("shop/web-0", "shop/address/10.0.0.1"));
    assert!(found[0].contains("a bare address has no sidecar"), "{found:?}");
}

#[test]
fn a_file_that_is_not_there_is_one_problem() {
    let sources = Sources {
        file: Some("/nonexistent/proxy.yaml".into()),
        ..Sources::default()
    };
    let found = Config::load(&sources).expect_err("no file").to_string();
    assert!(
        found.starts_with("1 problem in the configuration:\n  /nonexistent/proxy.yaml: cannot be read: "),
        "{found}"
    );
}

#[test]
fn unknown_variables_and_flags_are_refused_with_a_hint() {
    let found = load_with(
        MINIMAL,
        &[("SQUIRE_PROXY_WORKLOD", "x")],
        &["limit.maxConnections=1", "mode"],
    )
    .expect_err("unknown")
    .to_string();
    assert!(
        found.contains("SQUIRE_PROXY_WORKLOD: no such key; did you mean SQUIRE_PROXY_WORKLOAD?"),
        "{found}"
    );
    assert!(found.contains("did you mean \"limits.maxConnections\"?"), "{found}");
    assert!(found.contains("--set mode: has no value"), "{found}");
}

#[test]
fn the_reference_names_exactly_the_keys_that_are_read() {
    // Set every documented key to a value that no key takes: each has to be complained about, none as unknown.
    let flags: Vec<String> = SETTINGS.iter().map(|s| format!("{}=\u{1}", s.path)).collect();
    let found = Config::load(&Sources {
        file: None,
        environment: vec![],
        flags,
    })
    .expect_err("all wrong");
    let unread: Vec<_> = found
        .iter()
        .filter(|p| p.what == "unknown key")
        .map(|p| p.path.as_str())
        .collect();
    assert_eq!(unread, Vec::<&str>::new(), "documented but not read");
    let complained: BTreeSet<&str> = found.iter().map(|p| p.path.as_str()).collect();
    let paths_always_right = ["trustBundle", "token", "workloadApi.socket"];
    let documented: BTreeSet<&str> = SETTINGS
        .iter()
        .map(|s| s.path)
        .filter(|p| !paths_always_right.contains(p))
        .collect();
    assert_eq!(complained, documented);
}

#[test]
fn the_documented_defaults_are_the_real_ones() {
    let flags: Vec<String> = SETTINGS
        .iter()
        .filter(|s| !s.default.is_empty())
        .map(|s| format!("{}={}", s.path, s.default))
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(load_with(MINIMAL, &[], &flags).unwrap(), load(MINIMAL).unwrap());
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn no_value_makes_the_reader_panic(index in 0..SETTINGS.len(), value in "[ -~]{0,40}") {
        let flag = format!("{}={value}", SETTINGS[index].path);
        let _ = load_with(MINIMAL, &[], &[&flag]);
    }

    #[test]
    fn host_and_port_survive_printing(host in "[a-z][a-z0-9]{0,10}(\\.[a-z][a-z0-9]{0,10}){0,3}", port in 1u16..) {
        let parsed: HostPort = format!("{host}:{port}").parse().unwrap();
        prop_assert_eq!(parsed.to_string().parse::<HostPort>().unwrap(), parsed);
    }
}
