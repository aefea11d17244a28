//! Two meshes with a control plane each, which trust each other's bundles: calls across, who may not, who must not, and how a
//! change of one mesh's bundle reaches the other.

use std::{fs, path::PathBuf, process::Stdio};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use squire_tests::{Mesh, Sidecar, apps, eventually, forge::Forge, in_time, require, tls};
use tokio::process::Command;

/// The other mesh's trust domain.
const PARTNER: &str = "partner.example";

/// Two meshes that are not running yet, and the certificate of a bundle endpoint as the web knows it.
struct Meshes {
    ours: Mesh,
    theirs: Mesh,
    web_root: String,
    web_files: [PathBuf; 2],
}

impl Meshes {
    async fn new() -> Self {
        let (ours, theirs) = (Mesh::strict(), Mesh::strict().in_domain(PARTNER));
        let root = CertifiedIssuer::self_signed(
            {
                let mut params = CertificateParams::default();
                params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params
            },
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // Not the root's name: openssl would take it for self-signed.
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "bundle endpoint");
        params.subject_alt_names = vec![SanType::IpAddress(theirs.endpoint(1).ip())];
        let issuer =
            Issuer::from_ca_cert_der(root.der(), KeyPair::from_pem(&root.key().serialize_pem()).unwrap()).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let web_files = ["web.pem", "web.key"].map(|name| theirs.dir().join(name));
        fs::write(&web_files[0], leaf.pem()).unwrap();
        fs::write(&web_files[1], key.serialize_pem()).unwrap();
        Self {
            web_root: root.pem(),
            web_files,
            ours,
            theirs,
        }
    }

    /// Starts both control planes, each with its bundle endpoints.
    async fn start(&self) {
        let theirs = &self.theirs;
        let (spiffe, web) = (theirs.endpoint(8443).to_string(), theirs.endpoint(8444).to_string());
        let [cert, key] = self.web_files.each_ref().map(|file| file.to_str().unwrap());
        let all = [
            "--bundle-endpoint",
            &spiffe,
            "--bundle-endpoint-web",
            &web,
            "--bundle-endpoint-cert",
            cert,
            "--bundle-endpoint-key",
            key,
            "--bundle-refresh-hint",
            "1",
        ];
        theirs.start_with(&all).await;
        let spiffe = self.ours.endpoint(8443).to_string();
        self.ours
            .start_with(&["--bundle-endpoint", &spiffe, "--bundle-refresh-hint", "1"])
            .await;
    }

    /// Lets `mesh` federate with the other one by `https_spiffe`.
    async fn trust_by_spiffe(&self, mesh: &Mesh, other: &Mesh) {
        let bundle = squire(other, &["ca", "bundle", "--dir", "ca", "--format", "spiffe"]).await;
        let entry = json!({
            "trustDomain": other.domain(), "url": format!("https://{}/", other.endpoint(8443)), "profile": "https_spiffe",
            "endpointSpiffeId": format!("spiffe://{}/ns/squire-system/sa/squire-control", other.domain()),
            "bundle": bundle,
        });
        federate(mesh, &[entry]);
    }

    /// Lets our mesh federate with theirs by `https_web`.
    fn trust_by_web(&self) {
        let entry = json!({
            "trustDomain": PARTNER, "url": format!("https://{}/", self.theirs.endpoint(8444)), "profile": "https_web",
            "webRoots": self.web_root,
        });
        federate(&self.ours, &[entry]);
    }
}

fn federate(mesh: &Mesh, entries: &[Value]) {
    let settings = json!({"apiVersion": "squire.mesh/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
                          "spec": {"federation": entries}});
    // YAML is a superset of JSON.
    mesh.write("mesh.yaml", &settings.to_string());
}

