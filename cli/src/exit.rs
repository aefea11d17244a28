//! How a command ends: its exit code (sysexits where one fits) and the message on standard error. Commands return a
//! [`Failure`]; nothing else in the program writes errors or exits.

use std::{fmt, future::Future, process::ExitCode};

/// What every command returns.
pub(crate) type Outcome = Result<(), Failure>;

/// A command that did not end well.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: Option<anyhow::Error>,
}

#[allow(dead_code, reason = "each kind is there for the commands to come")]
impl Failure {
    /// Exit 1, in silence: the command ran, and what it printed is the finding (denied, lint errors).
    pub(crate) const fn finding() -> Self {
        Self { code: 1, error: None }
    }

    /// Exit 1, with the reason: what was asked for is refused.
    pub(crate) fn denied(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: 1,
            error: Some(error.into()),
        }
    }

    /// Exit 2: the arguments make no sense together.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: 2,
            error: Some(error.into()),
        }
    }

    /// Exit 69: something that must be there (a port, a server, a file system) is not.
    pub(crate) fn unavailable(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: 69,
            error: Some(error.into()),
        }
    }

    /// Exit 78: the configuration or the state it names is wrong.
    pub(crate) fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: 78,
            error: Some(error.into()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            // `{:#}`: the whole chain of causes on one line.
            Some(error) => write!(f, "{error:#}"),
            None => Ok(()),
        }
    }
}

/// Prints the message of a failure, and gives the process its exit code.
#[allow(clippy::print_stderr, reason = "the one place where the command line reports errors")]
pub(crate) fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.error.is_some() {
                eprintln!("squire: {failure}");
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Runs an asynchronous command to its end.
pub(crate) fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::unavailable)?;
    runtime.block_on(command)
}
