//! What an application was handed by the Workload API stands on a root like a connection does: while it may be in use, the root
//! does not leave the bundle; and the stream that handed it out brings another one in time.

use spiffe::bundle::BundleSource as _;
use squire_tests::{
    Mesh, apps,
    workload_api::{client, socket},
};
use tokio_stream::StreamExt as _;

use super::*;

#[tokio::test]
async fn an_application_is_handed_an_svid_under_the_new_root_before_the_old_one_leaves_the_bundle() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432").workload_api();
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let application = client(&socket(&mesh, "web")).await;
    let mut stream = application.stream_x509_contexts().await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    let held = first.default_svid().unwrap().cert_chain()[0].as_bytes().to_vec();
    let old = root(&status(&mesh).await.unwrap());
    rotate(&mesh).await;
    // It follows the stream as it should: each bundle, and the SVID under the root that signs.
    let mut with_both = false;
    let new = loop {
        let context = squire_tests::in_time("the next context", stream.next())
            .await
            .unwrap()
            .unwrap();
        let svid = context.default_svid().unwrap();
        let bundles = context.bundle_set();
        let bundle = bundles.bundle_for_trust_domain(svid.spiffe_id().trust_domain());
        with_both |= bundle.unwrap().unwrap().authorities().len() == 2;
        if svid.cert_chain()[0].as_bytes() != held {
            break context;
        }
    };
    assert!(with_both, "both roots were trusted before there was another SVID");
    let phase = status(&mesh).await.unwrap()["phase"]["name"].clone();
    assert_eq!(
        phase, "switch",
        "the old root is still trusted when the new SVID is there"
    );
    let stable = reaches(&mesh, "stable").await;
    assert_ne!(root(&stable), old);
    drop(new);
    apps::echoes(web.to("db:5432")).await.unwrap();
    assert!(distrust(&web).is_empty() && distrust(&db).is_empty());
}
