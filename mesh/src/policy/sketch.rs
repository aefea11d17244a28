//! What a rule can match at most, in a few words of bits kept beside it, so that most rules that cannot match are passed over
//! without reading their conditions. A sketch only ever says "cannot match": where it says nothing, `matching` decides.

use super::{Attribute, Condition, PathMatch, Principal, Request, Rule, TextMatch, matching::Layer};

/// How much of a path's beginning is told apart.
const HEAD: usize = 32;

/// Stands for "the attribute is missing"; no value has this bit.
const MISSING: u64 = 1 << 63;

/// Where any value will do, and none too.
const ANY: u64 = u64::MAX;

/// One bit for each value that a rule can match, all bits where that cannot be listed. Different values may share a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sketch {
    /// The path of the peer's SPIFFE ID.
    account: u64,
    namespace: u64,
    port: u64,
    method: u64,
    /// The first `head` bytes of the path; all bits where `head` is 0.
    path: u64,
    head: u8,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            account: ANY,
            namespace: ANY,
            port: ANY,
            method: ANY,
            path: ANY,
            head: 0,
        }
    }
}

/// The same bits of a request, worked out once for all rules.
pub(super) struct Traits {
    account: u64,
    namespace: u64,
    port: u64,
    http: Option<HttpTraits>,
}

struct HttpTraits {
    method: u64,
    /// The bit of each beginning of the path, by its length; none: there is no path.
    heads: Option<[u8; HEAD + 1]>,
    /// How many of them there are.
    length: usize,
}

impl Sketch {
    pub(super) fn of(rule: &Rule) -> Self {
        let head = heads(rule)
            .iter()
            .map(|head| head.len())
            .min()
            .unwrap_or_default()
            .min(HEAD);
        let path = |condition: &Condition| match &condition.attribute {
            Attribute::Path(values) if head > 0 && !condition.negated => any_of(values, |value| {
                literal_head(value).get(..head).map_or(ANY, |head| bit(beginning(head)))
            }),
            _ => ANY,
        };
        Self {
            account: bits(rule, account),
            namespace: bits(rule, namespace),
            port: bits(rule, port),
            method: bits(rule, method),
            path: bits(rule, path),
            head: u8::try_from(head).unwrap_or_default(),
        }
    }

    /// Whether the rule may match; if not, it does not.
    #[inline]
    pub(super) fn admits(&self, traits: &Traits) -> bool {
        let connection = self.account & traits.account != 0
            && self.namespace & traits.namespace != 0
            && self.port & traits.port != 0;
        // On bytes, and before a request is there, HTTP conditions rule nothing out (spec §3.10.38).
        connection && traits.http.as_ref().is_none_or(|http| self.admits_http(http))
    }

    #[inline]
    fn admits_http(&self, http: &HttpTraits) -> bool {
        let head = usize::from(self.head);
        self.method & http.method != 0
            && (head == 0
                || http.heads.as_ref().is_none_or(|heads| {
                    head <= http.length && heads.get(head).is_none_or(|bit| self.path & (1 << bit) != 0)
                }))
    }
}

impl Traits {
    pub(super) fn of(request: &Request<'_>, layer: &Layer<'_, '_>) -> Self {
        let principal = request.principal();
        let http = match layer {
            Layer::Http(http) => Some(HttpTraits {
                method: bit(hash(http.method.as_bytes())),
                heads: http.path.map(|path| beginnings(path.as_bytes())),
                length: http.path.map_or(0, str::len).min(HEAD),
            }),
            Layer::Bytes | Layer::HttpToCome => None,
        };
        Self {
            account: principal.map_or(MISSING, |one| bit(hash(path_of(one.as_str()).as_bytes()))),
            namespace: principal
                .and_then(Principal::namespace)
                .map_or(MISSING, |one| bit(hash(one.as_bytes()))),
            port: port_bit(request.destination.port),
            http,
        }
    }
}

/// Of a rule: any source AND any operation AND every condition of `when`.
fn bits(rule: &Rule, of: impl Fn(&Condition) -> u64) -> u64 {
    let all = |conditions: &[Condition]| conditions.iter().fold(ANY, |bits, condition| bits & of(condition));
    let any = |items: &[super::Conditions]| match items {
        [] => ANY,
        items => items.iter().fold(0, |bits, item| bits | all(item)),
    };
    any(rule.sources()) & any(rule.operations()) & all(rule.when())
}

