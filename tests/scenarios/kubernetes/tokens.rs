//! Service-account tokens, judged by the API server.

use rcgen::{CertificateParams, KeyPair};
use squire_tests::{authority, authority::Proof, id};

use super::world::{AUDIENCE, World};

fn request() -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_for_the_ca_that_is_bound_to_a_living_pod_makes_somebody_of_its_bearer() {
    let Some(world) = World::new().await else { return };
    world.pod("web", "web", "").await;
    let control = world.control().await;
    let uid = world.uid("web").await;
    let asks = async |token: String| {
        let proof = Proof {
            token: Some(&token),
            svid: None,
        };
        authority::ask(&world.mesh, &request(), proof)
            .await
            .map_err(|status| status.message().to_owned())
    };
    let token =
        async |audiences: &[&str], pod: Option<(&str, &str)>| world.api.token("shop", "web", audiences, pod).await;

    let good = token(&[AUDIENCE], Some(("web", &uid))).await;
    let chain = asks(good.clone()).await.unwrap();
    let leaf = pem::parse(&chain[0]).unwrap();
    assert!(
        leaf.contents()
            .windows(id("web").len())
            .any(|window| window == id("web").as_bytes()),
        "the identity is the account's"
    );

    for (what, token, why) in [
        (
            "the API server's own audience",
            token(&[], Some(("web", &uid))).await,
            "audience",
        ),
        (
            "another audience",
            token(&["vault"], Some(("web", &uid))).await,
            "audience",
        ),
        ("bound to nothing", token(&[AUDIENCE], None).await, "bound to a pod"),
        ("not a token of this cluster", forged(&good), "not accept"),
        ("not a token at all", "squire-ca".to_owned(), "not accept"),
    ] {
        let refused = asks(token).await.expect_err(what);
        assert!(refused.contains(why), "{what}: {refused}");
        assert!(!refused.contains(&good[..40]), "no part of a token is said");
    }

    // The pod is gone, and another of its name is there.
    world
        .kubectl(&["delete", "pod", "web", "-n", "shop", "--force", "--grace-period=0"])
        .await;
    let refused = asks(good.clone()).await.expect_err("the pod is deleted");
    assert!(refused.contains("pod") || refused.contains("not accept"), "{refused}");
    world.pod("web", "web", "").await;
    let refused = asks(good).await.expect_err("the token is bound to the pod before");
    assert!(refused.contains("pod") || refused.contains("not accept"), "{refused}");

    // No fallback: while the API server does not answer, nobody is anybody.
    let uid = world.uid("web").await;
    let fresh = token(&[AUDIENCE], Some(("web", &uid))).await;
    world.api.kill().await;
    let refused = asks(fresh.clone()).await.expect_err("the API server is down");
    assert!(refused.contains("does not answer"), "{refused}");
    world.api.serve().await;
    squire_tests::eventually("tokens are judged again", async || asks(fresh.clone()).await.ok()).await;
    assert!(
        control
            .figure("squire_ca_refused_total", &[("reason", "not_bound")])
            .await
            >= 1.0
    );
}

/// The same claims under a signature that is not the API server's.
fn forged(token: &str) -> String {
    let (claims, signature) = token.rsplit_once('.').unwrap();
    let other: String = signature.chars().rev().collect();
    format!("{claims}.{other}")
}
