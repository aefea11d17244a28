//! `squire-proxy redirect`: its arguments, and what it says. It reads the environment only through what it is given.

use std::fmt::Write as _;

use lexopt::{
    ValueExt as _,
    prelude::{Long, Short},
};

use super::{
    Written,
    check::{self, Verdict},
    options::{KNOBS, Options},
};

const HELP: &str = "\
Lead the TCP connections of this network namespace (a pod) through the sidecar, IPv4 and IPv6: what comes in goes to
its inboundPort, what processes open goes to its outboundPort. The rules are nf_tables' table `inet squire`, written
over netlink in one transaction; running it again changes nothing, or repairs what was altered.

These pass as they are: loopback and the pod's own addresses, the sidecar's own connections (by its user), its admin
port, everything that is not TCP, and what is excluded. Needs CAP_NET_ADMIN; `--check` needs CAP_NET_RAW too.

Usage: squire-proxy redirect [options]

Options:
      --undo                          take the rules away; it is no error if there are none
      --whole-machine                 also in a machine's own network namespace, where every connection of the machine
                                      is led through the sidecar; without this that is refused
      --check                         change nothing; prove with connections of its own, inbound and outbound, IPv4
                                      and IPv6, that they are redirected, whether the sidecar runs yet or not
  -h, --help                          this text
";

const EPILOGUE: &str = "
Exit codes: 0 done or proved, 1 a connection is not redirected, 2 wrong usage, 69 the kernel cannot, 70 it would not,
77 not permitted, 78 not in a pod.

Examples:
  squire-proxy redirect
  squire-proxy redirect --exclude-inbound-ports 22,9100-9110 --exclude-outbound-cidrs 169.254.169.254/32
  SQUIRE_REDIRECT_EXCLUDE_OUTBOUND_PORTS=3306,6379 squire-proxy redirect
  squire-proxy redirect --check && echo captured
  squire-proxy redirect --undo
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Write the rules.
    Write {
        /// What passes as it is.
        options: Options,
        /// Also where this is no pod.
        whole_machine: bool,
    },
    /// Take them away.
    Undo,
    /// Prove that they work.
    Check(Options),
    /// Say how it is used.
    Help,
}

/// What came of it, for the caller to print and to end with.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The process's exit code.
    pub code: u8,
    /// For standard output, or for standard error when the code is not 0.
    pub text: String,
}

impl Command {
    /// Reads the arguments that follow `redirect`; `environment` gives a variable, and flags win over it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(
        mut parser: lexopt::Parser,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, lexopt::Error> {
        let mut options = Options::default();
        for knob in KNOBS {
            let variable = knob.variable();
            if let Some(text) = environment(&variable) {
                knob.set(&mut options, &text)
                    .map_err(|error| format!("{variable}: {error}"))?;
            }
        }
        let (mut undo, mut check, mut whole_machine) = (false, false, false);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("whole-machine") => whole_machine = true,
                Long("undo") => undo = true,
                Long("check") => check = true,
                Long("help") | Short('h') => return Ok(Self::Help),
                Long(name) => {
                    let Some(knob) = KNOBS.iter().find(|knob| knob.name == name) else {
                        return Err(argument.unexpected());
                    };
                    let text = parser.value()?.string()?;
                    knob.set(&mut options, &text)
                        .map_err(|error| format!("--{}: {error}", knob.name))?;
                }
                _ => return Err(argument.unexpected()),
            }
        }
        options.check().map_err(|error| error.to_string())?;
        if whole_machine && (undo || check) {
            return Err("--whole-machine is for writing rules".into());
        }
        match (undo, check) {
            (true, true) => Err("--undo and --check exclude each other".into()),
            (true, false) => Ok(Self::Undo),
            (false, true) => Ok(Self::Check(options)),
            (false, false) => Ok(Self::Write { options, whole_machine }),
        }
    }

    /// Does it.
    #[must_use]
    pub fn run(&self) -> Ended {
        let done = match self {
            Self::Help => return Ended::well(help()),
            Self::Write { options, whole_machine } => super::write(options, *whole_machine).map(|written| {
                Ended::well(match written {
                    Written::New => "redirected: the rules are written\n",
                    Written::Repaired => "redirected: the rules were not as they should be and are written anew\n",
                    Written::Unchanged => "redirected: the rules were there already\n",
                })
            }),
            Self::Undo => super::undo().map(|there| {
                Ended::well(if there {
                    "the rules are gone; connections that were redirected end\n"
                } else {
                    "there were no rules\n"
                })
            }),
            Self::Check(options) => check::run(options).map(|verdicts| judged(&verdicts)),
        };
        done.unwrap_or_else(|error| Ended {
            code: error.exit_code(),
            text: format!("{error}\n"),
        })
    }
}

impl Ended {
    fn well(text: impl Into<String>) -> Self {
        Self {
            code: 0,
            text: text.into(),
        }
    }
}

fn judged(verdicts: &[Verdict]) -> Ended {
    let mut text = String::new();
    for verdict in verdicts {
        let _ = writeln!(text, "{verdict}");
    }
    let captured = verdicts.iter().all(Verdict::is_good);
    if !captured {
        text += "not everything is redirected: run `squire-proxy redirect`, with the same exclusions as in the pod\n";
    }
    Ended {
        code: u8::from(!captured),
        text,
    }
}

fn help() -> String {
    let mut text = HELP.to_owned();
    for knob in KNOBS {
        let _ = writeln!(text, "      {:<31} {}", format!("--{} VALUE", knob.name), knob.help);
    }
    text += "\nEach of those with a value can also stand in the environment: --exclude-uids is SQUIRE_REDIRECT_EXCLUDE_UIDS. \
             Flags win.\n";
    text + EPILOGUE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str], variable: Option<(&str, &str)>) -> Result<Command, lexopt::Error> {
        Command::parse(lexopt::Parser::from_args(arguments), |name| {
            variable
                .filter(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        })
    }

    #[test]
    fn flags_win_over_the_environment() {
        let variable = Some(("SQUIRE_REDIRECT_EXCLUDE_UIDS", "7,8"));
        let uids = |arguments: &[&str]| match parse(arguments, variable) {
            Ok(Command::Write { options, .. }) => options.exclude_uids,
            other => panic!("{other:?}"),
        };
        assert_eq!(uids(&[]), [7, 8]);
        assert_eq!(uids(&["--exclude-uids", "9"]), [9]);
        assert!(uids(&["--exclude-uids="]).is_empty());
    }

    #[test]
    fn wrong_usage_is_named() {
        for (arguments, variable, says) in [
            (&["--undo", "--check"][..], None, "exclude each other"),
            (&["--exclude-uids", "root"], None, "--exclude-uids"),
            (&["--excluded"], None, "--excluded"),
            (&["--whole-machine", "--undo"], None, "for writing"),
            (&["now"], None, "now"),
            (&["--inbound-port", "15001"], None, "must differ"),
            (
                &[],
                Some(("SQUIRE_REDIRECT_PROXY_UID", "me")),
                "SQUIRE_REDIRECT_PROXY_UID",
            ),
        ] {
            let error = parse(arguments, variable).unwrap_err().to_string();
            assert!(error.contains(says), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn the_help_names_every_option_and_every_exit_code() {
        let Ended { code: 0, text } = Command::Help.run() else {
            panic!("help fails");
        };
        assert!(KNOBS.iter().all(|knob| text.contains(&format!("--{}", knob.name))));
        for part in [
            "--undo",
            "--check",
            "--whole-machine",
            "Examples:",
            "77",
            "78",
            "SQUIRE_REDIRECT_",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