fn any_of<V>(values: &[V], of: impl Fn(&V) -> u64) -> u64 {
    values.iter().fold(0, |bits, value| bits | of(value))
}

fn account(condition: &Condition) -> u64 {
    match &condition.attribute {
        _ if condition.negated => ANY,
        Attribute::Principal(values) => any_of(values, |value| match value {
            TextMatch::Exact(id) => bit(hash(path_of(id).as_bytes())),
            _ => !MISSING,
        }),
        Attribute::ServiceAccount(values) => any_of(values, |(namespace, account)| {
            bit(hash(format!("ns/{namespace}/sa/{account}").as_bytes()))
        }),
        Attribute::TrustDomain(_) | Attribute::Namespace(_) => !MISSING,
        _ => ANY,
    }
}

fn namespace(condition: &Condition) -> u64 {
    match &condition.attribute {
        _ if condition.negated => ANY,
        Attribute::Namespace(values) => any_of(values, |value| exactly(value).unwrap_or(!MISSING)),
        Attribute::ServiceAccount(values) => any_of(values, |(namespace, _)| bit(hash(namespace.as_bytes()))),
        _ => ANY,
    }
}

fn port(condition: &Condition) -> u64 {
    match &condition.attribute {
        Attribute::DestinationPort(ports) if !condition.negated => any_of(ports, |port| port_bit(*port)),
        _ => ANY,
    }
}

fn method(condition: &Condition) -> u64 {
    match &condition.attribute {
        Attribute::Method(values) if !condition.negated => any_of(values, |value| exactly(value).unwrap_or(ANY)),
        _ => ANY,
    }
}

fn exactly(value: &TextMatch) -> Option<u64> {
    match value {
        TextMatch::Exact(text) => Some(bit(hash(text.as_bytes()))),
        TextMatch::Present | TextMatch::Prefix(_) | TextMatch::Suffix(_) => None,
    }
}

/// How every path that the rule can match begins: one of these.
fn heads(rule: &Rule) -> Vec<&[u8]> {
    rule.operations().iter().flat_map(|item| heads_of(item)).collect()
}

fn heads_of(conditions: &[Condition]) -> Vec<&[u8]> {
    let listed = conditions.iter().find_map(|condition| match &condition.attribute {
        Attribute::Path(values) if !condition.negated => Some(values.iter().map(literal_head).collect()),
        _ => None,
    });
    listed.unwrap_or_else(|| vec![&[][..]])
}

/// The bytes with which a path that matches begins.
fn literal_head(value: &PathMatch) -> &[u8] {
    match value {
        PathMatch::Text(TextMatch::Exact(text) | TextMatch::Prefix(text)) => text.as_bytes(),
        PathMatch::Text(TextMatch::Present | TextMatch::Suffix(_)) => &[],
        PathMatch::Template(template) => template.literal_head().as_bytes(),
    }
}

/// A SPIFFE ID without its trust domain.
fn path_of(id: &str) -> &str {
    id.split_once('/').map_or("", |(_, path)| path)
}

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

#[inline]
pub(super) fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER)
}

