//! Finds the `squire-proxy` binary that belongs to this `squire`; under `cargo run`, has cargo build it first, so that one
//! command is enough on a fresh machine.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, bail};

use super::screen::Screen;

const NAME: &str = "squire-proxy";

/// The path of the binary.
pub(super) async fn find(screen: &Screen) -> anyhow::Result<PathBuf> {
    let exe = env::current_exe().context("the path of this program is not known")?;
    if let Some(build) = Build::under_cargo_run(&exe) {
        build.run(screen).await?;
    }
    let beside = exe.with_file_name(NAME);
    if beside.is_file() {
        return Ok(beside);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(found) = env::split_paths(&path)
        .map(|dir| dir.join(NAME))
        .find(|file| file.is_file())
    {
        return Ok(found);
    }
    bail!(
        "{NAME} is neither beside {} nor in PATH; install it there, name it with --proxy, or run `cargo build --release -p \
         {NAME}` in the source tree",
        exe.display()
    )
}

/// A build by the cargo that runs us.
#[derive(Debug, PartialEq, Eq)]
struct Build {
    cargo: OsString,
    manifest: PathBuf,
    target: PathBuf,
    profile: String,
}

impl Build {
    fn under_cargo_run(exe: &Path) -> Option<Self> {
        // Tests of other crates run under cargo too; only our own package means `cargo run`.
        let ours = env::var("CARGO_PKG_NAME").is_ok_and(|name| name == env!("CARGO_PKG_NAME"));
        let (cargo, package) = (env::var_os("CARGO")?, env::var_os("CARGO_MANIFEST_DIR")?);
        if ours {
            Self::of(cargo, Path::new(&package), exe)
        } else {
            None
        }
    }

    /// The build that puts the sidecar beside `exe`, which lies in `TARGET/PROFILE`.
    fn of(cargo: OsString, package: &Path, exe: &Path) -> Option<Self> {
        let output = exe.parent()?;
        let profile = match output.file_name()?.to_str()? {
            "debug" => "dev",
            other => other,
        };
        Some(Self {
            cargo,
            manifest: package.parent()?.join("Cargo.toml"),
            target: output.parent()?.to_owned(),
            profile: profile.to_owned(),
        })
    }

    async fn run(&self, screen: &Screen) -> anyhow::Result<()> {
        screen.say(&format!("building {NAME} (profile {}) ...", self.profile));
        let mut command = tokio::process::Command::new(&self.cargo);
        command
            .args(["build", "-p", NAME, "--bin", NAME, "--profile", &self.profile])
            .arg("--manifest-path")
            .arg(&self.manifest)
            .arg("--target-dir")
            .arg(&self.target)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // What cargo told us about our own package is not true of another.
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_BIN_NAME" {
                command.env_remove(&variable);
            }
        }
        let status = command
            .status()
            .await
            .with_context(|| format!("{} cannot be run", self.cargo.to_string_lossy()))?;
        if !status.success() {
            bail!("{NAME} could not be built ({status}); what cargo said stands above");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_is_built_where_and_how_this_program_was() {
        for (exe, target, profile) in [
            ("/src/target/release/squire", "/src/target", "release"),
            ("/src/target/debug/squire", "/src/target", "dev"),
            (
                "/out/x86_64-unknown-linux-musl/bench/squire",
                "/out/x86_64-unknown-linux-musl",
                "bench",
            ),
        ] {
            let build = Build::of("cargo".into(), Path::new("/src/cli"), Path::new(exe)).unwrap();
            assert_eq!(build.manifest, Path::new("/src/Cargo.toml"));
            assert_eq!((build.target.as_path(), &*build.profile), (Path::new(target), profile));
        }
    }
}
