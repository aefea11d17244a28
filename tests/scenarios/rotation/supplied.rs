//! Roots that an admin brings.

use squire_tests::{Mesh, apps, eventually};

use super::*;

#[tokio::test]
async fn a_root_of_the_admins_own_founds_a_ca_is_rotated_to_and_so_is_one_whose_key_stays_elsewhere() {
    let mesh = Mesh::strict();
    let openssl = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new("openssl");
        let output = command.args(arguments).current_dir(mesh.dir()).output().await.unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    for name in ["one", "two", "offline"] {
        let (key, cert, subject) = (
            format!("{name}.key"),
            format!("{name}.pem"),
            format!("/CN=Example {name}"),
        );
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-384",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &cert,
            "-days",
            "3650",
            "-subj",
            &subject,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ])
        .await;
    }
    let wrong = mesh
        .squire(&[
            "ca",
            "init",
            "--dir",
            "ca",
            "--root-cert",
            "one.pem",
            "--root-key",
            "two.key",
        ])
        .await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&wrong.stderr).contains("belongs to another certificate"),
        "{wrong:?}"
    );
    succeeds(
        &mesh,
        &[
            "ca",
            "init",
            "--dir",
            "ca",
            "--root-cert",
            "one.pem",
            "--root-key",
            "one.key",
        ],
    )
    .await;
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    let published = mesh.dir().join("roots.pem");
    mesh.start_with(&["--trust-bundle-file", published.to_str().unwrap()])
        .await;
    let (_db, web) = tokio::join!(db.start(), web.start());
    apps::echoes(web.to("db:5432")).await.unwrap();
    let file = |name: &str| std::fs::read_to_string(mesh.dir().join(name)).unwrap();
    let same = |a: &str, b: &str| a.split_whitespace().eq(b.split_whitespace());
    assert!(same(&file("roots.pem"), &file("one.pem")));

    let to_two = [
        "ca",
        "rotate",
        "--watch",
        "--dir",
        "ca",
        "--root-cert",
        "two.pem",
        "--root-key",
        "two.key",
    ];
    succeeds(&mesh, &to_two).await;
    eventually("the file holds the new root", async || {
        same(&file("roots.pem"), &file("two.pem")).then_some(())
    })
    .await;
    apps::echoes(web.to("db:5432")).await.unwrap();

    std::fs::write(
        mesh.dir().join("csr.pem"),
        succeeds(&mesh, &["ca", "csr", "--dir", "ca"]).await,
    )
    .unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "csr.pem",
        "-CA",
        "offline.pem",
        "-CAkey",
        "offline.key",
        "-CAcreateserial",
        "-copy_extensions",
        "copyall",
        "-days",
        "365",
        "-out",
        "signed.pem",
    ])
    .await;
    std::fs::write(mesh.dir().join("both.pem"), file("signed.pem") + &file("offline.pem")).unwrap();
    succeeds(&mesh, &["ca", "import", "both.pem", "--dir", "ca"]).await;
    let stable = reaches(&mesh, "stable").await;
    assert_eq!(stable["roots"][0]["key_present"], false, "{stable}");
    assert!(same(&file("roots.pem"), &file("offline.pem")));
    apps::echoes(web.to("db:5432")).await.unwrap();
}
