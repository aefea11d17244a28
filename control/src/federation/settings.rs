//! The `federation` list of the mesh settings: which trust domains, where their bundles are, and how their endpoints prove
//! themselves. Nothing is inferred from anything else (SPIFFE Federation 5.1, 7.2).

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;
use squire_mesh::{
    bundle::TrustBundle,
    spiffe::{SpiffeId, TrustDomain},
};

use super::EndpointUrl;
use crate::{
    manifest::Object,
    policy::{
        MeshConfig,
        report::{Fields, Node, Report},
    },
};

/// Trust domains that can be federated with.
const MAX_DOMAINS: usize = 256;
/// Fields of an entry.
const FIELDS: [&str; 6] = [
    "trustDomain",
    "url",
    "profile",
    "endpointSpiffeId",
    "bundle",
    "webRoots",
];

/// Another trust domain, and where its bundle is.
#[derive(Debug, Clone, PartialEq)]
pub struct Federated {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// Where its bundle is.
    pub url: EndpointUrl,
    /// How the endpoint proves itself.
    pub profile: Profile,
    /// Its bundle as the admin has got it by another way: what the first connection is verified by.
    pub bootstrap: Option<TrustBundle>,
}

/// How a bundle endpoint proves itself (SPIFFE Federation 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// `https_web`: a certificate for its host name, under these roots; none: those of the machine.
    Web {
        /// Roots.
        roots: Option<Vec<CertificateDer<'static>>>,
    },
    /// `https_spiffe`: an SVID of this ID.
    Spiffe {
        /// Who has to answer.
        id: SpiffeId,
    },
}

/// What the mesh settings among these objects say.
pub fn configured<'o>(objects: impl IntoIterator<Item = &'o Object>) -> Vec<Federated> {
    let mut objects = objects.into_iter();
    let Some(object) = objects.find(|object| MeshConfig::is_own(object)) else {
        return Vec::new();
    };
    let mut report = Report::new(object);
    let spec = report.spec(&MeshConfig::FIELDS);
    spec.get("federation")
        .map(|node| read(&node, &mut report))
        .unwrap_or_default()
}

/// The entries of the list that are right; what is wrong with the others is reported.
pub(crate) fn read(node: &Node<'_>, report: &mut Report<'_>) -> Vec<Federated> {
    let mut all: Vec<Federated> = Vec::new();
    for node in node.list(report) {
        let Some(federated) = entry(&node, report) else {
            continue;
        };
        let path = format!("{}.trustDomain", node.path);
        if all.iter().any(|other| other.trust_domain == federated.trust_domain) {
            report.error(&path, "named twice", "keep one entry for each trust domain");
        } else if all.len() == MAX_DOMAINS {
            report.error(&path, format!("more than {MAX_DOMAINS} trust domains"), "remove some");
        } else {
            all.push(federated);
        }
    }
    all
}

fn entry(node: &Node<'_>, report: &mut Report<'_>) -> Option<Federated> {
    let fields = node.fields(report, &FIELDS);
    let trust_domain: Option<TrustDomain> = parsed(&fields, "trustDomain", report);
    let url = parsed(&fields, "url", report);
    let profile = profile(&fields, report);
    let trust_domain = trust_domain?;
    let bootstrap = match fields.get("bundle") {
        Some(node) => Some(bundle(&node, &trust_domain, report)?),
        None => None,
    };
    let profile = profile?;
    if let Profile::Spiffe { id } = &profile
        && *id.trust_domain() == trust_domain
        && bootstrap.is_none()
    {
        let fix = "put the other mesh's bundle here once: `squire ca bundle --format spiffe` prints it there";
        report.error(
            &format!("{}.bundle", fields.path),
            "missing: nothing vouches for the endpoint's first certificate",
            fix,
        );
        return None;
    }
    Some(Federated {
        trust_domain,
        url: url?,
        profile,
        bootstrap,
    })
}

