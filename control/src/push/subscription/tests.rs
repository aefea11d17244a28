//! A stream's view of a catalog that changes under it.

use prost::Message;
use squire_mesh::wire::{discovery, rpc, squire as wire};

use super::*;
use crate::push::{Catalog, Kind, Resource};

mod aliases;

const KIND: Kind = Kind::Service;

fn resource(name: &str, content: &str) -> Resource {
    let message = wire::Service {
        name: name.into(),
        hostnames: vec![content.into()],
        ..Default::default()
    };
    Resource::new(KIND, name.into(), &message)
}

fn publish(catalog: &Catalog, all: &[(&str, &str)]) {
    let resources = all.iter().map(|(name, content)| resource(name, content)).collect();
    catalog.publish([(KIND, resources)], None);
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    let names = names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        ..Default::default()
    }
}

fn holding(mut request: DeltaDiscoveryRequest, held: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let versions = held
        .iter()
        .map(|(name, content)| ((*name).into(), resource(name, content).version.to_string()));
    request.initial_resource_versions = versions.collect();
    request
}

fn answer(nonce: &str, refused: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = refused.map(|why| rpc::Status {
        message: why.into(),
        ..Default::default()
    });
    DeltaDiscoveryRequest {
        response_nonce: nonce.into(),
        error_detail,
        ..Default::default()
    }
}

/// The next page as `name=content` and `-name`, acknowledged at once; empty if there is none.
fn next(subscription: &mut Subscription, catalog: &Catalog) -> Vec<String> {
    let Some(page) = catalog.with(KIND, |shelf| subscription.next(shelf, None)).unwrap() else {
        return Vec::new();
    };
    assert!(subscription.is_pending());
    assert_eq!(
        subscription.request(answer(&page.nonce, None), None),
        Ok(Reply::Ack(page.point))
    );
    let put = page.resources.iter().map(|encoded| {
        let envelope = discovery::Resource::decode(encoded.clone()).unwrap();
        let Some(content) = envelope.resource else {
            return format!("{} is answered", envelope.name);
        };
        let service = wire::Service::decode(&*content.value).unwrap();
        format!("{}={}", envelope.name, service.hostnames[0])
    });
    let mut seen: Vec<String> = put.chain(page.removed.iter().map(|name| format!("-{name}"))).collect();
    seen.sort();
    seen
}

fn started(request: DeltaDiscoveryRequest) -> Subscription {
    let mut subscription = Subscription::default();
    assert_eq!(subscription.request(request, None), Ok(Reply::None));
    subscription
}

#[test]
fn nothing_is_sent_before_the_first_publication() {
    let catalog = Catalog::default();
    let mut held = started(holding(subscribe(&[]), &[("a", "1")]));
    assert!(
        next(&mut held, &catalog).is_empty(),
        "what the proxy holds is not removed by a control plane that starts"
    );
    publish(&catalog, &[]);
    assert_eq!(next(&mut held, &catalog), ["-a"]);
}

#[test]
fn a_wildcard_gets_everything_then_only_changes() {
    let catalog = Catalog::default();
    publish(&catalog, &[("a", "1"), ("b", "1")]);
    for mut wildcard in [started(subscribe(&[])), started(subscribe(&["*"]))] {
        publish(&catalog, &[("a", "1"), ("b", "1")]);
        assert_eq!(next(&mut wildcard, &catalog), ["a=1", "b=1"]);
        assert!(next(&mut wildcard, &catalog).is_empty());
        publish(&catalog, &[("a", "2"), ("c", "1")]);
        assert_eq!(next(&mut wildcard, &catalog), ["-b", "a=2", "c=1"]);
    }
}

#[test]
fn a_proxy_that_returns_is_sent_what_differs() {
    let catalog = Catalog::default();
    publish(&catalog, &[("same", "1"), ("old", "2"), ("new", "1")]);
    let mut returned = started(holding(subscribe(&[]), &[("same", "1"), ("old", "1"), ("gone", "1")]));
    assert_eq!(next(&mut returned, &catalog), ["-gone", "new=1", "old=2"]);
    assert!(next(&mut returned, &catalog).is_empty());
    let mut up_to_date = started(holding(subscribe(&[]), &[("same", "1"), ("old", "2"), ("new", "1")]));
    assert!(next(&mut up_to_date, &catalog).is_empty());
}

#[test]
fn a_named_resource_is_answered_even_if_there_is_none_and_followed() {
    let catalog = Catalog::default();
    publish(&catalog, &[("a", "1"), ("b", "1")]);
    let mut named = started(subscribe(&["a", "x"]));
    assert_eq!(next(&mut named, &catalog), ["-x", "a=1"]);
    publish(&catalog, &[("a", "1"), ("b", "2"), ("x", "1")]);
    assert_eq!(next(&mut named, &catalog), ["x=1"], "b is nobody's business");
    publish(&catalog, &[("x", "1")]);
    assert_eq!(next(&mut named, &catalog), ["-a"]);
}

