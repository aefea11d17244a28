//! Names that stand for several resources: workloads asked for by their address or their Service.

use super::*;
use crate::push::Content;

/// One resource: its name, its content, its aliases.
type One<'a> = (&'a str, &'a str, &'a [&'a str]);

fn put(catalog: &Catalog, all: &[One<'_>]) {
    let resource = |(name, content, aliases): &One<'_>| {
        let message = wire::Service {
            name: (*name).into(),
            // Aliases are part of the content, as they are of a workload.
            hostnames: [content].into_iter().chain(*aliases).map(ToString::to_string).collect(),
            ..Default::default()
        };
        let aliases = aliases.iter().map(|alias| Arc::from(*alias));
        Resource::with(KIND, (*name).into(), &Content::of(&message).with_aliases(aliases))
    };
    catalog.publish([(KIND, all.iter().map(resource).collect())], None);
}

fn version(catalog: &Catalog, name: &str) -> String {
    catalog.with(KIND, |shelf| shelf.find(name).unwrap().1.version.to_string())
}

fn unsubscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_unsubscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

const ONE: One<'static> = ("s/one", "1", &["address:1", "service:s/a"]);
const TWO: One<'static> = ("s/two", "1", &["address:2", "service:s/a"]);
const OTHER: One<'static> = ("s/other", "1", &["address:3"]);

#[test]
fn an_alias_brings_all_that_have_it_and_says_so() {
    let catalog = Catalog::default();
    put(&catalog, &[ONE, TWO, OTHER]);
    let mut asks = started(subscribe(&["service:s/a"]));
    assert_eq!(
        next(&mut asks, &catalog),
        ["s/one=1", "s/two=1", "service:s/a is answered"]
    );
    assert!(next(&mut asks, &catalog).is_empty());
    asks.request(subscribe(&["address:1"]), None).unwrap();
    assert_eq!(
        next(&mut asks, &catalog),
        ["address:1 is answered"],
        "what is held is not sent again"
    );
}

#[test]
fn an_alias_that_nothing_has_is_answered_and_followed_all_the_same() {
    let catalog = Catalog::default();
    put(&catalog, &[ONE]);
    let mut asks = started(subscribe(&["address:3", "service:s/none"]));
    assert_eq!(next(&mut asks, &catalog), ["-address:3", "-service:s/none"]);
    put(&catalog, &[ONE, OTHER]);
    assert_eq!(next(&mut asks, &catalog), ["s/other=1"]);
    put(&catalog, &[ONE]);
    assert_eq!(next(&mut asks, &catalog), ["-s/other"]);
    put(&catalog, &[ONE, OTHER]);
    assert_eq!(next(&mut asks, &catalog), ["s/other=1"]);
}

#[test]
fn what_changes_under_an_alias_is_followed_and_what_leaves_it_is_removed() {
    let catalog = Catalog::default();
    put(&catalog, &[ONE, TWO, OTHER]);
    let mut asks = started(subscribe(&["service:s/a", "address:1"]));
    assert_eq!(next(&mut asks, &catalog).len(), 4);
    // It moves to another address and stays in the service.
    let moved: One<'_> = ("s/one", "2", &["address:9", "service:s/a"]);
    put(&catalog, &[moved, TWO, OTHER]);
    assert_eq!(next(&mut asks, &catalog), ["s/one=2"]);
    // It leaves the service: nothing stands for it any more.
    let left: One<'_> = ("s/one", "3", &["address:9"]);
    put(&catalog, &[left, TWO, OTHER]);
    assert_eq!(next(&mut asks, &catalog), ["-s/one"]);
    put(&catalog, &[("s/one", "4", &["address:9"]), TWO, OTHER]);
    assert!(next(&mut asks, &catalog).is_empty(), "it is nobody's business now");
    // Another takes its first address.
    put(&catalog, &[("s/new", "1", &["address:1"]), TWO, OTHER]);
    assert_eq!(next(&mut asks, &catalog), ["s/new=1"]);
    put(&catalog, &[OTHER]);
    assert_eq!(next(&mut asks, &catalog), ["-s/new", "-s/two"]);
}

#[test]
fn what_two_names_stand_for_stays_until_both_are_given_up() {
    let catalog = Catalog::default();
    put(&catalog, &[ONE, TWO]);
    let mut asks = started(subscribe(&["service:s/a", "address:1", "s/one"]));
    assert_eq!(next(&mut asks, &catalog).len(), 4);
    asks.request(unsubscribe(&["service:s/a"]), None).unwrap();
    assert_eq!(next(&mut asks, &catalog), ["-s/two"]);
    asks.request(unsubscribe(&["address:1"]), None).unwrap();
    assert!(next(&mut asks, &catalog).is_empty(), "its own name stands for it");
    asks.request(unsubscribe(&["s/one"]), None).unwrap();
    assert_eq!(next(&mut asks, &catalog), ["-s/one"]);
    put(&catalog, &[("s/one", "2", ONE.2), TWO]);
    assert!(next(&mut asks, &catalog).is_empty());
}

#[test]
fn a_proxy_that_returns_with_aliases_is_sent_what_differs_and_an_answer_to_each() {
    let catalog = Catalog::default();
    put(&catalog, &[ONE, TWO, OTHER]);
    let held: Vec<(String, String)> = ["s/one", "s/two", "s/other"]
        .into_iter()
        .map(|name| (name.to_owned(), version(&catalog, name)))
        .collect();
    // Meanwhile one has changed, one is gone, and one is asked for no more.
    put(&catalog, &[("s/one", "2", ONE.2), OTHER]);
    let mut request = subscribe(&["service:s/a"]);
    request.initial_resource_versions = held.into_iter().collect();
    let mut returned = started(request);
    assert_eq!(
        next(&mut returned, &catalog),
        ["-s/other", "-s/two", "s/one=2", "service:s/a is answered"]
    );
    assert!(next(&mut returned, &catalog).is_empty());
}

#[test]
fn an_alias_of_many_is_answered_with_the_last_page() {
    let catalog = Catalog::default();
    let big = "x".repeat(PAGE_BYTES / 3);
    let names: Vec<String> = (0..8).map(|at| format!("s/n{at}")).collect();
    let all: Vec<One<'_>> = names
        .iter()
        .map(|name| (name.as_str(), big.as_str(), &["service:s/a"][..]))
        .collect();
    put(&catalog, &all);
    let mut asks = started(subscribe(&["service:s/a"]));
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = next(&mut asks, &catalog);
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 4, "a page is bounded");
        assert!(!seen.contains(&"service:s/a is answered".to_owned()), "last of all");
        seen.extend(page);
        pages += 1;
    }
    assert_eq!((seen.len(), pages), (9, 3));
}

