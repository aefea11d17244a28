//! The objects behind an answer: from manifests or from a running control plane, and the two ends of a question among them.

use std::net::IpAddr;

use squire_mesh::{
    policy::Table,
    spiffe::{SpiffeId, TrustDomain},
    workload::{Interner, UidKind, Workload},
};

use super::{Question, WhyError, live};
use crate::{
    compile::{self, Mesh, Settings},
    facts,
    inventory::Inventory,
    manifest::{Manifest, Problem, Severity},
    policy::{MeshConfig, PolicySet},
};

/// The objects behind an answer: workloads, Services and policies.
pub struct World {
    mesh: Mesh,
    policies: PolicySet,
    /// What is wrong with the objects.
    pub problems: Vec<Problem>,
}

impl World {
    /// From manifests.
    ///
    /// # Errors
    /// When the settings name no valid trust domain.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, WhyError> {
        let (config, mut problems) = MeshConfig::from_objects(&manifest.objects);
        let trust_domain: TrustDomain = config
            .trust_domain
            .parse()
            .map_err(|error| WhyError::TrustDomain(format!("{error}")))?;
        problems.extend(manifest.problems.iter().cloned());
        let mut interner = Interner::default();
        let mut inventory = Inventory::default();
        for object in &manifest.objects {
            match facts::read(&object.api_version, &object.kind, object.value.clone(), &mut interner) {
                Ok(Some(fact)) => {
                    inventory.add(fact.into());
                }
                Ok(None) => {}
                Err(error) => {
                    let path = error.path().unwrap_or_default().to_owned();
                    problems.push(object.problem(Severity::Error, &path, error.why(), ""));
                }
            }
        }
        let settings = Settings {
            trust_domain,
            cluster_domain: "cluster.local".to_owned(),
        };
        let mesh = compile::mesh(&inventory, &settings, &mut interner);
        let (policies, found) = PolicySet::from_objects(&manifest.objects, config);
        problems.extend(found);
        Ok(Self {
            mesh,
            policies,
            problems,
        })
    }

    /// From what a running control plane shows at `/debug/objects`, in the trust domain it signs for.
    ///
    /// # Errors
    /// When the page is not one of this version.
    pub fn from_control_plane(page: &str) -> Result<Self, WhyError> {
        let live::InForce {
            trust_domain,
            mesh,
            objects,
        } = live::read(page).map_err(WhyError::Page)?;
        let (mut config, mut problems) = MeshConfig::from_objects(&objects);
        // Certificates show the domain that the CA signs for, whatever the settings say.
        config.trust_domain = trust_domain;
        let (policies, found) = PolicySet::from_objects(&objects, config);
        problems.extend(found);
        Ok(Self {
            mesh,
            policies,
            problems,
        })
    }

    /// The settings of the mesh.
    pub(super) fn config(&self) -> &MeshConfig {
        self.policies.config()
    }

    /// What policy says of a workload.
    pub(super) fn table(&self, workload: &Workload) -> Table {
        self.policies.compile(&workload.into())
    }

    /// Whether the source is an address of the node that the destination runs on (spec §1.5.17), as sidecars see it.
    pub(super) fn is_own_node(&self, from: &End<'_>, to: &End<'_>) -> bool {
        let Some(destination) = to.workload else { return false };
        let ip = from.ip.to_canonical();
        let mut there = self
            .mesh
            .workloads
            .values()
            .filter(|workload| workload.addresses.contains(&ip));
        there.any(|workload| destination.runs_on_node_of(workload))
    }

    /// Both ends of a question, and the port that is reached.
    pub(super) fn ends(&self, question: &Question) -> Result<(End<'_>, End<'_>, u16), WhyError> {
        let from = self.source(&question.from)?;
        let (to, port) = self.destination(&question.to)?;
        Ok((from, to, port))
    }

    fn source(&self, name: &str) -> Result<End<'_>, WhyError> {
        if let Ok(id) = name.parse::<SpiffeId>() {
            let workload = self
                .mesh
                .workloads
                .values()
                .find(|workload| workload.identity.as_ref() == Some(&id));
            let ip = workload
                .and_then(|workload| workload.addresses.first().copied())
                .unwrap_or(NOWHERE);
            let shown = workload.map_or_else(
                || format!("{id} (no workload has it)"),
                |workload| format!("{id} ({})", workload.uid),
            );
            return Ok(End {
                name: shown,
                ip,
                workload,
                id: Some(id),
            });
        }
        let end = self.end("from", name)?;
        let id = end
            .workload
            .filter(|workload| workload.transport.is_mtls())
            .and_then(|workload| workload.identity.clone());
        Ok(End { id, ..end })
    }

    fn destination(&self, text: &str) -> Result<(End<'_>, u16), WhyError> {
        let (name, port) = text.rsplit_once(':').ok_or_else(|| WhyError::Port(text.to_owned()))?;
        let number = port.parse::<u16>().ok();
        let backing = self
            .mesh
            .workloads
            .values()
            .find_map(|workload| Some((workload, workload.membership(name)?)));
        let known = self
            .mesh
            .workloads
            .values()
            .any(|workload| workload.uid.as_str() == name);
        if let Some((workload, membership)) = backing.filter(|_| !known) {
            let pair = membership.ports.iter().find(|pair| Some(pair.service_port) == number);
            let target = pair
                .map(|pair| pair.target_port)
                .or(number)
                .ok_or_else(|| WhyError::Port(text.to_owned()))?;
            let name = format!("{} behind Service {name}", workload.uid);
            return Ok((
                End {
                    name,
                    ..End::of(workload)
                },
                target,
            ));
        }
        let end = self.end("to", name)?;
        let named = end
            .workload
            .and_then(|workload| workload.named_port(port, Default::default()));
        let port = number.or(named).ok_or_else(|| WhyError::Port(text.to_owned()))?;
        Ok((end, port))
    }

    fn end(&self, what: &'static str, name: &str) -> Result<End<'_>, WhyError> {
        if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
            let workload = self
                .mesh
                .workloads
                .values()
                .find(|workload| workload.addresses.contains(&ip));
            let shown = workload.map_or_else(
                || format!("{ip} (no workload)"),
                |workload| format!("{ip} ({})", workload.uid),
            );
            return Ok(End {
                name: shown,
                ip,
                workload,
                id: None,
            });
        }
        let workloads = || {
            self.mesh
                .workloads
                .values()
                .filter(|workload| workload.uid.kind() != UidKind::Address)
        };
        let owner = |workload: &&Workload| {
            let owner = workload
                .owner
                .as_ref()
                .map(|owner| format!("{}/{}", workload.namespace, owner.name));
            owner.as_deref() == Some(name)
        };
        let found = workloads()
            .find(|workload| workload.uid.as_str() == name)
            .or_else(|| workloads().find(owner));
        found.map(End::of).ok_or_else(|| WhyError::NotFound {
            what,
            name: name.to_owned(),
            known: workloads()
                .take(10)
                .map(|workload| workload.uid.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// An address that no workload has (RFC 5737), for identities without a workload.
const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// One end of a question.
pub(super) struct End<'w> {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    pub(super) workload: Option<&'w Workload>,
    pub(super) id: Option<SpiffeId>,
}

impl<'w> End<'w> {
    fn of(workload: &'w Workload) -> Self {
        let ip = workload.addresses.first().copied().unwrap_or(NOWHERE);
        Self {
            name: workload.uid.to_string(),
            ip,
            workload: Some(workload),
            id: None,
        }
    }
}
