//! The webhook's certificates: renewed under creations that go on, and followed by whoever has to believe them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::json;
use squire_tests::{Signal, eventually, in_time};

use super::{
    admission::{is_injected, pod},
    world::{Installed, admitted, printed},
};

/// Creations under way while certificates change.
const STREAMS: usize = 4;
/// Times that each certificate is renewed meanwhile.
const RENEWALS: usize = 5;

pub(super) async fn change_under_a_stream_of_creations(installed: &Installed) {
    let done = Arc::new(AtomicBool::new(false));
    let created = Arc::new(AtomicUsize::new(0));
    let streams: Vec<_> = (0..STREAMS)
        .map(|number| {
            let (done, created, client) = (Arc::clone(&done), Arc::clone(&created), installed.client.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let made = admitted(&client, "shop", pod(&format!("stream-{number}"))).await;
                    let made = made.expect("no creation fails while certificates change");
                    assert!(is_injected(&made), "{made}");
                    created.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let renewed = async || {
        let labels = [("result", "success")];
        installed
            .figure("injector", 15016, "squire_injector_renewals_total", &labels)
            .await
    };
    for _ in 0..RENEWALS {
        let (before, count) = (renewed().await, created.load(Ordering::Relaxed));
        installed.node.signal("injector", Signal::USR1);
        eventually("both replicas have another certificate", async || {
            (renewed().await >= before + 2.0).then_some(())
        })
        .await;
        // The API server keeps connections: it has to dial under the new certificate too.
        eventually("creations go on", async || {
            (created.load(Ordering::Relaxed) > count + 10).then_some(())
        })
        .await;
    }
    done.store(true, Ordering::Relaxed);
    for stream in streams {
        in_time("a stream ends", stream).await.unwrap();
    }
    // Somebody takes the caBundle away: it is written again by itself.
    let emptied = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
    installed
        .kubectl(&[
            "patch",
            "mutatingwebhookconfiguration",
            "squire-injector",
            "--type=json",
            "-p",
            &emptied,
        ])
        .await;
    eventually("the caBundle is there again", async || {
        let made = installed.admitted("shop", pod("again")).await.ok()?;
        is_injected(&made).then_some(())
    })
    .await;
    eprintln!(
        "{} creations while {RENEWALS} certificates changed at each replica",
        created.load(Ordering::Relaxed)
    );
}

pub(super) async fn of_a_new_root_are_believed_without_anybody_noticing(installed: &Installed) {
    let kubeconfig = installed.api.kubeconfig().display().to_string();
    let cluster = ["--kubernetes", "--kubeconfig", &kubeconfig];
    printed(&[&["ca", "rotate"], &cluster[..]].concat()).await;
    let template = "go-template={{(index .webhooks 0).clientConfig.caBundle | base64decode}}";
    let look = ["get", "mutatingwebhookconfiguration", "squire-injector", "-o", template];
    eventually("the caBundle holds both roots", async || {
        let roots = installed.kubectl(&look).await;
        (roots.matches("BEGIN CERTIFICATE").count() == 2).then_some(())
    })
    .await;
    let made = installed.admitted("shop", pod("rotated")).await.unwrap();
    assert!(is_injected(&made), "{made}");
    printed(&[&["ca", "abort"], &cluster[..]].concat()).await;
}
