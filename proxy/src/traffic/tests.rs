use squire_mesh::traffic::TrafficSettings;

use super::{
    fixture::{Fixture, Pod},
    *,
};

fn traffic() -> Traffic {
    Traffic::new(&Registry::new()).unwrap()
}

#[test]
fn a_balancer_is_kept_for_its_service_and_port_and_dropped_with_the_service() {
    let mut fixture = Fixture::new("");
    fixture.service("web", None);
    fixture.pods(&[Pod::new(1)]);
    let (traffic, now) = (traffic(), Instant::now());
    let snapshot = fixture.snapshot();
    let picked = traffic.pick(&snapshot, "shop/web", 80, &[], now).unwrap();
    assert_eq!(picked.endpoint().address.to_string(), "10.0.0.1:8080");
    let same = |a: u16, b: u16| {
        Arc::ptr_eq(
            &traffic.balancer(&snapshot, "shop/web", a),
            &traffic.balancer(&snapshot, "shop/web", b),
        )
    };
    assert!(same(80, 80) && !same(80, 81));
    for gone in 0..200 {
        let error = traffic
            .pick(&snapshot, &format!("shop/gone-{gone}"), 80, &[], now)
            .err();
        assert!(matches!(error, Some(PickError::NoEndpoint(_))));
    }
    assert!(
        traffic.balancers().of.len() <= SWEEP_AT + 1,
        "services nobody knows are forgotten"
    );
    assert!(traffic.balancers().of.contains_key("shop/web"));
}

#[test]
fn retries_are_taken_from_the_budget_of_the_service_they_go_to() {
    let mut fixture = Fixture::new("");
    let settings = TrafficSettings {
        retry_percent: 20,
        retry_min_per_second: 0,
        ..TrafficSettings::default()
    };
    let routes = squire_mesh::traffic::Traffic {
        settings,
        ..Default::default()
    };
    fixture.service("web", Some(&routes));
    fixture.pods(&[Pod::new(1)]);
    let (traffic, now, snapshot) = (traffic(), Instant::now(), fixture.snapshot());
    for _ in 0..10 {
        traffic.pick(&snapshot, "shop/web", 80, &[], now).unwrap();
    }
    let address = "10.0.0.1:8080".parse().unwrap();
    traffic.pick(&snapshot, "shop/web", 80, &[address], now).unwrap();
    struct None;
    impl squire_mesh::policy::Headers for None {
        fn visit(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) {}
    }
    impl crate::http::Fields for None {
        fn each(&self, _: &mut dyn FnMut(&str, &[u8])) {}
    }
    let request = RequestView {
        method: "GET",
        target: Some("/"),
        authority: "web",
        version: crate::http::Version::Http11,
        fields: &None,
    };
    let service = snapshot.service("shop/web").unwrap();
    let Plan::Forward(forward) = traffic.plan(&snapshot, service, 80, &request) else {
        panic!("no route")
    };
    let attempt = Attempt {
        method: "GET",
        tries: 1,
        failed: Failed::Lost,
        body: Body::Whole,
        responded: false,
        left: Option::None,
    };
    let retried = (0..10).filter(|_| traffic.retry(&snapshot, &forward, &attempt, now).is_ok());
    assert_eq!(
        retried.count(),
        2,
        "a fifth of ten first tries; a second try is not a first one"
    );
    assert_eq!(
        traffic.retry(&snapshot, &forward, &attempt, now),
        Err(Unretried::Budget)
    );
}

#[test]
fn handles_can_be_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Traffic>();
    is_shared::<Picked>();
}
