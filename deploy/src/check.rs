//! `squire check`: whether a cluster can take the mesh, and whether the mesh stands. It looks, and asks the API server to
//! create a pod for the sake of asking (`dryRun`); it changes nothing. Each failure says what to do.

mod cluster;
mod mesh;

use std::time::SystemTime;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde::Serialize;
use squire_mesh::ports::{self, CONTROL_ACCOUNT, INJECTOR_ACCOUNT, SYSTEM_NAMESPACE};

use self::{
    cluster::{clock, permissions, pod_security, version},
    mesh::{available, injection, roots, sync, webhook},
};
use crate::Values;

/// Which questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before an installation.
    Before,
    /// After it.
    After,
}

/// How one question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should be.
    Ok,
    /// It works, and something is to be known.
    Warning,
    /// It does not work.
    Failed,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub mark: Mark,
    /// What was seen.
    pub seen: String,
    /// What to do about it; empty when nothing.
    pub fix: String,
}

impl Finding {
    fn ok(what: &str, seen: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            mark: Mark::Ok,
            seen: seen.into(),
            fix: String::new(),
        }
    }

    fn bad(what: &str, mark: Mark, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            mark,
            seen: seen.into(),
            fix: fix.into(),
        }
    }

    fn failed(what: &str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(what, Mark::Failed, seen, fix)
    }
}

/// Whether there is an installation to look at.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn stage(client: &Client) -> kube::Result<Stage> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    Ok(if api.get_opt(CONTROL_ACCOUNT).await?.is_some() {
        Stage::After
    } else {
        Stage::Before
    })
}

/// Asks everything of a stage.
///
/// # Errors
/// When the API server cannot be reached at all.
pub async fn run(client: &Client, values: &Values, stage: Stage, now: SystemTime) -> kube::Result<Vec<Finding>> {
    let mut findings = vec![version(&client.apiserver_version().await?), clock(client, now).await?];
    let namespaces = Api::<Namespace>::all(client.clone());
    let meshed = namespaces
        .list(&ListParams::default().labels(&format!("{}=true", ports::INJECT)))
        .await;
    let meshed = meshed.map(|list| list.items).unwrap_or_default();
    findings.extend(meshed.iter().filter_map(pod_security));
    match stage {
        Stage::Before => findings.push(permissions(client, values).await?),
        Stage::After => {
            let control = available(client, CONTROL_ACCOUNT).await;
            let nobody = control.mark == Mark::Failed;
            findings.push(control);
            findings.push(available(client, INJECTOR_ACCOUNT).await);
            let roots = roots(client, values, now).await;
            findings.push(webhook(client, roots.as_ref().ok().map(|(pem, _)| pem.as_str())).await);
            findings.push(roots.map_or_else(|finding| finding, |(_, finding)| finding));
            findings.push(injection(client, meshed.first().map(ResourceExt::name_any)).await);
            // The API server waits long for a Service that nobody stands behind.
            if !nobody {
                findings.push(sync(client).await);
            }
        }
    }
    Ok(findings)
}
