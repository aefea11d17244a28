//! What the demo prints: numbered steps, and under each what was seen. Colours only on a terminal, and never when NO_COLOR
//! is set.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Instant,
};

const GREEN: &str = "32";
const RED: &str = "31";
const BOLD: &str = "1";
const DIM: &str = "2";

/// Standard output, as the demo uses it.
pub(super) struct Screen {
    colours: bool,
    started: Instant,
    steps: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours: wanted && io::stdout().is_terminal(),
            started: Instant::now(),
            steps: 0,
        }
    }

    /// A line as it is.
    pub(super) fn say(&self, text: &str) {
        print(&format!("{text}\n"));
    }

    /// A new step begins.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        let after = format!("[{:.1} s]", self.started.elapsed().as_secs_f64());
        let title = self.in_colour(BOLD, &format!("{}. {title}", self.steps));
        print(&format!("\n{title}  {}\n", self.in_colour(DIM, &after)));
    }

    /// Something was seen.
    pub(super) fn seen(&self, text: &str) {
        print(&format!("   {} {}\n", self.in_colour(GREEN, "✓"), self.indented(text)));
    }

    /// Something was not seen.
    pub(super) fn missed(&self, text: &str) {
        print(&format!("   {} {}\n", self.in_colour(RED, "✗"), self.indented(text)));
    }

    /// Evidence or an explanation, less important than what it belongs to.
    pub(super) fn note(&self, text: &str) {
        let text = self.indented(text);
        print(&format!("     {}\n", self.in_colour(DIM, &text)));
    }

    /// What comes now is timed from now on.
    pub(super) fn restart_clock(&mut self) {
        self.started = Instant::now();
    }

    /// How long it has all taken.
    pub(super) fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn in_colour(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn indented(&self, text: &str) -> String {
        text.trim_end().replace('\n', "\n     ")
    }
}

/// A reader that went away ends nothing: the demo still has to clean up.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