#[inline]
pub(super) fn hash(text: &[u8]) -> u64 {
    let (words, rest) = text.as_chunks::<8>();
    let whole = words.iter().fold(0, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let rest = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    mix(whole, rest)
}

#[inline]
pub(super) fn port_bit(port: u16) -> u64 {
    bit(mix(0, u64::from(port)))
}

/// The hash of a beginning of a path, byte by byte, so that all beginnings are hashed in one pass.
fn beginning(head: &[u8]) -> u64 {
    head.iter().fold(0, |hash, byte| mix(hash, u64::from(*byte)))
}

#[inline]
fn beginnings(path: &[u8]) -> [u8; HEAD + 1] {
    let mut hash = 0;
    let mut places = [0; HEAD + 1];
    for (place, byte) in places.iter_mut().skip(1).zip(path) {
        hash = mix(hash, u64::from(*byte));
        *place = place_of(hash);
    }
    places
}

/// The highest bits of a hash depend on all of it. The last place is kept for what is missing.
#[inline]
fn place_of(hash: u64) -> u8 {
    u8::try_from(hash >> 58).unwrap_or_default().min(62)
}

#[inline]
fn bit(hash: u64) -> u64 {
    1 << place_of(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Connection, Destination, Http, Source, Template};

    const NO_HEADERS: [(&str, &str); 0] = [];

    fn texts(values: &[&str]) -> Box<[TextMatch]> {
        values.iter().map(|value| TextMatch::parse(value)).collect()
    }

    fn paths(values: &[&str]) -> Attribute {
        let one = |value: &&str| match Template::parse(value) {
            Ok(template) if Template::is_template(value) => PathMatch::Template(template),
            _ => PathMatch::Text(TextMatch::parse(value)),
        };
        Attribute::Path(values.iter().map(one).collect())
    }

    fn rule(attribute: Attribute, negated: bool) -> Rule {
        let conditions = [Condition { negated, attribute }];
        Rule::new([].into(), [conditions.into()].into(), [].into())
    }

    /// A GET of /orders/42 on port 80.
    fn request(id: Option<&'static str>) -> Request<'static> {
        let source = Source::external("10.0.0.1".parse().unwrap());
        let destination = Destination {
            ip: "10.0.0.2".parse().unwrap(),
            port: 80,
            workload: None,
        };
        let connection = Connection {
            mutual_tls: id.is_some(),
            ..Connection::default()
        };
        let source = id.map_or(source, |id| source.with_principal(Principal::new(id)));
        Request::connection(source, destination, connection).with_http(Http::new(
            "GET",
            Some("/orders/42"),
            "h",
            &NO_HEADERS,
        ))
    }

    fn admits(attribute: Attribute, negated: bool, request: &Request<'_>) -> bool {
        let traits = Traits::of(request, &Layer::of(request));
        rule(attribute, negated).sketch().admits(&traits)
    }

    #[test]
    fn rules_for_others_are_passed_over_and_rules_for_this_one_are_not() {
        let web = request(Some("spiffe://td/ns/shop/sa/web"));
        type Make = fn(&str) -> Attribute;
        let account: Make = |account| Attribute::ServiceAccount([("shop".into(), account.into())].into());
        let port: Make = |port| Attribute::DestinationPort([port.parse().unwrap()].into());
        let cases: [(Make, &str, &[&str]); 6] = [
            (
                |id| Attribute::Principal(texts(&[id])),
                "td/ns/shop/sa/web",
                &["td/ns/shop/sa/db", "td/ns/x/sa/web", "td"],
            ),
            (|name| Attribute::Namespace(texts(&[name])), "shop", &["other", "sho"]),
            (account, "web", &["api"]),
            (port, "80", &["8080", "443"]),
            (|method| Attribute::Method(texts(&[method])), "GET", &["POST", "get"]),
            (
                |path| paths(&[path]),
                "/orders/{*}",
                &["/items/{*}", "/orders/42/items", "/items*"],
            ),
        ];
        for (make, own, others) in cases {
            assert!(admits(make(own), false, &web), "{own}");
            assert!(admits(make(own), true, &web), "not {own}: conditions decide");
            for other in others {
                assert!(!admits(make(other), false, &web), "{other}");
                assert!(admits(make(other), true, &web), "not {other}");
            }
        }
    }

    #[test]
    fn without_an_identity_only_rules_that_ask_for_one_are_passed_over() {
        let plain = request(None);
        for attribute in [
            Attribute::Principal(texts(&["*"])),
            Attribute::Namespace(texts(&["shop"])),
            Attribute::TrustDomain(texts(&["td"])),
        ] {
            assert!(!admits(attribute.clone(), false, &plain), "{attribute:?}");
            assert!(admits(attribute.clone(), true, &plain), "not {attribute:?}");
        }
        assert!(Sketch::default().admits(&Traits::of(&plain, &Layer::of(&plain))));
    }

    #[test]
    fn wildcards_and_short_beginnings_rule_nothing_out() {
        let web = request(Some("spiffe://td/ns/shop/sa/web"));
        for values in [
            &["*"][..],
            &["*/42"],
            &["/orders/42", "*x"],
            &["/items", "/o*"],
            &["/{*}/42"],
        ] {
            assert!(admits(paths(values), false, &web), "{values:?}");
        }
        for value in ["*/sa/web", "td/*", "*"] {
            assert!(admits(Attribute::Principal(texts(&[value])), false, &web), "{value}");
        }
    }

    #[test]
    fn on_bytes_and_before_a_request_http_conditions_rule_nothing_out() {
        let web = request(Some("spiffe://td/ns/shop/sa/web"));
        for layer in [Layer::Bytes, Layer::HttpToCome] {
            let traits = Traits::of(&web, &layer);
            for attribute in [Attribute::Method(texts(&["POST"])), paths(&["/items"]), paths(&[])] {
                assert!(rule(attribute, false).sketch().admits(&traits));
            }
        }
    }
}
