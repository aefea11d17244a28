//! Trust domain aliases (spec §3.6): a principal written for one name of the local trust domain holds for all of them.

use squire_mesh::policy::TextMatch;

use crate::policy::MeshConfig;

/// In policies, a pointer to the local trust domain whatever its name.
const POINTER: &str = "cluster.local";

/// The principals that a written one stands for.
pub(super) fn expand_principal(text: &str, config: &MeshConfig) -> Vec<String> {
    let kept = || vec![text.to_owned()];
    let Some((domain, path)) = text.split_once('/').filter(|_| text.split('/').count() == 5) else {
        return kept();
    };
    let pattern = TextMatch::parse(domain);
    // An alias with a star stands for several names, and the written one may be among them.
    let within = |name: &str| name.contains('*') && TextMatch::parse(name).matches(domain.as_bytes());
    let named = |name: &str| pattern.matches(name.as_bytes()) || within(name);
    if domain == "*" || !(domain == POINTER || config.trust_domains().any(named)) {
        return kept();
    }
    let mut expanded: Vec<String> = config.trust_domains().map(|name| format!("{name}/{path}")).collect();
    // A leading star keeps what was written beside what it stands for: it may match federated domains too.
    if domain.starts_with('*') || config.trust_domains().any(within) {
        expanded.push(text.to_owned());
    }
    expanded
}

/// The trust domains that a written one stands for: all names of the local one, on exact equality only.
pub(super) fn expand_trust_domain(text: &str, config: &MeshConfig) -> Vec<String> {
    if config.trust_domains().any(|name| name == text) {
        config.trust_domains().map(str::to_owned).collect()
    } else {
        vec![text.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(local: &str, aliases: &[&str]) -> MeshConfig {
        MeshConfig {
            trust_domain: local.to_owned(),
            trust_domain_aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            ..MeshConfig::default()
        }
    }

    #[test]
    fn principals_are_expanded_to_every_name_of_the_local_domain() {
        let config = config("td1", &["td2"]);
        for (written, expected) in [
            ("td2/ns/a/sa/b", vec!["td1/ns/a/sa/b", "td2/ns/a/sa/b"]),
            ("cluster.local/ns/a/sa/b", vec!["td1/ns/a/sa/b", "td2/ns/a/sa/b"]),
            ("td*/ns/a/sa/b", vec!["td1/ns/a/sa/b", "td2/ns/a/sa/b"]),
            ("*1/ns/a/sa/b", vec!["td1/ns/a/sa/b", "td2/ns/a/sa/b", "*1/ns/a/sa/b"]),
            ("*/ns/a/sa/b", vec!["*/ns/a/sa/b"]),
            ("td3/ns/a/sa/b", vec!["td3/ns/a/sa/b"]),
            ("td1/ns/a/*", vec!["td1/ns/a/*"]),
            ("*", vec!["*"]),
        ] {
            assert_eq!(expand_principal(written, &config), expected, "{written}");
        }
    }

    #[test]
    fn an_alias_with_a_star_stands_for_every_name_it_matches() {
        let config = config("td1", &["old-*"]);
        assert_eq!(
            expand_principal("old-3/ns/a/sa/b", &config),
            ["td1/ns/a/sa/b", "old-*/ns/a/sa/b", "old-3/ns/a/sa/b"]
        );
        assert_eq!(expand_principal("new-3/ns/a/sa/b", &config), ["new-3/ns/a/sa/b"]);
    }

    #[test]
    fn trust_domains_are_expanded_on_equality_only() {
        let config = config("td1", &["td2"]);
        assert_eq!(expand_trust_domain("td2", &config), ["td1", "td2"]);
        assert_eq!(expand_trust_domain("td*", &config), ["td*"]);
        assert_eq!(expand_trust_domain("td3", &config), ["td3"]);
    }
}
