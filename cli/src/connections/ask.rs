//! Asks the sidecars: finds out where they are from the control plane's `/debug/sync` (or was told), then gets each one's
//! `/connections`, many at once. It prints nothing.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

use super::view::Connection;
use crate::fetch::{self, Endpoint};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sidecars asked at once.
const AT_ONCE: usize = 64;

/// Whom to ask, about whom.
pub(super) struct Source {
    pub(super) control: Endpoint,
    /// When there are any, the control plane is not asked.
    pub(super) proxies: Vec<Endpoint>,
    pub(super) workload: Option<String>,
}

/// What was answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Ordered by sidecar, then by age.
    pub(super) connections: Vec<Connection>,
    /// Sidecars asked.
    pub(super) asked: usize,
    /// Why some gave no answer.
    pub(super) silent: Vec<String>,
}

/// A sidecar to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sidecar {
    /// `namespace/name`; none when only its address was given.
    workload: Option<String>,
    spiffe_id: Option<String>,
    admin: Endpoint,
}

impl Source {
    /// Asks once.
    pub(super) async fn ask(&self) -> anyhow::Result<Answer> {
        let mut answer = Answer::default();
        let sidecars = self.sidecars(&mut answer).await?;
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut asking = JoinSet::new();
        for sidecar in sidecars {
            answer.asked += 1;
            let (slots, wanted) = (Arc::clone(&slots), self.workload.clone());
            asking.spawn(async move {
                let _slot = slots.acquire_owned().await;
                connections_of(&sidecar, wanted.as_deref())
                    .await
                    .map_err(|error| sidecar.complaint(&error))
            });
        }
        while let Some(asked) = asking.join_next().await {
            match asked.context("a sidecar could not be asked")? {
                Ok(found) => answer.connections.extend(found),
                Err(complaint) => answer.silent.push(complaint),
            }
        }
        answer.connections.sort_by(|one, other| {
            let by_sidecar = one.sidecar.cmp(&other.sidecar);
            by_sidecar.then(other.age.total_cmp(&one.age))
        });
        answer.silent.sort();
        Ok(answer)
    }

    async fn sidecars(&self, answer: &mut Answer) -> anyhow::Result<Vec<Sidecar>> {
        if !self.proxies.is_empty() {
            return Ok(self.proxies.iter().map(Sidecar::at).collect());
        }
        let sync = fetch::json(&self.control, "/debug/sync", PATIENCE).await.context(
            "the control plane cannot be asked where the sidecars are; start it, name its admin endpoint with --control, \
             or ask sidecars directly with --proxy",
        )?;
        let known = known(&sync, &self.control, answer);
        let Some(wanted) = &self.workload else {
            return Ok(known);
        };
        let connected: Vec<String> = known.iter().filter_map(|sidecar| sidecar.workload.clone()).collect();
        let fitting: Vec<_> = known.into_iter().filter(|sidecar| sidecar.is(wanted)).collect();
        if fitting.is_empty() {
            let connected = if connected.is_empty() {
                "none".to_owned()
            } else {
                connected.join(", ")
            };
            bail!(
                "no sidecar of {wanted:?} is connected to the control plane at {}; connected are: {connected}",
                self.control
            );
        }
        Ok(fitting)
    }
}

/// The sidecars in a `/debug/sync`; those that have not said where they can be asked are complained of.
fn known(sync: &Value, control: &Endpoint, answer: &mut Answer) -> Vec<Sidecar> {
    let mut known = Vec::new();
    for entry in sync["proxies"].as_array().into_iter().flatten() {
        let workload = entry["proxy"]["node"].as_str().unwrap_or("?").to_owned();
        let admin = entry["report"]["admin_address"].as_str();
        match admin.map(str::parse::<Endpoint>) {
            Some(Ok(admin)) => known.push(Sidecar {
                admin: within(control, &workload, &admin).unwrap_or(admin),
                workload: Some(workload),
                spiffe_id: entry["proxy"]["spiffe_id"].as_str().map(str::to_owned),
            }),
            Some(Err(_)) | None => {
                answer.asked += 1;
                let complaint = format!("{workload}: has not reported yet where its admin endpoint is");
                answer.silent.push(complaint);
            }
        }
    }
    known
}