async fn squire(mesh: &Mesh, arguments: &[&str]) -> String {
    let output = mesh.squire(arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a sidecar trusts a domain by exactly so many roots and keys; their IDs.
async fn trusts(sidecar: &Sidecar, domain: &str) -> Value {
    eventually(&format!("a sidecar trusts {domain}"), async || {
        let (_, page) = sidecar.page("/config").await;
        let bundles = page["bundles"]["domains"].as_array()?.clone();
        bundles.into_iter().find(|bundle| bundle["trustDomain"] == domain)
    })
    .await
}

/// What a mesh holds of the other one, once it was fetched.
async fn held(mesh: &Mesh, fits: impl Fn(&Value) -> bool) -> Value {
    eventually("a bundle is held that fits", async || {
        let page = mesh.page("/debug/federation").await;
        page.as_array()?.iter().find(|held| fits(held)).cloned()
    })
    .await
}

/// Makes the database of `ours` known to `theirs`.
fn known_across(ours: &Mesh, theirs: &Mesh) {
    theirs.write(
        "db-of-ours.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: db, namespace: shop, annotations: \
             {{squire.mesh/transport: squire, squire.mesh/trust-domain: {}}}}}\nspec: {{address: {}, serviceAccount: db}}\n",
            ours.domain(),
            ours.address("db"),
        ),
    );
}

/// Our database lets only their `web` in.
fn allow_their_web(ours: &Mesh) {
    ours.write(
        "only-their-web.yaml",
        &format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: only-their-web, namespace: shop}}\nspec:\n  \
             selector: {{matchLabels: {{app: db}}}}\n  rules: [{{from: [{{source: {{principals: ['{PARTNER}/ns/shop/sa/web']}}}}]}}]\n"
        ),
    );
}

#[tokio::test]
async fn a_workload_of_a_federated_mesh_gets_what_policy_allows_its_principal_and_a_forged_one_nothing() {
    let meshes = Meshes::new().await;
    let (ours, theirs) = (&meshes.ours, &meshes.theirs);
    let echo = apps::echo().await;
    let db = ours.pod("db").serves(5432, echo.address());
    let local = ours.pod("web").reaches("db:5432");
    let target = format!("{}:5432", ours.address("db"));
    let (web, batch) = (theirs.pod("web").reaches(&target), theirs.pod("batch").reaches(&target));
    allow_their_web(ours);
    known_across(ours, theirs);
    meshes.start().await;
    let (db, local, web, batch) = tokio::join!(db.start(), local.start(), web.start(), batch.start());

    // Strangers: neither side can verify the other.
    assert!(apps::echoes(web.to(&target)).await.is_err());
    meshes.trust_by_spiffe(ours, theirs).await;
    meshes.trust_by_spiffe(theirs, ours).await;
    trusts(&db, PARTNER).await;
    trusts(&web, ours.domain()).await;
    trusts(&batch, ours.domain()).await;
    let mut call = eventually("a call across is possible", async || {
        apps::echoes(web.to(&target)).await.ok()
    })
    .await;
    apps::round_trip(&mut call, b"hello across").await.unwrap();
    let line = eventually("it is seen", async || {
        let live = db.connections().await;
        live.into_iter().find(|live| live["source"] == theirs.id("web"))
    })
    .await;
    assert_eq!(line["destination"], ours.id("db"));

    // Policy speaks of principals with their trust domain: the same account of our own mesh is another one.
    assert!(apps::echoes(batch.to(&target)).await.is_err());
    db.logged(&[("outcome", "denied"), ("source", &theirs.id("batch"))])
        .await;
    assert!(apps::echoes(local.to("db:5432")).await.is_err());
    db.logged(&[("outcome", "denied"), ("source", &ours.id("web"))]).await;

    // Each CA speaks for its own trust domain, however well it signs.
    for (forge, forged) in [(Forge::of(theirs), ours.id("web")), (Forge::of(ours), theirs.id("web"))] {
        let shown = forge.sign(&forged, |_| {});
        assert!(tls::echoes(db.inbound(5432), Some(&shown)).await.is_err(), "{forged}");
    }
    let refused = [("role", "server"), ("reason", "unknown_issuer")];
    assert!(db.figure("squire_handshake_failures_total", &refused).await >= 2.0);
    let honest = Forge::of(theirs).sign(&theirs.id("web"), |_| {});
    tls::echoes(db.inbound(5432), Some(&honest)).await.unwrap();

    // No longer federated with: what is open is cut, and nothing new comes about.
    ours.remove("mesh.yaml");
    let mut byte = [0; 1];
    let end = in_time("it is cut", tokio::io::AsyncReadExt::read(&mut call, &mut byte)).await;
    assert!(!matches!(end, Ok(1)), "{end:?}");
    db.logged(&[("outcome", "cut_untrusted"), ("source", &theirs.id("web"))])
        .await;
    assert!(apps::echoes(web.to(&target)).await.is_err());
}

