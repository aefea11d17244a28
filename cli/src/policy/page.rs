//! One page of an admin endpoint, over plain HTTP: at an address, or of a cluster's control plane.

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    cluster::ClusterArgs,
    exit::Failure,
    fetch::{self, Endpoint},
};

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The page at `path` of the endpoint (`host:port`, with or without `http://`).
pub(super) fn get(address: &str, path: &str) -> Result<String, Failure> {
    let endpoint: Endpoint = address
        .parse()
        .map_err(|why: String| Failure::usage(anyhow::anyhow!("--control: {why}")))?;
    wait(fetched(&endpoint, path))
}

/// The page at `path` of the control plane of a cluster; none where no cluster is asked for.
pub(crate) fn of_cluster(cluster: &ClusterArgs, path: &str) -> Result<Option<String>, Failure> {
    wait(async {
        match cluster.control().await? {
            Some(endpoint) => fetched(&endpoint, path).await.map(Some),
            None => Ok(None),
        }
    })
}

async fn fetched(endpoint: &Endpoint, path: &str) -> anyhow::Result<String> {
    let page = fetch::page(endpoint, path, PATIENCE).await;
    let page = page.context("cannot be asked: is the control plane running there?")?;
    if !page.status.is_success() {
        anyhow::bail!(
            "http://{endpoint}{path}: answered {}: {}",
            page.status,
            page.text().trim()
        );
    }
    Ok(page.text())
}

fn wait<T>(asked: impl Future<Output = anyhow::Result<T>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(Failure::unavailable)?
        .block_on(asked)
        .map_err(Failure::unavailable)
}
