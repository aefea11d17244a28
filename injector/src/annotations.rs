//! What a pod's annotations `squire.mesh/…` ask for. Every value is checked here, so that a mistake is a refusal with words
//! at admission and not a sidecar that does not start.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use squire_mesh::ports;

use crate::settings::{Resources, Settings};

const DOMAIN: &str = "squire.mesh/";
/// As many exclusions as the redirection takes, all kinds together.
const MOST_EXCLUSIONS: usize = 512;
/// What a sidecar can be told of.
pub(crate) const SUBSCRIPTIONS: &[&str] = &["all", "on-demand"];
/// Annotations of pods that others read or write.
const OTHERS: [&str; 4] = [ports::INJECT, ports::INJECTED, ports::SKIPPED, ports::TRANSPORT];

/// One annotation: what sets it, and what it is for.
#[derive(Debug)]
pub struct Knob {
    /// After `squire.mesh/`.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    set: fn(&mut Wishes, &str) -> Result<(), String>,
}

/// What one pod's sidecar is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) exclude_inbound_ports: String,
    pub(crate) exclude_outbound_ports: String,
    pub(crate) exclude_outbound_cidrs: String,
    pub(crate) resources: Resources,
    pub(crate) log_level: String,
    pub(crate) access_log: String,
    pub(crate) unknown_destinations: String,
    pub(crate) subscription: String,
    pub(crate) workload_api: bool,
}

/// All annotations that shape a sidecar.
pub const KNOBS: &[Knob] = &[
    Knob {
        name: "exclude-inbound-ports",
        help: "ports reached without the sidecar: 22,8000-8100",
        set: |wishes, text| list(text, port_range).map(|list| wishes.exclude_inbound_ports = list),
    },
    Knob {
        name: "exclude-outbound-ports",
        help: "ports dialled without the sidecar",
        set: |wishes, text| list(text, port_range).map(|list| wishes.exclude_outbound_ports = list),
    },
    Knob {
        name: "exclude-outbound-cidrs",
        help: "networks dialled without the sidecar: 169.254.169.254/32,fd00::/8",
        set: |wishes, text| list(text, cidr).map(|list| wishes.exclude_outbound_cidrs = list),
    },
    Knob {
        name: "proxy-cpu-request",
        help: "CPU the sidecar asks for: 100m",
        set: |wishes, text| keep(&mut wishes.resources.cpu_request, text),
    },
    Knob {
        name: "proxy-cpu-limit",
        help: "CPU it gets at most: 2",
        set: |wishes, text| keep(&mut wishes.resources.cpu_limit, text),
    },
    Knob {
        name: "proxy-memory-request",
        help: "memory it asks for: 64Mi",
        set: |wishes, text| keep(&mut wishes.resources.memory_request, text),
    },
    Knob {
        name: "proxy-memory-limit",
        help: "memory it gets at most: 512Mi",
        set: |wishes, text| keep(&mut wishes.resources.memory_limit, text),
    },
    Knob {
        name: "log-level",
        help: "error, warn, info, debug or trace, or a list: info,squire_proxy::xds=debug",
        set: |wishes, text| log_level(text).map(|()| text.clone_into(&mut wishes.log_level)),
    },
    Knob {
        name: "access-log",
        help: "stdout or off",
        set: |wishes, text| one_of(text, &["stdout", "off"]).map(|()| text.clone_into(&mut wishes.access_log)),
    },
    Knob {
        name: "unknown-destinations",
        help: "passthrough or refuse: connections to addresses the mesh does not know",
        set: |wishes, text| {
            one_of(text, &["passthrough", "refuse"]).map(|()| text.clone_into(&mut wishes.unknown_destinations))
        },
    },
    Knob {
        name: "subscription",
        help: "all or on-demand: whether the sidecar is told of every workload, or of those that its connections need",
        set: |wishes, text| one_of(text, SUBSCRIPTIONS).map(|()| text.clone_into(&mut wishes.subscription)),
    },
    Knob {
        name: "workload-api",
        help: "true: the SPIFFE Workload API for the application, at SPIFFE_ENDPOINT_SOCKET",
        set: |wishes, text| one_of(text, &["true", "false"]).map(|()| wishes.workload_api = text == "true"),
    },
];

