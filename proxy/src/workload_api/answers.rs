//! Domain values as messages of the Workload API. Each message says everything anew (Workload API 4.3).

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Value, value::Kind};
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    wire::workload_api::{JwtBundlesResponse, X509BundlesResponse, X509Svid, X509SvidResponse},
};

use crate::identity::KeyedSvid;

/// The application's SVID, and the bundles to verify others by.
pub(super) fn x509_svid(keyed: &KeyedSvid, bundles: &TrustBundles) -> X509SvidResponse {
    let id = keyed.svid.id();
    let svid = X509Svid {
        spiffe_id: id.to_string(),
        x509_svid: keyed.svid.chain().iter().flat_map(|der| der.iter().copied()).collect(),
        x509_svid_key: keyed.key.secret_der().to_vec(),
        bundle: bundles.get(id.trust_domain()).map(roots).unwrap_or_default(),
        hint: String::new(),
    };
    let others = bundles
        .iter()
        .filter(|bundle| bundle.trust_domain() != id.trust_domain());
    X509SvidResponse {
        svids: vec![svid],
        crl: Vec::new(),
        federated_bundles: by_domain(others, roots),
    }
}

/// The roots of every trust domain.
pub(super) fn x509_bundles(bundles: &TrustBundles) -> X509BundlesResponse {
    X509BundlesResponse {
        crl: Vec::new(),
        bundles: by_domain(bundles.iter(), roots),
    }
}

/// The keys for JWT-SVIDs of every trust domain, and no others.
pub(super) fn jwt_bundles(bundles: &TrustBundles) -> JwtBundlesResponse {
    JwtBundlesResponse {
        bundles: by_domain(bundles.iter(), |bundle| bundle.to_jwt_key_set().into_bytes()),
    }
}

fn by_domain<'b>(
    bundles: impl Iterator<Item = &'b TrustBundle>,
    content: impl Fn(&TrustBundle) -> Vec<u8>,
) -> BTreeMap<String, Vec<u8>> {
    let named = |bundle: &TrustBundle| (bundle.trust_domain().id().to_string(), content(bundle));
    bundles.map(named).collect()
}

/// DER certificates, one after another.
fn roots(bundle: &TrustBundle) -> Vec<u8> {
    let ders = bundle.roots().iter();
    ders.flat_map(|root| root.der().iter().copied()).collect()
}

/// Claims as the message's kind of JSON.
pub(super) fn claims(claims: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct {
        fields: claims
            .iter()
            .map(|(name, claim)| (name.clone(), value(claim)))
            .collect(),
    }
}

fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(*flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(list) => Kind::ListValue(ListValue {
            values: list.iter().map(value).collect(),
        }),
        Json::Object(map) => Kind::StructValue(claims(map)),
    };
    Value { kind: Some(kind) }
}
