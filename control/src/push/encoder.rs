//! The resources of one kind, encoded again only where they differ from what was encoded last. What they mean is nobody's
//! business here.

use std::{collections::HashMap, sync::Arc};

use super::{Content, Kind, Resource};

/// What was encoded last, by name, beside what it was encoded from.
#[derive(Debug)]
pub struct Encoder<T> {
    kind: Kind,
    last: HashMap<Arc<str>, (T, Resource)>,
}

impl<T: Clone + PartialEq> Encoder<T> {
    /// Nothing has been encoded yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            last: HashMap::new(),
        }
    }

    /// The resource of each, in their order, and how many of them had to be encoded. What is not among them is forgotten.
    pub fn update<'t>(
        &mut self,
        all: impl Iterator<Item = (Arc<str>, &'t T)>,
        content: impl Fn(&T) -> Content,
    ) -> (Vec<Resource>, usize)
    where
        T: 't,
    {
        let mut before = std::mem::take(&mut self.last);
        self.last.reserve(before.len());
        let (mut resources, mut encoded) = (Vec::with_capacity(before.len()), 0);
        for (name, each) in all {
            let kept = match before.remove(&name) {
                Some(kept) if kept.0 == *each => kept,
                _ => {
                    encoded += 1;
                    let resource = Resource::with(self.kind, Arc::clone(&name), &content(each));
                    (each.clone(), resource)
                }
            };
            resources.push(kept.1.clone());
            self.last.insert(name, kept);
        }
        (resources, encoded)
    }
}

#[cfg(test)]
mod tests {
    use squire_mesh::{
        wire::squire as wire,
        workload::{Service, ServiceName},
    };

    use super::*;

    fn service(name: &str, hostname: &str) -> Service {
        Service {
            name: ServiceName::new("shop", name),
            hostnames: [hostname.into()].into(),
            vips: [].into(),
            ports: [].into(),
            traffic: None,
        }
    }

    fn encode(encoder: &mut Encoder<Service>, services: &[Service]) -> (Vec<Resource>, usize) {
        let named = services.iter().map(|each| (each.name.to_shared(), each));
        encoder.update(named, |each| Content::of(&wire::Service::from(each)))
    }

    #[test]
    fn of_ten_thousand_only_the_one_that_changed_is_encoded_and_all_are_as_if_they_had_been() {
        let mut services: Vec<Service> = (0..10_000).map(|n| service(&format!("s{n}"), "h")).collect();
        let mut encoder = Encoder::new(Kind::Service);
        assert_eq!(encode(&mut encoder, &services).1, 10_000);
        assert_eq!(encode(&mut encoder, &services).1, 0);
        services[4321].hostnames = ["other".into()].into();
        let (resources, encoded) = encode(&mut encoder, &services);
        assert_eq!(encoded, 1);
        let (anew, _) = encode(&mut Encoder::new(Kind::Service), &services);
        for (kept, new) in resources.iter().zip(&anew) {
            assert_eq!(
                (&kept.name, kept.version, &kept.encoded),
                (&new.name, new.version, &new.encoded)
            );
        }
    }

    #[test]
    fn what_is_gone_is_forgotten_and_encoded_again_when_it_returns() {
        let (one, two) = (service("one", "h"), service("two", "h"));
        let mut encoder = Encoder::new(Kind::Service);
        assert_eq!(encode(&mut encoder, &[one.clone(), two.clone()]).1, 2);
        assert_eq!(encode(&mut encoder, std::slice::from_ref(&one)).1, 0);
        assert_eq!(encode(&mut encoder, &[one, two]).1, 1);
    }
}
