//! The scale figures as `SCALE.md` for people and `report/scale.json` for programs, and what they mean for a hundred thousand pods. Measures nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Scale;
use super::fleet::{Effort, Figures, Spread};
use super::table::Subscribes;

/// Proxies of the goals, the most seconds until all have acknowledged a change, and the most KiB for each.
const GOAL: (usize, f64, f64) = (5_000, 2.0, 30.0);

/// Writes both, and prints the first.
pub(super) fn write(scale: &Scale, out: &Path) -> Result<()> {
    let data = out.join("report");
    fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    let text = render(scale);
    fs::write(out.join("SCALE.md"), &text)?;
    fs::write(data.join("scale.json"), serde_json::to_string_pretty(scale)? + "\n")?;
    println!("{text}");
    println!("report: {}", out.join("SCALE.md").display());
    Ok(())
}

fn render(scale: &Scale) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = head(scale, &mut text);
    let _ = fleets(&scale.fleets, &mut text);
    let _ = tables(scale, &mut text);
    let _ = meaning(scale, &mut text);
    text
}

fn head(scale: &Scale, text: &mut String) -> std::fmt::Result {
    let machine = &scale.machine;
    writeln!(
        text,
        "# Squire at scale\n\n{}, {} × {}, Linux {}, loopback. Mode {}, {} s. Commit {}. Made by `benches/run scale`; every figure in `report/scale.json`.\n",
        machine.date,
        machine.processors,
        machine.processor,
        machine.kernel,
        scale.mode,
        scale.took_seconds,
        machine.commit.as_deref().unwrap_or("unknown"),
    )?;
    writeln!(
        text,
        "The control plane and all simulated proxies share the processors of this machine. A simulated proxy is a sidecar without a data path: its own key, SVID, \
         mutual TLS connection, incremental xDS stream and reports; what it is told of workloads and services it counts and does not keep."
    )?;
    if scale.mode == "smoke" {
        writeln!(
            text,
            "\n**A smoke run: it shows that everything works; its numbers mean nothing.**"
        )?;
    }
    Ok(())
}

fn fleets(fleets: &[Figures], text: &mut String) -> std::fmt::Result {
    writeln!(text, "\n## One control plane, many proxies\n")?;
    let columns: Vec<String> = fleets.iter().map(|one| format!("{} proxies", one.proxies)).collect();
    writeln!(
        text,
        "| | {} |\n|---{}|",
        columns.join(" | "),
        "|---".repeat(columns.len())
    )?;
    let mut row = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        let cells: Vec<String> = fleets.iter().map(cell).collect();
        writeln!(text, "| {name} | {} |", cells.join(" | "))
    };
    row("control plane ready after, s", &|one| {
        format!("{:.2}", one.ready_ms / 1e3)
    })?;
    row("SVIDs issued by token over gRPC, per second", &|one| {
        format!("{:.0}", one.issued_per_second)
    })?;
    row("rollout: all connected and told everything, s (CPU-s)", &|one| {
        effort(&one.connect)
    })?;
    row("resources told meanwhile", &|one| one.resources.to_string())?;
    row("memory without proxies → with all, MiB", &|one| {
        format!("{:.0} → {:.0}", one.alone_mib, one.connected_mib)
    })?;
    row("… for each proxy, KiB", &|one| format!("{:.1}", one.kib_for_each))?;
    row("a policy of all workloads changes", &|one| spread(&one.policy_of_all))?;
    row("a policy of some workloads changes", &|one| spread(&one.policy_of_some))?;
    row("a pod changes", &|one| spread(&one.pod))?;
    row(
        "killed and started again: all connected and current, s (CPU-s)",
        &|one| effort(&one.restart),
    )?;
    row("the root is rotated, s (CPU-s)", &|one| {
        one.rotation.as_ref().map_or_else(|| "–".to_owned(), effort)
    })?;
    writeln!(
        text,
        "\nChanges: until 50 % / 99 % / all of the proxies concerned have acknowledged, ms, from the moment before the file is replaced (CPU of the control plane for one change, s); \
         medians of the rounds. After a restart proxies come back with backoff and full jitter, up to 8 s apart."
    )?;
    let (proxies, seconds, kib) = GOAL;
    if let Some(one) = fleets.iter().find(|one| one.proxies == proxies) {
        let changes = [&one.policy_of_all, &one.policy_of_some, &one.pod];
        let slowest = changes.iter().map(|one| one.last_ms / 1e3).fold(0.0, f64::max);
        writeln!(text, "\n| goal at {proxies} proxies | reached | |\n|---|---|---|")?;
        for (name, reached, bound) in [
            ("all acknowledge any of these changes, s", slowest, seconds),
            ("memory for each proxy, KiB", one.kib_for_each, kib),
        ] {
            let verdict = if reached <= bound { "met" } else { "**missed**" };
            writeln!(text, "| {name}: ≤ {bound} | {reached:.2} | {verdict} |")?;
        }
    }
    Ok(())
}

