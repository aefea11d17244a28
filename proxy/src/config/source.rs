//! Where a configuration comes from: a file, over it the environment, over that the flags. The only code of the proxy
//! that reads the environment; it gives values no meaning.

use std::{env, fs, path::PathBuf};

use super::{
    problem::{Problem, Problems, nearest},
    settings::{PREFIX, SETTINGS, Setting},
    tree::{Node, Place},
};

/// The sources of one configuration.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// The YAML file; without it everything comes from the environment and the flags.
    pub file: Option<PathBuf>,
    /// Variables that begin with `PREFIX`.
    pub environment: Vec<(String, String)>,
    /// `path=value` of each `--set`.
    pub flags: Vec<String>,
}

impl Sources {
    /// File and flags as given, and the environment of this process.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<String>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        let mut environment: Vec<_> = env::vars_os()
            .filter_map(text)
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        environment.sort();
        Self {
            file,
            environment,
            flags,
        }
    }

    /// All sources in one tree; `None` when there is a file and it cannot be used, for then everything would be missing.
    pub(super) fn read(&self, problems: &mut Problems) -> Option<Node> {
        let mut node = self.read_file().map_err(|problem| problems.push(problem)).ok()?;
        for (name, value) in self.environment.iter().filter(|(name, _)| !is_service_link(name)) {
            match SETTINGS.iter().find(|s| s.variable() == *name) {
                Some(setting) => node.overlay(setting.path, value, Place::Environment(name.clone())),
                None => problems.push(unknown_variable(name)),
            }
        }
        for flag in &self.flags {
            match flag
                .split_once('=')
                .map(|(path, value)| (SETTINGS.iter().find(|s| s.path == path), path, value))
            {
                Some((Some(setting), _, value)) => {
                    node.overlay(setting.path, value, Place::Flag(format!("--set {}", setting.path)));
                }
                Some((None, path, _)) => problems.push(unknown_flag(flag, path)),
                None => problems.push(Problem {
                    place: Place::Flag(format!("--set {flag}")),
                    path: String::new(),
                    what: "has no value".to_owned(),
                    fix: "write --set key=value".to_owned(),
                }),
            }
        }
        Some(node)
    }

    fn read_file(&self) -> Result<Node, Problem> {
        let Some(path) = &self.file else {
            return Ok(Node::empty_map(Place::Nowhere));
        };
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| Problem {
            place: Place::File(name.as_str().into()),
            path: String::new(),
            what: format!("cannot be read: {error}"),
            fix: "check the path given with --config, and its permissions".to_owned(),
        })?;
        Node::parse(&name, &text)
    }
}

/// Kubernetes sets such variables in every pod for a Service that happens to be called `squire-proxy`.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

fn unknown_variable(name: &str) -> Problem {
    let variables: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    let fix = match nearest(name, variables.iter().map(String::as_str)) {
        Some(known) => format!("did you mean {known}?"),
        None => "unset it, or see `squire-proxy run --help` for the keys".to_owned(),
    };
    Problem {
        place: Place::Environment(name.to_owned()),
        path: String::new(),
        what: "no such key".to_owned(),
        fix,
    }
}

fn unknown_flag(flag: &str, path: &str) -> Problem {
    let fix = match nearest(path, SETTINGS.iter().map(|s| s.path)) {
        Some(known) => format!("did you mean {known:?}?"),
        None => "see `squire-proxy run --help` for the keys; lists can only be given in the file".to_owned(),
    };
    Problem {
        place: Place::Flag(format!("--set {flag}")),
        path: path.to_owned(),
        what: "no such key".to_owned(),
        fix,
    }
}