#[test]
fn named_resources_that_are_held_are_not_sent_again() {
    let catalog = Catalog::default();
    publish(&catalog, &[("a", "1"), ("b", "2")]);
    let mut named = started(holding(
        subscribe(&["a", "b", "gone"]),
        &[("a", "1"), ("b", "1"), ("gone", "1")],
    ));
    assert_eq!(next(&mut named, &catalog), ["-gone", "b=2"]);
    assert!(next(&mut named, &catalog).is_empty());
}

#[test]
fn many_names_are_followed_like_few() {
    let catalog = Catalog::default();
    let names: Vec<String> = (0..100).map(|at| format!("n{at:03}")).collect();
    let one: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    publish(&catalog, &one);
    let mut named = started(subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(next(&mut named, &catalog).len(), names.len());
    let mut two = one[1..].to_vec();
    two[0].1 = "2";
    two.push(("other", "1"));
    publish(&catalog, &two);
    assert_eq!(next(&mut named, &catalog), ["-n000", "n001=2"]);
}

#[test]
fn names_come_and_go() {
    let catalog = Catalog::default();
    publish(&catalog, &[("a", "1"), ("b", "1")]);
    let mut named = started(subscribe(&["a"]));
    assert_eq!(next(&mut named, &catalog), ["a=1"]);
    named.request(subscribe(&["b"]), None).unwrap();
    assert_eq!(next(&mut named, &catalog), ["b=1"]);
    let unsubscribe = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["a".into()],
        ..Default::default()
    };
    named.request(unsubscribe, None).unwrap();
    publish(&catalog, &[("a", "2"), ("b", "2")]);
    assert_eq!(
        next(&mut named, &catalog),
        ["-a", "b=2"],
        "what no name stands for goes"
    );
    publish(&catalog, &[("a", "3"), ("b", "2")]);
    assert!(next(&mut named, &catalog).is_empty());
    named.request(subscribe(&["b"]), None).unwrap();
    assert_eq!(next(&mut named, &catalog), ["b=2"], "asking again is answered again");
}

#[test]
fn one_response_is_in_flight_and_changes_meanwhile_are_coalesced() {
    let catalog = Catalog::default();
    publish(&catalog, &[("a", "1")]);
    let mut wildcard = started(subscribe(&[]));
    let first = catalog.with(KIND, |shelf| wildcard.next(shelf, None)).unwrap().unwrap();
    for content in ["2", "3", "4"] {
        publish(&catalog, &[("a", content), ("b", content)]);
        assert!(
            catalog
                .with(KIND, |shelf| wildcard.next(shelf, None))
                .unwrap()
                .is_none()
        );
    }
    assert_eq!(wildcard.request(answer("stale", None), None), Ok(Reply::None));
    assert!(wildcard.is_pending(), "another nonce acknowledges nothing");
    assert_eq!(
        wildcard.request(answer(&first.nonce, None), None),
        Ok(Reply::Ack(first.point))
    );
    assert_eq!(next(&mut wildcard, &catalog), ["a=4", "b=4"]);
}

#[test]
fn what_was_refused_is_not_sent_again_until_it_changes() {
    let catalog = Catalog::default();
    publish(&catalog, &[("a", "1")]);
    let mut wildcard = started(subscribe(&[]));
    let page = catalog.with(KIND, |shelf| wildcard.next(shelf, None)).unwrap().unwrap();
    let reply = wildcard.request(answer(&page.nonce, Some("no")), None);
    assert_eq!(reply, Ok(Reply::Nack(page.point, "no".into())));
    publish(&catalog, &[("a", "1"), ("b", "1")]);
    assert_eq!(next(&mut wildcard, &catalog), ["b=1"]);
    publish(&catalog, &[("a", "2"), ("b", "1")]);
    assert_eq!(next(&mut wildcard, &catalog), ["a=2"]);
}

#[test]
fn a_private_kind_shows_one_name_whatever_is_asked() {
    let catalog = Catalog::default();
    publish(&catalog, &[("me", "1"), ("you", "1")]);
    let only: Arc<str> = "me".into();
    for (names, resources, removed) in [(&[][..], 1, 0), (&["*"], 1, 0), (&["me"], 1, 0), (&["you"], 0, 1)] {
        let mut subscription = Subscription::default();
        subscription.request(subscribe(names), Some(&only)).unwrap();
        let page = catalog
            .with(KIND, |shelf| subscription.next(shelf, Some(&only)))
            .unwrap()
            .unwrap();
        assert_eq!(
            (page.resources.len(), page.removed.len()),
            (resources, removed),
            "{names:?}"
        );
        subscription.request(answer(&page.nonce, None), Some(&only)).unwrap();
        publish(&catalog, &[("me", "1"), ("you", "2")]);
        assert!(
            catalog
                .with(KIND, |shelf| subscription.next(shelf, Some(&only)))
                .unwrap()
                .is_none(),
            "{names:?}"
        );
        publish(&catalog, &[("me", "1"), ("you", "1")]);
    }
}