fn effort(effort: &Effort) -> String {
    format!("{:.1} ({:.1})", effort.seconds, effort.cpu_seconds)
}

fn spread(spread: &Spread) -> String {
    format!(
        "{:.0} / {:.0} / {:.0} ms for {} ({:.2} s)",
        spread.p50_ms, spread.p99_ms, spread.last_ms, spread.proxies, spread.cpu_seconds
    )
}

fn tables(scale: &Scale, text: &mut String) -> std::fmt::Result {
    writeln!(
        text,
        "\n## One sidecar, many workloads\n\n| workloads | subscribes to | ready after, ms (CPU-s) | RSS, MiB | a change of its own pod applied after, ms | control plane, MiB |\n|---|---|---|---|---|---|"
    )?;
    for one in &scale.tables {
        writeln!(
            text,
            "| {} | {} | {:.0} ({:.2}) | {:.1} | {:.0} | {:.0} |",
            one.workloads,
            one.subscribes.name(),
            one.ready_ms,
            one.ready_cpu_seconds,
            one.rss_mib,
            one.change_ms,
            one.control_mib
        )?;
    }
    Ok(())
}

/// The paper calculation: what was measured, carried on to a hundred thousand pods.
fn meaning(scale: &Scale, text: &mut String) -> std::fmt::Result {
    const PODS: f64 = 100_000.0;
    /// Proxies for each replica of the control plane.
    const SHARE: f64 = 5_000.0;
    let Some(fleet) = scale.fleets.iter().max_by_key(|one| one.proxies) else {
        return Ok(());
    };
    let proxies = fleet.proxies as f64;
    let cpu_of_one_pod = fleet.pod.cpu_seconds / proxies;
    let replicas = PODS / SHARE;
    writeln!(text, "\n## What this means at 100,000 pods\n")?;
    writeln!(
        text,
        "- **A pod's change told to everybody** costs the control plane {:.0} µs of CPU for each proxy: {:.1} CPU-s for 100,000, shared by {replicas:.0} replicas with {SHARE:.0} proxies each ({:.2} s each, on one core). \
         A cluster of that size replaces about 10 pods a second in ordinary times; told to everybody that would be {:.0} cores in sum and {:.0} messages a second for each sidecar to read. \
         This is where full subscription ends; each sidecar subscribing only to what it talks to ends it.",
        cpu_of_one_pod * 1e6,
        cpu_of_one_pod * PODS,
        cpu_of_one_pod * SHARE,
        cpu_of_one_pod * PODS * 10.0,
        10.0,
    )?;
    writeln!(
        text,
        "- **Memory of the control plane**: {:.0} KiB for each proxy, {:.0} MiB for each replica's {SHARE:.0}, and the objects themselves once in each.",
        fleet.kib_for_each,
        fleet.kib_for_each * SHARE / 1024.0
    )?;
    let smallest_and_largest = |subscribes| {
        let of = || scale.tables.iter().filter(move |one| one.subscribes == subscribes);
        let (small, large) = (
            of().min_by_key(|one| one.workloads)?,
            of().max_by_key(|one| one.workloads)?,
        );
        (large.workloads > small.workloads).then_some((small, large))
    };
    if let Some((small, large)) = smallest_and_largest(Subscribes::All) {
        let each = (large.rss_mib - small.rss_mib) * 1024.0 / (large.workloads - small.workloads) as f64;
        writeln!(
            text,
            "- **Memory of a sidecar** that knows everybody: {each:.2} KiB for each workload, {:.0} MiB at 100,000, {:.0} TiB in all sidecars together.",
            each * PODS / 1024.0,
            each * PODS * PODS / 1024.0 / 1024.0 / 1024.0,
        )?;
    }
    if let Some((small, large)) = smallest_and_largest(Subscribes::OnDemand) {
        writeln!(
            text,
            "- **On demand** (`subscription.mode: on-demand`) a sidecar that talks to nobody needs {:.1} MiB beside {} workloads and {:.1} MiB beside {}; each workload that it talks to costs what it costs above.",
            small.rss_mib, small.workloads, large.rss_mib, large.workloads,
        )?;
    }
    writeln!(
        text,
        "- **Renewal**: with SVIDs of 24 hours, renewed at 55 %, 100,000 proxies ask {:.1} times a second; measured here: {:.0} a second with requesters and CA on the same two cores.",
        PODS / (24.0 * 3600.0 * 0.55),
        fleet.issued_per_second
    )?;
    writeln!(
        text,
        "- **Kubernetes itself** is tested by its authors up to 5,000 nodes and 150,000 pods; before that, watches bound it: each replica follows pods and EndpointSlices, and the API server encodes each change once for each watch. \
         {replicas:.0} replicas are {replicas:.0} watches, fewer than the kubelets' by two orders of magnitude. A Service with thousands of endpoints (slices of 100) and etcd's write rate limit a mesh of that size before Squire's control plane does."
    )
}