#[tokio::test]
async fn a_change_of_a_bundle_reaches_the_other_mesh_by_either_profile_and_the_last_good_one_outlives_both_control_planes()
 {
    let meshes = Meshes::new().await;
    let (ours, theirs) = (&meshes.ours, &meshes.theirs);
    let db = ours.pod("db");
    meshes.trust_by_web();
    meshes.start().await;
    let db = db.start().await;
    let by_web = held(ours, |held| held["seen"].is_u64()).await;
    let first = squire(theirs, &["ca", "rotate-jwt-key", "--dir", "ca"]).await;
    let has = |held: &Value, kid: &str| held["jwt_keys"].as_array().unwrap().iter().any(|key| key == kid.trim());
    let second = held(ours, |held| has(held, &first)).await;
    assert!(second["sequence"].as_u64() > by_web["sequence"].as_u64());

    meshes.trust_by_spiffe(ours, theirs).await;
    let next = squire(theirs, &["ca", "rotate-jwt-key", "--dir", "ca"]).await;
    held(ours, |held| has(held, &next)).await;
    eventually("its age is a figure", async || {
        let labels = [("trust_domain", PARTNER)];
        let figures = ours.figures().await;
        let fetched = figures.sum("squire_federation_bundle_fetched_timestamp_seconds", &labels);
        (fetched > 1.7e9).then_some(())
    })
    .await;

    // Their control plane is gone: what was fetched last stays, and so it does when ours starts again.
    let roots = trusts(&db, PARTNER).await["roots"].clone();
    theirs.kill_control().await;
    held(ours, |held| held["failure"].is_string()).await;
    ours.kill_control().await;
    ours.start().await;
    let kept = held(ours, |held| held["failure"].is_string()).await;
    assert!(has(&kept, &next), "{kept}");
    eventually("the sidecar has followed the new control plane", async || {
        (db.figure("squire_control_connected", &[]).await == 1.0).then_some(())
    })
    .await;
    assert_eq!(trusts(&db, PARTNER).await["roots"], roots);
}