impl Wishes {
    /// The settings as the annotations change them; what is wrong goes to `problems`, what nobody knows to `warnings`.
    pub(crate) fn read(
        settings: &Settings,
        annotations: &BTreeMap<String, String>,
        problems: &mut Vec<String>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut wishes = Self {
            exclude_inbound_ports: String::new(),
            exclude_outbound_ports: String::new(),
            exclude_outbound_cidrs: String::new(),
            resources: settings.resources.clone(),
            log_level: settings.log_level.clone(),
            access_log: settings.access_log.clone(),
            unknown_destinations: settings.unknown_destinations.clone(),
            subscription: settings.subscription.clone(),
            workload_api: false,
        };
        let ours = annotations.iter().filter(|(key, _)| key.starts_with(DOMAIN));
        for (key, value) in ours.filter(|(key, _)| !OTHERS.contains(&key.as_str())) {
            match KNOBS.iter().find(|knob| key[DOMAIN.len()..] == *knob.name) {
                Some(knob) => problems.extend(
                    (knob.set)(&mut wishes, value.trim())
                        .err()
                        .map(|why| format!("annotation {key}: {why}")),
                ),
                None => warnings.push(format!(
                    "annotation {key}: no pod has such an annotation; known: {}",
                    KNOBS.iter().map(|knob| knob.name).collect::<Vec<_>>().join(", ")
                )),
            }
        }
        let prefix = "annotations squire.mesh/proxy-…: ";
        problems.extend(wishes.resources.check(prefix));
        let count = |list: &str| list.split(',').filter(|entry| !entry.is_empty()).count();
        let exclusions = count(&wishes.exclude_inbound_ports)
            + count(&wishes.exclude_outbound_ports)
            + count(&wishes.exclude_outbound_cidrs);
        if exclusions > MOST_EXCLUSIONS {
            problems.push(format!(
                "annotations squire.mesh/exclude-…: {exclusions} exclusions are too many, {MOST_EXCLUSIONS} the most: \
                 write ranges or larger networks"
            ));
        }
        wishes
    }
}

/// A comma-separated list, each entry once and in order.
fn list<T: Ord + ToString>(text: &str, read: fn(&str) -> Result<T, String>) -> Result<String, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let set: BTreeSet<T> = entries.map(read).collect::<Result<_, _>>()?;
    Ok(set.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// `22` or `8000-8100`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Range(u16, u16);

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 == self.1 {
            true => self.0.fmt(f),
            false => write!(f, "{}-{}", self.0, self.1),
        }
    }
}

fn port_range(text: &str) -> Result<Range, String> {
    let port = |text: &str| match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port from 1 to 65535")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = Range(port(first)?, port(last)?);
    if range.0 > range.1 {
        return Err(format!("{text:?} ends before it begins"));
    }
    Ok(range)
}

fn cidr(text: &str) -> Result<ipnet::IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => Ok(ipnet::IpNet::from(address)),
        Err(_) => text.parse::<ipnet::IpNet>(),
    };
    let network = network.map_err(|_| format!("{text:?} is not an address or a network such as 10.0.0.0/8"))?;
    Ok(network.trunc())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the shape of every knob; quantities are checked together"
)]
fn keep(into: &mut Option<String>, text: &str) -> Result<(), String> {
    *into = (!text.is_empty()).then(|| text.to_owned());
    Ok(())
}

fn one_of(text: &str, known: &[&str]) -> Result<(), String> {
    match known.contains(&text) {
        true => Ok(()),
        false => Err(format!("{text:?}; write {}", known.join(" or "))),
    }
}

