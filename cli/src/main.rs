//! `squire`: one binary for everything but the sidecar. It parses the command line and hands over; each command lives in
//! its own module, and what it does lives in the room of that name. No logic here.
//!
//! A new command is one `mod`, one variant of [`Command`] and one line in [`Command::run`].

mod ca;
mod check;
mod cluster;
mod connections;
mod control;
mod demo;
mod exit;
mod fetch;
mod id;
mod inject;
mod injector;
mod install;
mod logs;
mod output;
mod policy;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  squire demo                                a whole mesh on this machine, no root needed
  squire control --dir mesh/                 a control plane for the objects in mesh/, with its own CA
  squire ca status --dir mesh-ca             what its CA holds, and until when
  squire install | kubectl apply -f -        puts the mesh into a cluster; `squire check` says whether it stands
  squire policy check -f mesh/               what is wrong with the policies in mesh/
  squire connections shop/db --watch         live connections, with identities, bytes and verdict
  squire status --forecast                   what would fail when, if the control plane stopped now
  squire control --help                      every command has its own help, with examples

Exit codes: 0 ok, 1 finding or denied, 2 usage, 69 unavailable, 78 configuration.
Colours are off when NO_COLOR is set or the output is not a terminal.";

/// An mTLS sidecar mesh: identities, policies, and what it saw.
#[derive(Parser)]
#[command(name = "squire", version, max_term_width = 110, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ca(ca::Args),
    Check(check::Args),
    Connections(connections::Args),
    Control(Box<control::Args>),
    Demo(demo::Args),
    DemoApp(demo::app::Args),
    DemoLeash(demo::leash::Args),
    Id(id::Args),
    Inject(inject::Args),
    Injector(injector::Args),
    Install(install::Args),
    Policy(policy::Args),
    Status(status::Args),
    Uninstall(install::Uninstall),
}

impl Command {
    fn run(self) -> exit::Outcome {
        match self {
            Self::Ca(args) => args.run(),
            Self::Check(args) => args.run(),
            Self::Connections(args) => args.run(),
            Self::Control(args) => args.run(),
            Self::Demo(args) => args.run(),
            Self::DemoApp(args) => args.run(),
            Self::DemoLeash(args) => args.run(),
            Self::Id(args) => args.run(),
            Self::Inject(args) => args.run(),
            Self::Injector(args) => args.run(),
            Self::Install(args) => args.run(),
            Self::Policy(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Uninstall(args) => args.run(),
        }
    }
}

fn main() -> ExitCode {
    exit::report(Cli::parse().command.run())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            if !command.has_subcommands() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "`{}` has no examples", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
