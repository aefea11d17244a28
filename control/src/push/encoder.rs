//! The resources of one kind: encoded again only where they differ from what was encoded last. What they mean is nobody's
//! business here.

use std::{collections::HashMap, sync::Arc};

use super::{Amendment, Content, Kind, Resource};

/// What was encoded last, by name, beside what it was encoded from.
#[derive(Debug)]
pub struct Encoder<T> {
    kind: Kind,
    last: HashMap<Arc<str>, T>,
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

    /// What is different from what was encoded last; nothing else is encoded. What is not among them is gone.
    pub fn amend<'t>(
        &mut self,
        all: impl Iterator<Item = (Arc<str>, &'t T)>,
        content: impl Fn(&T) -> Content,
    ) -> Amendment
    where
        T: 't,
    {
        let mut before = std::mem::take(&mut self.last);
        self.last.reserve(before.len());
        let mut amendment = Amendment::default();
        for (name, each) in all {
            let kept = match before.remove(&name) {
                Some(kept) if kept == *each => kept,
                _ => {
                    let resource = Resource::with(self.kind, Arc::clone(&name), &content(each));
                    amendment.put.push(resource);
                    each.clone()
                }
            };
            self.last.insert(name, kept);
        }
        amendment.gone = before.into_keys().collect();
        amendment.gone.sort_unstable();
        amendment
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

    fn encode(encoder: &mut Encoder<Service>, services: &[Service]) -> Amendment {
        let named = services.iter().map(|each| (each.name.to_shared(), each));
        encoder.amend(named, |each| Content::of(&wire::Service::from(each)))
    }

    #[test]
    fn of_ten_thousand_only_the_one_that_changed_is_encoded() {
        let mut services: Vec<Service> = (0..10_000).map(|n| service(&format!("s{n}"), "h")).collect();
        let mut encoder = Encoder::new(Kind::Service);
        assert_eq!(encode(&mut encoder, &services).put.len(), 10_000);
        assert_eq!(encode(&mut encoder, &services).put.len(), 0);
        services[4321].hostnames = ["other".into()].into();
        let amendment = encode(&mut encoder, &services);
        let [resource] = &*amendment.put else {
            panic!("{amendment:?}")
        };
        let message = wire::Service::from(&services[4321]);
        let anew = Resource::new(Kind::Service, services[4321].name.to_shared(), &message);
        assert_eq!(
            (&resource.name, resource.version, &resource.encoded),
            (&anew.name, anew.version, &anew.encoded)
        );
        assert!(amendment.gone.is_empty());
    }

    #[test]
    fn what_is_gone_is_told_once_and_encoded_again_when_it_returns() {
        let (one, two) = (service("one", "h"), service("two", "h"));
        let mut encoder = Encoder::new(Kind::Service);
        assert_eq!(encode(&mut encoder, &[one.clone(), two.clone()]).put.len(), 2);
        let amendment = encode(&mut encoder, std::slice::from_ref(&one));
        assert_eq!((amendment.put.len(), &*amendment.gone), (0, &["shop/two".into()][..]));
        assert!(encode(&mut encoder, std::slice::from_ref(&one)).gone.is_empty());
        assert_eq!(encode(&mut encoder, &[one, two]).put.len(), 1);
    }
}