#[test]
fn many_changes_at_once_come_to_the_same_as_one_after_another() {
    let catalog = Catalog::default();
    put(&catalog, &[ONE, TWO]);
    let mut asks = started(subscribe(&["service:s/a"]));
    assert_eq!(next(&mut asks, &catalog).len(), 3);
    // Far more changes than what is held: everything wanted is looked at instead.
    let names: Vec<String> = (0..1_000).map(|at| format!("s/n{at}")).collect();
    let mut all: Vec<One<'_>> = names.iter().map(|name| (name.as_str(), "1", &[][..])).collect();
    all.push(("s/one", "2", ONE.2));
    all.push(("s/three", "1", &["service:s/a"]));
    put(&catalog, &all);
    assert_eq!(next(&mut asks, &catalog), ["-s/two", "s/one=2", "s/three=1"]);
    assert!(next(&mut asks, &catalog).is_empty());
}

#[test]
fn more_names_than_one_stream_may_have_break_it_however_they_come() {
    let names: Vec<String> = (0..MAX_NAMES).map(|at| format!("address:{at}")).collect();
    let mut asks = started(subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(asks.request(subscribe(&["address:more"]), None), Err(Broken::TooMuch));
}

mod model {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ALIASES: [&str; 4] = ["address:1", "address:2", "service:s/a", "service:s/b"];

    /// What the proxy does with a page.
    fn apply(held: &mut BTreeMap<String, String>, page: Vec<String>) {
        for change in page {
            if let Some(name) = change.strip_prefix('-') {
                held.remove(name);
            } else if let Some((name, content)) = change.split_once('=') {
                held.insert(name.to_owned(), content.to_owned());
            }
        }
    }

    proptest! {
        /// Whatever is published, asked for, given up and reconnected in whatever order, a proxy ends up with exactly what
        /// its names stand for.
        #[test]
        fn a_follower_converges(
            steps in proptest::collection::vec((0u8..6, 0u8..4, 0u8..16, 0u8..6, 0u8..4), 1..80),
        ) {
            let catalog = Catalog::default();
            let names: Vec<String> = (0..6u8).map(|at| format!("s/n{at}")).collect();
            let mut published: BTreeMap<String, (String, Vec<&str>)> = BTreeMap::new();
            let mut asked: Vec<&str> = vec!["s/n0"];
            let mut held: BTreeMap<String, String> = BTreeMap::new();
            let mut subscription = started(subscribe(&asked));
            for (name, content, aliases, what, which) in steps {
                let alias = ALIASES[usize::from(which)];
                match what {
                    0 if !asked.contains(&alias) => {
                        asked.push(alias);
                        subscription.request(subscribe(&[alias]), None).unwrap();
                    }
                    1 => {
                        asked.retain(|name| *name != alias);
                        subscription.request(unsubscribe(&[alias]), None).unwrap();
                    }
                    2 => {
                        // Of what it holds, it says the version, where that is still one of ours.
                        let mut request = subscribe(&asked);
                        request.initial_resource_versions = held
                            .iter()
                            .map(|(name, content)| {
                                let same = published.get(name).is_some_and(|(now, _)| now == content);
                                let version = if same { version(&catalog, name) } else { "1".to_owned() };
                                (name.clone(), version)
                            })
                            .collect();
                        subscription = started(request);
                    }
                    _ => {
                        let name = names[usize::from(name)].clone();
                        let has = |(at, _): &(usize, &&str)| aliases & (1 << at) != 0;
                        let aliases: Vec<&str> = ALIASES.iter().enumerate().filter(has).map(|(_, alias)| *alias).collect();
                        match content {
                            0 => published.remove(&name),
                            _ => published.insert(name, (content.to_string(), aliases)),
                        };
                        let all: Vec<One<'_>> = published
                            .iter()
                            .map(|(name, (content, aliases))| (name.as_str(), content.as_str(), &aliases[..]))
                            .collect();
                        put(&catalog, &all);
                    }
                }
                if which % 2 == 0 {
                    apply(&mut held, next(&mut subscription, &catalog));
                }
            }
            loop {
                let page = next(&mut subscription, &catalog);
                if page.is_empty() { break; }
                apply(&mut held, page);
            }
            let stands = |(name, (_, aliases)): &(&String, &(String, Vec<&str>))| {
                asked.contains(&name.as_str()) || aliases.iter().any(|alias| asked.contains(alias))
            };
            let expected: BTreeMap<_, _> = published
                .iter()
                .filter(stands)
                .map(|(name, (content, _))| (name.clone(), content.clone()))
                .collect();
            prop_assert_eq!(held, expected);
        }
    }
}
