//! `--watch`: asks again and again until Ctrl-C. On a terminal the screen is redrawn in place; elsewhere each answer follows
//! the one before. A sidecar or a control plane that goes away is shown, and asked again.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, SystemTime},
};

use rustix::termios::tcgetwinsize;
use squire_ca::log::rfc3339;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::{
    ask::{Answer, Source},
    table::table,
};
use crate::{
    exit::{Failure, Outcome},
    output::Format,
};

/// Clear, and do not wrap: a table that is wider than the screen is cut off, not folded.
const REDRAW: &str = "\x1b[?7l\x1b[H\x1b[2J";
const RESTORE: &str = "\x1b[?7h";

/// Runs until SIGINT or SIGTERM, or until nobody reads any more.
pub(super) async fn run(source: &Source, format: Format, every: Duration) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::unavailable)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::unavailable)?;
    let terminal = io::stdout().is_terminal();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    let end = loop {
        let asked = async {
            ticks.tick().await;
            source.ask().await
        };
        let answer = tokio::select! {
            answer = asked => answer,
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
        };
        // At the start it is a mistake in the arguments; later it is something to see.
        let text = match answer {
            Err(error) if first => break Err(Failure::unavailable(error)),
            Err(error) => format!("{error:#}\n"),
            Ok(answer) => snapshot(format, &answer).map_err(Failure::unavailable)?,
        };
        first = false;
        match draw(terminal, &text) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break Ok(()),
            Err(error) => break Err(Failure::unavailable(error)),
        }
    };
    if terminal {
        let _ = write(RESTORE);
    }
    end
}

/// One answer. Programs get one document per answer.
fn snapshot(format: Format, answer: &Answer) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => {
            let now = rfc3339(SystemTime::now());
            let silent: String = answer.silent.iter().map(|line| format!("! {line}\n")).collect();
            format!(
                "{now}  {} connections, {} of {} sidecars answered\n{silent}{}\n",
                answer.connections.len(),
                answer.asked - answer.silent.len(),
                answer.asked,
                table(&answer.connections)
            )
        }
        Format::Json => serde_json::to_string(&answer.connections)? + "\n",
        Format::Yaml => format!("---\n{}", serde_yaml_ng::to_string(&answer.connections)?),
    })
}

fn draw(terminal: bool, text: &str) -> io::Result<()> {
    if !terminal {
        return write(text);
    }
    let rows = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    write(&format!("{REDRAW}{}", cut(text, rows)))
}

/// As many lines as there are rows; the last one says how many are left out.
fn cut(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    if rows < 2 || lines.len() < rows {
        return text.to_owned();
    }
    let (shown, left) = lines.split_at(rows - 2);
    format!("{}\n... and {} more lines\n", shown.join("\n"), left.len())
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_on_the_screen_is_counted() {
        assert_eq!(cut("a\nb\nc\n", 10), "a\nb\nc\n");
        assert_eq!(cut("a\nb\nc\nd\n", 4), "a\nb\n... and 2 more lines\n");
        assert_eq!(cut("a\nb\n", 0), "a\nb\n");
    }

    #[test]
    fn an_answer_for_people_names_who_is_silent_and_one_for_programs_is_a_line() {
        let answer = Answer {
            connections: Vec::new(),
            asked: 2,
            silent: vec!["shop/web: no answer".to_owned()],
        };
        let text = snapshot(Format::Table, &answer).unwrap();
        assert!(
            text.contains("1 of 2 sidecars answered\n! shop/web: no answer\n"),
            "{text}"
        );
        assert_eq!(snapshot(Format::Json, &answer).unwrap(), "[]\n");
    }
}
