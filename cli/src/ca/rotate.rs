//! `squire ca rotate` and `squire ca abort`: a new root, step by step, each with the evidence it waits for. The process that
//! runs the CA takes the steps; here they are asked for, followed and shown.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use squire_ca::{
    admin::{Command, Reply, ask},
    log::rfc3339,
    roster::{Missing, Progress},
    rotation::Successor,
};

use super::{
    admin::{Asked, unexpected},
    import::RootArgs,
    output::{Format, pairs, print, show},
};
use crate::exit::{Failure, Outcome};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Who is missing, as far as they are named on one line.
const NAMED: usize = 5;

const EXAMPLES: &str = "\
Examples:
  squire ca rotate --dir mesh-ca --watch
      makes a new root, and shows how the mesh moves over to it, until the old one is gone
  squire ca status --dir mesh-ca
      which phase it is in, what it waits for, and who is missing
  squire ca rotate --dir mesh-ca --root-cert root.pem --root-key root.key
      to a root of your own
  squire ca abort --dir mesh-ca
      goes back, from any phase, over the same gates
  squire ca rotate --kubernetes --watch
      of the CA that the replicas of a cluster share: needs the right to create, get and delete Secrets in its namespace
  squire ca rotate --dir mesh-ca --force
      takes the next step although somebody is missing: names whom that breaks, and asks

Phases:
  distribute  everybody is told to trust both roots; the old one signs.  Gate 1: everybody has said that it does
  switch      the new root signs; SVIDs are renewed.                     Gate 2: nobody stands on the old root any more
  retire      the old root has left the bundle.                          Gate 3: everybody has let go of it
A gate counts everybody who holds a certificate that has not ended, as the issuance log tells. Whoever is gone for longer than
that stops counting.

Exit codes: 0 begun (with --watch: done), 2 not now, 69 the control plane cannot be asked.";

const ABORT_EXAMPLES: &str = "\
Examples:
  squire ca abort --dir mesh-ca --watch";

/// Rotate the root: to a new one, with proof at each step
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    root: RootArgs,
    /// Follow it until it is done
    #[arg(long)]
    watch: bool,
    /// Take the next step of the rotation under way whatever its gate says
    #[arg(long)]
    force: bool,
    /// With --force: do not ask
    #[arg(long, requires = "force")]
    yes: bool,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Go back to the root that the rotation began with
#[derive(Debug, clap::Args)]
#[command(after_help = ABORT_EXAMPLES)]
pub(super) struct AbortArgs {
    #[command(flatten)]
    asked: Asked,
    /// Follow it until it is done
    #[arg(long)]
    watch: bool,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let asked = &self.asked;
        let reached = if self.force {
            self.force_step()?
        } else {
            let successor = self.successor()?;
            match progress_of(self.asked.perform(Command::Rotate { successor })) {
                // Whoever only wants to look on may say it with the same words.
                Err(_) if self.watch && progress(asked)?.phase != "stable" => progress(asked)?,
                begun => begun?,
            }
        };
        follow(asked, reached, self.watch, self.output)
    }

    /// The root that an admin brings, if one does.
    fn successor(&self) -> Result<Option<Box<Successor>>, Failure> {
        if !self.root.is_given() {
            return Ok(None);
        }
        let root = self.root.read(&self.asked.trust_domain()?)?;
        Ok(root.map(|root| {
            Box::new(Successor {
                root,
                intermediate: None,
            })
        }))
    }

    fn force_step(&self) -> Result<Progress, Failure> {
        let seen = progress(&self.asked)?;
        if seen.phase == "stable" {
            return Err(Failure::usage(anyhow!(
                "no rotation is under way: there is nothing to force"
            )));
        }
        if !self.yes {
            confirm(&seen)?;
        }
        let sequence = seen.sequence;
        progress_of(self.asked.perform(Command::Force { sequence }))
    }
}

impl AbortArgs {
    pub(super) fn run(self) -> Outcome {
        let reached = progress_of(self.asked.perform(Command::Abort))?;
        follow(&self.asked, reached, self.watch, self.output)
    }
}

/// How far the rotation is, as the process that runs the CA knows. It is only asked: a CA that nobody runs is not opened
/// here, where it would be in the way of a control plane that starts.
fn progress(asked: &Asked) -> Result<Progress, Failure> {
    progress_of(asked.ask(Command::Progress))
}

/// The same for a directory whose CA is known to be run.
pub(super) fn progress_in(dir: &Path) -> Result<Progress, Failure> {
    progress_of(ask(dir, &Command::Progress).map_err(Failure::unavailable))
}