/// What the sidecar's log takes.
pub(crate) fn log_level(text: &str) -> Result<(), String> {
    let level = |level: &str| matches!(level, "error" | "warn" | "info" | "debug" | "trace" | "off");
    let target = |target: &str| target.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b));
    let right = |part: &str| match part.split_once('=') {
        None => level(part),
        Some((name, part)) => level(part) && target(name),
    };
    match text.split(',').find(|part| !right(part)) {
        None => Ok(()),
        Some(part) => Err(format!(
            "{part:?} is not a level; write error, warn, info, debug or trace"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Wishes, Vec<String>, Vec<String>) {
        let annotations = pairs
            .iter()
            .map(|(key, value)| (format!("squire.mesh/{key}"), (*value).to_owned()))
            .collect();
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let wishes = Wishes::read(&Settings::default(), &annotations, &mut problems, &mut warnings);
        (wishes, problems, warnings)
    }

    #[test]
    fn lists_are_written_once_each_and_in_order() {
        let (wishes, problems, _) = read(&[
            ("exclude-inbound-ports", " 9000 - 9010, 22,,22"),
            ("exclude-outbound-cidrs", "fd00:1::5/32, 10.1.2.3/8,169.254.169.254"),
            ("exclude-outbound-ports", ""),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(wishes.exclude_inbound_ports, "22,9000-9010");
        assert_eq!(
            wishes.exclude_outbound_cidrs,
            "10.0.0.0/8,169.254.169.254/32,fd00:1::/32"
        );
        assert_eq!(wishes.exclude_outbound_ports, "");
    }

    #[test]
    fn every_mistake_is_named_with_its_annotation() {
        for (key, value, says) in [
            ("exclude-inbound-ports", "22,http", "\" http\"".trim()),
            ("exclude-inbound-ports", "0", "1 to 65535"),
            ("exclude-outbound-ports", "9-8", "ends before"),
            ("exclude-outbound-cidrs", "10.0.0.0/33", "is not an address"),
            ("exclude-outbound-cidrs", "example.org", "is not an address"),
            ("proxy-cpu-request", "half", "is not a quantity"),
            ("proxy-memory-limit", "1Mi", "above the limit"),
            ("log-level", "verbose", "is not a level"),
            ("access-log", "/tmp/log", "stdout or off"),
            ("unknown-destinations", "deny", "passthrough or refuse"),
            ("subscription", "some", "all or on-demand"),
            ("subscription", "", "all or on-demand"),
            ("workload-api", "yes", "true or false"),
        ] {
            let (_, problems, _) = read(&[(key, value)]);
            assert_eq!(problems.len(), 1, "{key}={value}: {problems:?}");
            let says = says.trim_matches(|c| c == '"' || c == ' ');
            assert!(
                problems[0].contains(says) && problems[0].contains("squire.mesh/"),
                "{problems:?}"
            );
        }
        let (_, problems, _) = read(&[("log-level", "x"), ("access-log", "y")]);
        assert_eq!(problems.len(), 2, "all at once");
    }

    #[test]
    fn too_many_exclusions_are_refused_before_the_kernel_does() {
        let ports: Vec<String> = (1..=513).map(|port: u16| port.to_string()).collect();
        let (_, problems, _) = read(&[("exclude-inbound-ports", &ports.join(","))]);
        assert!(problems[0].contains("513"), "{problems:?}");
    }

    #[test]
    fn an_unknown_annotation_is_a_warning_and_those_of_others_are_not() {
        let (_, problems, warnings) = read(&[("log-levle", "info"), ("transport", "squire"), ("inject", "true")]);
        assert!(problems.is_empty() && warnings.len() == 1, "{problems:?} {warnings:?}");
        assert!(
            warnings[0].contains("log-levle") && warnings[0].contains("log-level"),
            "{warnings:?}"
        );
    }
}
