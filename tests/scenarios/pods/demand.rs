//! Redirected pods whose sidecars subscribe on demand.

use squire_tests::{Cluster, Mesh, id, namespace};

use super::{echo, talks};

#[tokio::test]
async fn redirected_pods_on_demand_reach_pods_services_and_the_outside_as_before() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::strict());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    let outside = cluster.stranger("outside");
    cluster.service("db", &["10.96.0.2", "fd96::2"], 80, 5432);
    cluster.start().await;
    let _servers = (echo(&db, 5432).await, echo(&outside, 443).await, echo(&web, 8080).await);
    let (of_web, of_db) = tokio::join!(
        web.sidecar(&["subscription.mode=on-demand"]),
        db.sidecar(&["subscription.mode=on-demand"])
    );
    for (vip, real) in ["10.96.0.2", "fd96::2"].iter().zip(&db.addresses()) {
        talks(&web, vip, 80).await;
        talks(&web, real, 5432).await;
        talks(&web, &web.addresses()[usize::from(real.contains(':'))], 8080).await;
    }
    talks(&web, &outside.v4(), 443).await;
    for (address, protocol) in [
        (format!("{}:5432", db.v4()), "squire/1"),
        ("10.96.0.2:80".to_owned(), "squire/1"),
        (format!("{}:443", outside.v4()), "plaintext"),
    ] {
        let line = of_web.logged(&[("address", &address), ("outcome", "complete")]).await;
        assert_eq!(line["protocol"], protocol, "{line}");
    }
    let line = of_db.logged(&[("direction", "inbound"), ("source", &id("web"))]).await;
    assert_eq!(line["workload"], "shop/web");
}