fn progress_of(reply: Result<Reply, Failure>) -> Result<Progress, Failure> {
    match reply? {
        Reply::Progress { progress } => Ok(*progress),
        other => Err(unexpected(&other)),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a command of its own process: nothing else runs on this thread, and the CA is asked anew"
)]
fn follow(asked: &Asked, mut progress_now: Progress, watch: bool, output: Format) -> Outcome {
    if !watch {
        show(output, &progress_now, progress_table)?;
        if !asked.is_run() {
            print("nobody runs this CA: the rotation goes on when a control plane does\n")?;
        }
        return Ok(());
    }
    let mut told = String::new();
    loop {
        let line = line(&progress_now);
        if line != told {
            print(&format!("{}  {line}\n", rfc3339(SystemTime::now())))?;
            told = line;
        }
        if progress_now.phase == "stable" {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        match progress(asked) {
            Ok(next) => progress_now = next,
            // It may be starting again: what it was asked for is kept.
            Err(error) => {
                let line = format!("{error}");
                if line != told {
                    print(&format!("{}  {line}\n", rfc3339(SystemTime::now())))?;
                    told = line;
                }
            }
        }
    }
}

/// Names whom the next step breaks, and asks.
fn confirm(seen: &Progress) -> Outcome {
    let consequence = match seen.phase.as_str() {
        "distribute" => "will refuse whoever holds an SVID under the new root, as they do not trust it yet:",
        "switch" => {
            "will be refused by everybody, as the root of their SVIDs leaves the bundle, or have connections cut:"
        }
        _ => "still trust the root that goes; going back is no longer possible:",
    };
    let mut text = format!("{} of {} {consequence}\n", seen.holders - seen.shown, seen.holders);
    for missing in &seen.missing {
        text += &format!("  {}\n", who(missing));
    }
    if seen.more_missing > 0 {
        text += &format!("  and {} more\n", seen.more_missing);
    }
    if let Some(doubt) = &seen.doubt {
        text += &format!("Others may be concerned: {doubt}\n");
    }
    print(&text)?;
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(anyhow!(
            "nobody is here to be asked: say --yes as well, if that is what you want"
        )));
    }
    print("Type \"break them\" to go on: ")?;
    std::io::stdout().flush().map_err(Failure::unavailable)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(Failure::unavailable)?;
    if answer.trim() == "break them" {
        return Ok(());
    }
    Err(Failure::usage(anyhow!("nothing was done")))
}

fn who(missing: &Missing) -> String {
    let name = match &missing.workload {
        Some(workload) => format!("{workload} ({})", missing.id),
        None => format!("{} (certificate {})", missing.id, missing.serial),
    };
    format!(
        "{name}: {}; last heard of {}, stops counting {}",
        missing.why, missing.since, missing.ends
    )
}

/// One line that says it all.
fn line(progress: &Progress) -> String {
    if progress.phase == "stable" {
        return format!("stable: {} signs and alone is trusted", progress.to);
    }
    let back = if progress.aborting { " (going back)" } else { "" };
    let mut text = format!("{}{back}: {} of {}", progress.phase, progress.shown, progress.holders);
    let named: Vec<String> = progress.missing.iter().take(NAMED).map(who).collect();
    if !named.is_empty() {
        text += &format!("; missing: {}", named.join("; "));
    }
    let more = progress.missing.len().saturating_sub(NAMED) + progress.more_missing;
    if more > 0 {
        text += &format!("; and {more} more");
    }
    if let Some(doubt) = &progress.doubt {
        text += &format!("; {doubt}");
    }
    text
}

/// The progress for people.
pub(super) fn progress_table(progress: &Progress) -> String {
    let mut rows = vec![("phase", progress.phase.clone())];
    if progress.aborting {
        rows.push(("", "an admin has aborted it: it goes back".to_owned()));
    }
    if progress.phase != "stable" {
        rows.push(("from root", progress.from.clone()));
        rows.push(("to root", progress.to.clone()));
        rows.push(("since", progress.since.clone().unwrap_or_default()));
    }
    rows.push(("waits for", progress.waits_for.clone()));
    rows.push(("shown by", format!("{} of {}", progress.shown, progress.holders)));
    if let Some(doubt) = &progress.doubt {
        rows.push(("", doubt.clone()));
    }
    rows.extend(progress.missing.iter().map(|missing| ("missing", who(missing))));
    if progress.more_missing > 0 {
        rows.push(("", format!("and {} more", progress.more_missing)));
    }
    let gone = |gone: &squire_ca::roster::Gone| format!("{}: its last certificate ended {}", gone.who, gone.ended);
    rows.extend(progress.gone.iter().map(|one| ("stopped counting", gone(one))));
    pairs(&rows)
}
