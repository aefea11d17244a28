//! Where the programs of Kubernetes are.

use std::{env, path::PathBuf, process::Stdio};

use tokio::process::Command;

/// Where the programs are.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// A directory with a program of each name (`KUBEBUILDER_ASSETS`), which comes first.
    assets: Option<PathBuf>,
    /// One program for all, as `tests/kubernetes/build` makes it.
    own: Option<PathBuf>,
}

impl Programs {
    /// Finds them; `None`, with the reason on standard error, when they are missing.
    ///
    /// # Panics
    /// In CI, when they are missing.
    pub(super) fn find() -> Option<Self> {
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let programs = Self {
            assets,
            own: env::var_os("SQUIRE_TEST_KUBERNETES").map(PathBuf::from).or_else(built),
        };
        let complete = ["etcd", "kube-apiserver", "kubectl"]
            .iter()
            .all(|name| programs.asset(name).is_some() || programs.own.is_some());
        if complete {
            return Some(programs);
        }
        assert!(
            env::var_os("CI").is_none(),
            "CI must have an API server: run tests/kubernetes/build, or set KUBEBUILDER_ASSETS"
        );
        eprintln!(
            "skipped: there is no API server here; tests/run builds one where Go is installed, or set KUBEBUILDER_ASSETS \
             to a directory with etcd, kube-apiserver and kubectl"
        );
        None
    }

    fn asset(&self, name: &str) -> Option<PathBuf> {
        let path = self.assets.as_ref()?.join(name);
        path.is_file().then_some(path)
    }

    /// The command of a component, ours included.
    pub(super) fn command(&self, component: &str) -> Command {
        match self.asset(component) {
            Some(path) => Command::new(path),
            None => self.own(component),
        }
    }

    /// The command of a component of our own program.
    pub(super) fn own(&self, component: &str) -> Command {
        let own = self.own.as_ref();
        let own = own.unwrap_or_else(|| panic!("{component} is not in KUBEBUILDER_ASSETS: run tests/kubernetes/build"));
        let mut command = Command::new(own);
        command.arg(component).env("SQUIRE_TEST_LEASH", "parent");
        command
    }
}

/// The program that `tests/kubernetes/build` has built, if it has.
fn built() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes/build");
    let mut command = std::process::Command::new(script);
    let output = command.arg("--where").stderr(Stdio::null()).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_program_of_kubebuilder_assets_comes_before_our_own_build() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("etcd"), "").unwrap();
        let programs = Programs {
            assets: Some(dir.path().to_owned()),
            own: Some("/built/kubernetes".into()),
        };
        let program = |component: &str| PathBuf::from(programs.command(component).as_std().get_program());
        assert_eq!(program("etcd"), dir.path().join("etcd"));
        assert_eq!(
            program("kubectl"),
            Path::new("/built/kubernetes"),
            "what is not there is ours"
        );
        assert_eq!(
            Path::new(programs.own("node").as_std().get_program()),
            Path::new("/built/kubernetes")
        );
    }
}