fn profile(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Profile> {
    let wrong = |key: &str, message: &str, fix: &str, report: &mut Report<'_>| {
        report.error(&format!("{}.{key}", fields.path), message, fix);
        None
    };
    match fields.text("profile", report) {
        Some("https_web") if fields.get("endpointSpiffeId").is_some() => {
            let fix = "remove it, or write profile: https_spiffe";
            wrong("endpointSpiffeId", "https_web does not look at SPIFFE IDs", fix, report)
        }
        Some("https_web") => {
            let roots = match fields.get("webRoots") {
                Some(node) => Some(web_roots(&node, report)?),
                None => None,
            };
            Some(Profile::Web { roots })
        }
        Some("https_spiffe") if fields.get("webRoots").is_some() => {
            wrong("webRoots", "https_spiffe does not look at them", "remove it", report)
        }
        Some("https_spiffe") => Some(Profile::Spiffe {
            id: parsed(fields, "endpointSpiffeId", report)?,
        }),
        _ => wrong(
            "profile",
            "neither https_web nor https_spiffe",
            "write one of them",
            report,
        ),
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    fields: &Fields<'_>,
    key: &str,
    report: &mut Report<'_>,
) -> Option<T> {
    let path = format!("{}.{key}", fields.path);
    if fields.get(key).is_none() {
        report.error(&path, "missing", "nothing is inferred from the other fields: write it");
        return None;
    }
    match fields.text(key, report)?.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            report.error(&path, error.to_string(), "correct it");
            None
        }
    }
}

/// A document in SPIFFE bundle format: as text, or as the mapping it is.
fn bundle(node: &Node<'_>, trust_domain: &TrustDomain, report: &mut Report<'_>) -> Option<TrustBundle> {
    let document = match node.value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match TrustBundle::from_document(trust_domain, document.as_bytes()) {
        Ok(bundle) => Some(bundle),
        Err(error) => {
            let fix = "`squire ca bundle --format spiffe` prints what belongs here";
            report.error(&node.path, error.to_string(), fix);
            None
        }
    }
}

fn web_roots(node: &Node<'_>, report: &mut Report<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let pem = node.text(report)?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match roots {
        Ok(roots) if !roots.is_empty() => Some(roots),
        _ => {
            report.error(
                &node.path,
                "not PEM certificates",
                "write the CERTIFICATE blocks of the endpoint's authority",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::Severity;

    fn read_all(list: Value) -> (Vec<Federated>, Vec<String>) {
        let object = Object::from_value(
            "mesh.yaml",
            json!({"apiVersion": "squire.mesh/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"}, "spec": {"federation": list}}),
        )
        .unwrap();
        let (_, problems) = MeshConfig::from_objects([&object]);
        let errors = problems
            .into_iter()
            .filter(|problem| problem.severity == Severity::Error);
        (configured([&object]), errors.map(|problem| problem.path).collect())
    }

    fn web() -> Value {
        json!({"trustDomain": "a.example", "url": "https://bundle.a.example/", "profile": "https_web"})
    }

    fn spiffe() -> Value {
        json!({"trustDomain": "b.example", "url": "https://127.0.0.1:8443/", "profile": "https_spiffe",
               "endpointSpiffeId": "spiffe://b.example/ns/squire-system/sa/squire-control",
               "bundle": {"keys": [], "spiffe_sequence": 3}})
    }

    fn with(mut value: Value, name: &str, new: Value) -> Value {
        value[name] = new;
        value
    }

    #[test]
    fn both_profiles_are_read_and_a_bundle_may_be_text() {
        let text = with(spiffe(), "bundle", r#"{"keys": [], "spiffe_sequence": 3}"#.into());
        let (all, errors) = read_all(json!([web(), spiffe()]));
        assert_eq!((all.len(), errors), (2, vec![]));
        assert_eq!(all[0].profile, Profile::Web { roots: None });
        assert_eq!(read_all(json!([text])).0[0], all[1]);
    }

    #[test]
    fn what_is_missing_or_does_not_belong_is_named_and_the_entry_is_left_out() {
        for (entry, path) in [
            (with(web(), "trustDomain", Value::Null), "trustDomain"),
            (with(web(), "trustDomain", "a b".into()), "trustDomain"),
            (with(web(), "url", "http://a.example".into()), "url"),
            (with(web(), "profile", "https".into()), "profile"),
            (
                with(web(), "endpointSpiffeId", "spiffe://a.example/x".into()),
                "endpointSpiffeId",
            ),
            (with(web(), "webRoots", "no PEM".into()), "webRoots"),
            (with(web(), "colour", "red".into()), "colour"),
            (with(spiffe(), "endpointSpiffeId", Value::Null), "endpointSpiffeId"),
            (with(spiffe(), "bundle", Value::Null), "bundle"),
            (with(spiffe(), "bundle", "{}".into()), "bundle"),
            (with(spiffe(), "webRoots", "x".into()), "webRoots"),
        ] {
            let (all, errors) = read_all(json!([entry]));
            let expected = format!("spec.federation[0].{path}");
            assert_eq!(
                (all.len() <= usize::from(path == "colour"), errors),
                (true, vec![expected])
            );
        }
        let (all, errors) = read_all(json!([web(), web()]));
        assert_eq!(
            (all.len(), errors),
            (1, vec!["spec.federation[1].trustDomain".to_owned()])
        );
    }
}