#[tokio::test]
async fn curl_gets_our_bundle_as_a_document_and_an_endpoint_that_is_not_whom_it_should_be_is_refused() {
    let meshes = Meshes::new().await;
    let (ours, theirs) = (&meshes.ours, &meshes.theirs);
    meshes.start().await;
    let root = theirs.dir().join("web-root.pem");
    fs::write(&root, &meshes.web_root).unwrap();
    let get = async |url: String, root: &str| {
        let mut command = Command::new(require("curl").path());
        command
            .args(["-sS", "--fail", "--cacert", root, &url])
            .stderr(Stdio::null());
        let output = in_time("curl ends", command.output()).await.unwrap();
        output
            .status
            .success()
            .then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let web = format!("https://{}/", theirs.endpoint(8444));
    let document = get(web.clone(), root.to_str().unwrap()).await.unwrap();
    assert_eq!(document["spiffe_refresh_hint"], 1);
    let uses: Vec<_> = document["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["use"].clone())
        .collect();
    assert_eq!(uses, ["x509-svid", "jwt-svid"]);
    assert!(get(format!("{web}elsewhere"), root.to_str().unwrap()).await.is_none());
    let spiffe = format!("https://{}/", theirs.endpoint(8443));
    assert!(
        get(spiffe, root.to_str().unwrap()).await.is_none(),
        "an SVID is no certificate of the web"
    );

    // The endpoint of https_spiffe has to be exactly whom the settings name, under that trust domain's bundle.
    let bundle = squire(theirs, &["ca", "bundle", "--dir", "ca", "--format", "spiffe"]).await;
    let stranger = squire(ours, &["ca", "bundle", "--dir", "ca", "--format", "spiffe"]).await;
    let entry = |id: &str, bundle: &str, domain: &str| {
        json!({"trustDomain": domain, "url": format!("https://{}/", theirs.endpoint(8443)), "profile": "https_spiffe",
               "endpointSpiffeId": id, "bundle": bundle})
    };
    let control = format!("spiffe://{PARTNER}/ns/squire-system/sa/squire-control");
    let other = format!("spiffe://{PARTNER}/ns/squire-system/sa/somebody");
    federate(ours, &[entry(&other, &bundle, PARTNER)]);
    let refused = held(ours, |held| held["failure"].is_string()).await;
    assert!(refused["failure"].as_str().unwrap().contains("somebody"), "{refused}");
    federate(ours, &[entry(&control, &bundle, PARTNER)]);
    held(ours, |held| held["failure"].is_null() && held["seen"].is_u64()).await;

    // A bundle whose roots name another trust domain is nobody's.
    federate(ours, &[entry(&control, &stranger, PARTNER)]);
    eventually("it is a problem", async || {
        let page = ours.page("/debug/problems").await;
        page.to_string()
            .contains("carries only the ID of its own trust domain")
            .then_some(())
    })
    .await;
    held(ours, |held| held["trust_domain"] == PARTNER && held["seen"].is_u64()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_rotates_its_root_while_its_workloads_call_ours_and_none_of_the_calls_fails() {
    let meshes = Meshes::new().await;
    let (ours, theirs) = (&meshes.ours, &meshes.theirs);
    let echo = apps::echo().await;
    let db = ours.pod("db").serves(5432, echo.address());
    let target = format!("{}:5432", ours.address("db"));
    let web = theirs.pod("web").reaches(&target);
    allow_their_web(ours);
    known_across(ours, theirs);
    meshes.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    meshes.trust_by_spiffe(ours, theirs).await;
    meshes.trust_by_spiffe(theirs, ours).await;
    let before = trusts(&db, PARTNER).await["roots"].clone();
    trusts(&web, ours.domain()).await;
    eventually("a call across is possible", async || {
        apps::echoes(web.to(&target)).await.ok()
    })
    .await;

    let to = web.to(&target);
    let calls = tokio::spawn(async move {
        let mut made = 0_u32;
        loop {
            apps::echoes(to).await.unwrap();
            made += 1;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            if made == u32::MAX {
                return;
            }
        }
    });
    squire(theirs, &["ca", "rotate", "--dir", "ca"]).await;
    let waiting = squire(theirs, &["ca", "status", "--dir", "ca"]).await;
    assert!(waiting.contains("other meshes to have fetched the bundle"), "{waiting}");
    let watched = squire(theirs, &["ca", "rotate", "--watch", "--dir", "ca"]).await;
    for phase in ["distribute", "switch", "retire", "stable"] {
        assert!(watched.contains(phase), "{watched}");
    }
    eventually("ours trusts the new root alone", async || {
        let now = trusts(&db, PARTNER).await["roots"].clone();
        let roots = now.as_array()?.len();
        (roots == 1 && now != before).then_some(())
    })
    .await;
    apps::echoes(web.to(&target)).await.unwrap();
    if calls.is_finished() {
        let bad = [&db, &web].map(|sidecar| {
            let lines = sidecar.access_log().into_iter();
            lines.filter(|line| line["outcome"] != "complete").collect::<Vec<_>>()
        });
        panic!("a call across has failed: {bad:#?}");
    }
    calls.abort();
    for sidecar in [&db, &web] {
        for reason in ["unknown_issuer", "bad_signature"] {
            let labels = [("reason", reason)];
            assert_eq!(
                sidecar.figure("squire_handshake_failures_total", &labels).await,
                0.0,
                "{reason}"
            );
        }
    }
}
