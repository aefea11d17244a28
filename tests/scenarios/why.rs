//! `squire policy why`, of a running control plane, of its directory, and of files: the same answer, which is what happens.

use serde_json::Value;
use squire_tests::{Mesh, apps};

#[tokio::test]
async fn why_says_of_a_running_mesh_its_directory_and_its_files_what_then_happens() {
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    let batch = mesh.pod("batch").reaches("db:5432");
    mesh.start().await;
    let (_db, web, batch) = tokio::join!(db.start(), web.start(), batch.start());
    apps::echoes(web.to("db:5432")).await.unwrap();
    apps::echoes(batch.to("db:5432")).await.unwrap_err();

    let (admin, directory) = (mesh.admin().to_string(), mesh.objects().display().to_string());
    let files: Vec<String> = std::fs::read_dir(mesh.objects())
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    let mut one_by_one = vec!["-f"];
    one_by_one.extend(files.iter().map(String::as_str));
    for place in [vec!["--control", &admin], vec!["-f", &directory], one_by_one] {
        let ask = async |from: &str| {
            let question = ["policy", "why", "-o", "json", "--from", from, "--to", "shop/db:5432"];
            let output = mesh.squire(&[&question[..], &place].concat()).await;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let answer: Value = serde_json::from_str(&text)
                .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
            (output.status.code(), answer)
        };
        let (code, allowed) = ask("shop/web").await;
        assert_eq!(
            (code, &allowed["verdict"]),
            (Some(0), &"ALLOW".into()),
            "{place:?} {allowed}"
        );
        assert_eq!(allowed["by"], "AuthorizationPolicy shop/only-web rule 0");
        let (code, denied) = ask("shop/batch").await;
        assert_eq!(
            (code, &denied["verdict"]),
            (Some(1), &"DENY".into()),
            "{place:?} {denied}"
        );
        assert_eq!(denied["gates"].as_array().unwrap().len(), 4, "every gate: {denied}");
        assert_eq!(denied["gates"][3]["verdict"], "DENY");
        assert_eq!(denied["nearest"][0]["rule"], "AuthorizationPolicy shop/only-web rule 0");
        let failed = denied["nearest"][0]["failed"][0].as_str().unwrap();
        assert!(failed.contains("sa/web") && failed.contains("sa/batch"), "{failed}");
    }
}
