//! What would fail when: `squire status --forecast` against the certificates that the sidecars really hold, and the figures
//! that alarms stand on.

use serde_json::Value;
use squire_tests::{Mesh, eventually};

#[tokio::test]
async fn the_forecast_says_which_workload_fails_first_and_when_half_of_them_do() {
    let mesh = Mesh::strict();
    let [short, middle, long] = [("short", "10m"), ("middle", "30m"), ("long", "2h")]
        .map(|(name, life)| mesh.pod(name).set(&format!("svid.lifetime={life}")));
    mesh.start().await;
    let (short, middle, long) = tokio::join!(short.start(), middle.start(), long.start());
    let mut ends = Vec::new();
    for sidecar in [&short, &middle, &long] {
        ends.push(sidecar.figure("squire_svid_not_after_timestamp_seconds", &[]).await as u64);
    }
    let admin = mesh.admin().to_string();
    let ask = async |form: &str| {
        let output = mesh
            .squire(&["status", "--forecast", "--control", &admin, "-o", form])
            .await;
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let forecast = eventually("all three have reported", async || {
        let forecast: Value = serde_json::from_str(&ask("json").await.1).unwrap();
        (forecast["proxies"] == 3).then_some(forecast)
    })
    .await;
    assert_eq!(forecast["first"]["workload"], "shop/short");
    assert_eq!(forecast["first"]["at"], ends[0]);
    assert_eq!(
        (&forecast["half"], &forecast["all"]),
        (&ends[1].into(), &ends[2].into())
    );
    let kinds: Vec<_> = forecast["expiries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|expiry| &expiry["what"])
        .collect();
    for kind in ["root", "intermediate", "jwt_key", "control_svid"] {
        assert!(kinds.iter().any(|known| *known == kind), "{kind}: {kinds:?}");
    }
    let (code, table) = ask("table").await;
    assert_eq!(code, Some(0), "nothing needs a hand");
    assert!(
        table.contains("shop/short") && table.contains("intermediate"),
        "{table}"
    );
    let yaml = ask("yaml").await.1;
    assert!(yaml.contains("workload: shop/short"), "{yaml}");

    let figures = mesh.figures().await;
    let figure = |name: &str, labels: &[(&str, &str)]| figures.sum(name, labels) as u64;
    assert_eq!(
        figure("squire_control_proxy_svid_not_after_earliest_timestamp_seconds", &[]),
        ends[0]
    );
    let root = forecast["expiries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|expiry| expiry["what"] == "root")
        .unwrap();
    assert_eq!(
        figure("squire_ca_not_after_timestamp_seconds", &[("what", "root")]),
        root["not_after"].as_u64().unwrap()
    );

    mesh.kill_control().await;
    assert_eq!(ask("table").await.0, Some(69), "who cannot be asked is not there");
}
