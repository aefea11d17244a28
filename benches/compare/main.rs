//! `squire-compare`: measures Squire beside other proxies, on the same machine, in the same run.
//!
//! It starts every peer as a pair of proxies on loopback (client → plaintext → mutual TLS 1.3 → plaintext → app), takes the figures in
//! turns over several repetitions, checks every byte and status while measuring, and writes JSON, Markdown and SVG. It never installs
//! anything and never builds anything: `benches/run` does that and then executes this program.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program that reports progress and results to a person"
)]

mod app;
mod arguments;
mod effort;
mod figures;
mod goals;
mod ground;
mod load;
mod machine;
mod measure;
mod peer;
mod process;
mod report;
mod run;
#[path = "../scale/mod.rs"]
mod scale;
mod usage;

use std::process::ExitCode;

use arguments::Command;

fn main() -> ExitCode {
    let outcome = arguments::parse().and_then(|command| match command {
        Command::Help => {
            print!("{}", arguments::HELP);
            Ok(())
        }
        Command::App(listen) => app::serve(listen),
        Command::Compare(arguments) => run::compare(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("squire-compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}
