//! Who may ask the webhook. The API server shows a certificate, as `--admission-control-config-file` has it, and the injector
//! knows its CA by the value `webhookClientCa`: nobody else gets an answer, whatever else of the cluster's they hold.

use std::{fs, process::Output};

use serde_json::json;
use squire_tests::{ApiServer, in_time};
use tokio::process::Command;

use super::{
    admission::{is_injected, pod},
    world::Installed,
};

/// The API server's own.
const CALLER: Option<&str> = Some("webhook-caller");

/// Values by which the injector answers nobody but the API server.
pub(super) fn only_the_api_server(api: &ApiServer) -> String {
    let callers = fs::read_to_string(api.pki("webhook-callers.crt")).unwrap();
    json!({"webhookClientCa": callers}).to_string()
}

fn url(installed: &Installed) -> String {
    let (injector, _) = installed.node.processes("injector").remove(0);
    format!("https://{}:15017/inject", installed.node.address(&injector).unwrap())
}

pub(super) async fn are_answered_only_with_the_certificate_of_the_api_server(installed: &Installed) {
    let url = url(installed);
    let refused = async || {
        let labels = [("reason", "handshake")];
        installed
            .figure("injector", 15016, "squire_injector_refused_total", &labels)
            .await
    };
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "namespace": "shop", "resource": {"group": "", "version": "v1", "resource": "pods"},
        "object": pod("asked"),
    }});
    let review = review.to_string();
    let arguments = ["-H", "content-type: application/json", "-d", &review];
    // Nobody; the cluster's administrator; who acts for the API server towards nodes.
    for shown in [None, Some("admin"), Some("kubelet-client")] {
        let before = refused().await;
        let output = curl(installed, shown, &url, &arguments).await;
        assert!(!output.status.success(), "{shown:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "000", "{shown:?}");
        assert!(refused().await > before, "{shown:?}: counted");
    }
    let output = curl(installed, CALLER, &url, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.ends_with("200") && said.contains("JSONPatch"), "{said}");
    assert!(is_injected(&installed.admitted("shop", pod("asked")).await.unwrap()));
}

/// What is no review gets no answer, whoever sends it.
pub(super) async fn whose_request_is_no_review_are_refused_and_the_next_review_is_answered(installed: &Installed) {
    let url = url(installed);
    let large = installed.api.dir().join("large");
    std::fs::write(&large, vec![b' '; (16 << 20) + 1]).unwrap();
    let upload = format!("@{}", large.display());
    let json = "content-type: application/json";
    let another_version = r#"{"apiVersion":"admission.k8s.io/v2","kind":"AdmissionReview","request":{"uid":"u"}}"#;
    let deletion = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"DELETE","resource":{"group":"","version":"v1","resource":"pods"},"object":null}}"#;
    for (arguments, status) in [
        (vec!["-X", "GET"], "405"),
        (vec!["-H", "content-type: text/plain", "-d", "{}"], "415"),
        (vec!["-H", json, "-d", "{}"], "400"),
        (vec!["-H", json, "-d", "no JSON"], "400"),
        (vec!["-H", json, "-d", another_version], "400"),
        (vec!["-H", json, "-d", deletion], "400"),
        (vec!["-H", json, "-H", "expect:", "--data-binary", &upload], "413"),
    ] {
        let output = curl(installed, CALLER, &url, &arguments).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // An answer before all was sent may be lost with the connection.
        let lost = status == "413" && said.ends_with("000");
        assert!(lost || said.ends_with(status), "{arguments:?}: {said}");
    }
    let plaintext = curl(installed, CALLER, &url.replace("https", "http"), &["-d", "{}"]).await;
    assert!(!plaintext.status.success(), "plaintext is no review either");
    let old = curl(installed, CALLER, &url, &["--tls-max", "1.2", "-d", "{}"]).await;
    assert!(!old.status.success(), "TLS 1.3 alone");
    for reason in ["method", "content_type", "malformed", "too_large", "handshake"] {
        let labels = [("reason", reason)];
        let counted = installed
            .figure("injector", 15016, "squire_injector_refused_total", &labels)
            .await;
        assert!(counted >= 1.0, "{reason}");
    }
    for _ in 0..4 {
        assert!(is_injected(&installed.admitted("shop", pod("next")).await.unwrap()));
    }
}

/// A request from the node, with a certificate of the cluster's or with none.
async fn curl(installed: &Installed, shown: Option<&str>, url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["-sk", "--http1.1", "-w", "%{http_code}", "--max-time", "20"]);
    if let Some(name) = shown {
        command.arg("--cert").arg(installed.api.pki(&format!("{name}.crt")));
        command.arg("--key").arg(installed.api.pki(&format!("{name}.key")));
    }
    command.args(arguments).arg(url).kill_on_drop(true);
    in_time("curl", command.output()).await.unwrap()
}