/// The way to a pod of the cluster that the control plane was asked in.
fn within(control: &Endpoint, workload: &str, admin: &Endpoint) -> Option<Endpoint> {
    let (namespace, pod) = workload.split_once('/')?;
    (!pod.contains('/'))
        .then(|| control.beside(namespace, pod, admin.port()))
        .flatten()
}

impl Sidecar {
    fn at(admin: &Endpoint) -> Self {
        Self {
            workload: None,
            spiffe_id: None,
            admin: admin.clone(),
        }
    }

    /// Whether a person means this one.
    fn is(&self, wanted: &str) -> bool {
        let named = |uid: &str| uid == wanted || uid.rsplit('/').next() == Some(wanted);
        self.workload.as_deref().is_some_and(named) || self.spiffe_id.as_deref() == Some(wanted)
    }

    fn complaint(&self, error: &anyhow::Error) -> String {
        let name = self.workload.clone().unwrap_or_else(|| self.admin.to_string());
        let hint = if self.admin.to_string().starts_with("127.0.0.1:") && self.workload.is_some() {
            "; it listens on loopback: set `admin` in its configuration, or forward the port and use --proxy"
        } else {
            ""
        };
        format!("{name}: {error:#}{hint}")
    }
}

/// The connections of one sidecar, unless it is not the one that is wanted.
async fn connections_of(sidecar: &Sidecar, wanted: Option<&str>) -> anyhow::Result<Vec<Connection>> {
    let mut sidecar = sidecar.clone();
    if sidecar.workload.is_none() {
        let config = fetch::json(&sidecar.admin, "/config", PATIENCE).await?;
        sidecar.workload = config["config"]["workload"].as_str().map(str::to_owned);
        sidecar.spiffe_id = config["identity"]["svid"]["id"].as_str().map(str::to_owned);
        if wanted.is_some_and(|wanted| !sidecar.is(wanted)) {
            return Ok(Vec::new());
        }
    }
    let page = fetch::json(&sidecar.admin, "/connections", PATIENCE).await?;
    let mut connections: Vec<Connection> = serde_json::from_value(page).map_err(|error| {
        anyhow!(
            "http://{}/connections: not what a sidecar answers: {error}",
            sidecar.admin
        )
    })?;
    for connection in &mut connections {
        connection.sidecar = sidecar.workload.clone().unwrap_or_else(|| sidecar.admin.to_string());
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use serde_json::json;

    use super::*;

    #[test]
    fn sidecars_are_where_they_report_to_be() {
        let sync = json!({"proxies": [
            {"proxy": {"node": "shop/web", "spiffe_id": "spiffe://td/ns/shop/sa/web"}, "report": {"admin_address": "10.0.0.1:15020"}},
            {"proxy": {"node": "shop/new", "spiffe_id": "spiffe://td/ns/shop/sa/new"}, "report": null},
        ]});
        let mut answer = Answer::default();
        let known = known(&sync, &Endpoint::from(deserted()), &mut answer);
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].admin.to_string(), "10.0.0.1:15020");
        assert!(answer.silent[0].starts_with("shop/new:"), "{:?}", answer.silent);
        for (wanted, is) in [
            ("shop/web", true),
            ("web", true),
            ("spiffe://td/ns/shop/sa/web", true),
            ("eb", false),
            ("shop", false),
            ("other/web", false),
        ] {
            assert_eq!(known[0].is(wanted), is, "{wanted}");
        }
    }

    /// Bound once and closed again: nobody answers there.
    fn deserted() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_control_plane_that_is_not_there_is_an_error_that_says_what_to_do() {
        let address = deserted();
        let source = Source {
            control: Endpoint::from(address),
            proxies: Vec::new(),
            workload: None,
        };
        let error = format!("{:#}", source.ask().await.unwrap_err());
        assert!(
            error.contains("--control") && error.contains(&address.to_string()),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_sidecar_that_does_not_answer_is_named() {
        let address = deserted();
        let source = Source {
            control: Endpoint::from(address),
            proxies: vec![Endpoint::from(address)],
            workload: None,
        };
        let answer = source.ask().await.unwrap();
        assert_eq!((answer.asked, answer.connections.len()), (1, 0));
        assert!(
            answer.silent[0].starts_with(&address.to_string()),
            "{:?}",
            answer.silent
        );
    }
}