#[test]
fn long_first_passes_come_in_pages_and_miss_nothing_that_happens_between() {
    let catalog = Catalog::default();
    let big = "x".repeat(PAGE_BYTES / 4);
    let all: Vec<(String, &str)> = (0..10).map(|at| (format!("n{at}"), &*big)).collect();
    let view = |range: std::ops::Range<usize>| -> Vec<(&str, &str)> {
        all[range]
            .iter()
            .map(|(name, content)| (name.as_str(), *content))
            .collect()
    };
    publish(&catalog, &view(0..10));
    let mut wildcard = started(subscribe(&[]));
    let first = next(&mut wildcard, &catalog);
    assert_eq!(first.len(), 4, "a page is bounded");
    publish(&catalog, &view(1..10));
    let mut rest = Vec::new();
    loop {
        let page = next(&mut wildcard, &catalog);
        if page.is_empty() {
            break;
        }
        rest.extend(page);
    }
    assert_eq!(rest.len(), 7, "six others, and the removal of what was already sent");
    assert!(rest.contains(&"-n0".to_owned()));
}

#[test]
fn the_end_of_the_first_pass_is_said_even_where_there_is_nothing_to_send() {
    let catalog = Catalog::default();
    publish(&catalog, &[]);
    let page = |subscription: &mut Subscription| {
        let page = catalog.with(KIND, |shelf| subscription.next(shelf, None)).unwrap()?;
        subscription.request(answer(&page.nonce, None), None).unwrap();
        Some((page.resources.len(), page.partial))
    };
    let mut none = started(subscribe(&[]));
    assert_eq!(page(&mut none), Some((0, false)), "that there is none is an answer");
    assert_eq!(page(&mut none), None, "once");
    let big = "x".repeat(PAGE_BYTES / 2);
    publish(&catalog, &[("a", &big), ("b", &big), ("c", &big)]);
    let mut many = started(subscribe(&[]));
    assert_eq!(page(&mut many), Some((2, true)), "more is to come");
    assert_eq!(page(&mut many), Some((1, false)));
    assert_eq!(page(&mut many), None);
}

#[test]
fn too_many_names_break_the_stream() {
    let mut subscription = Subscription::default();
    let long = "n".repeat(MAX_NAME + 1);
    assert_eq!(subscription.request(subscribe(&[&long]), None), Err(Broken::TooMuch));
}

mod model {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever happens in whatever order, a proxy that follows the protocol ends up with what is published.
        #[test]
        fn a_follower_converges(
            steps in proptest::collection::vec((0u8..8, 0u8..4, any::<bool>()), 1..60),
            named in any::<bool>(),
        ) {
            let catalog = Catalog::default();
            let mut published: BTreeMap<String, String> = BTreeMap::new();
            let mut held: BTreeMap<String, String> = BTreeMap::new();
            let names: Vec<String> = (0..8u8).map(|at| format!("n{at}")).collect();
            let asked: Vec<&str> = if named { names[..4].iter().map(String::as_str).collect() } else { Vec::new() };
            let mut subscription = started(subscribe(&asked));
            let publish_all = |published: &BTreeMap<String, String>| {
                let all: Vec<(&str, &str)> = published.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                publish(&catalog, &all);
            };
            let apply = |held: &mut BTreeMap<String, String>, page: Vec<String>| {
                for change in page {
                    match change.split_once('=') {
                        Some((name, content)) => { held.insert(name.to_owned(), content.to_owned()); }
                        None => { held.remove(&change[1..]); }
                    }
                }
            };
            for (name, content, reconnect) in steps {
                let name = names[usize::from(name)].clone();
                if content == 0 { published.remove(&name); } else { published.insert(name, content.to_string()); }
                publish_all(&published);
                if reconnect {
                    let versions: Vec<(&str, &str)> = held.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                    subscription = started(holding(subscribe(&asked), &versions));
                } else if content % 2 == 0 {
                    let page = next(&mut subscription, &catalog);
                    apply(&mut held, page);
                }
            }
            loop {
                let page = next(&mut subscription, &catalog);
                if page.is_empty() { break; }
                apply(&mut held, page);
            }
            let seen = |name: &String| !named || asked.contains(&name.as_str());
            let expected: BTreeMap<_, _> = published.into_iter().filter(|(name, _)| seen(name)).collect();
            prop_assert_eq!(held, expected);
        }
    }
}
