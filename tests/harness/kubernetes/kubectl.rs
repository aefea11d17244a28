//! kubectl, with all rights in a cluster.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::ApiServer;
use crate::PATIENCE;

impl ApiServer {
    /// Runs kubectl with all rights and this standard input.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        self.kubectl_within(arguments, input, PATIENCE).await
    }

    /// `kubectl apply -f -` of so much that it takes longer.
    pub async fn apply_within(&self, yaml: &str, limit: Duration) {
        let output = self.kubectl_within(&["apply", "-f", "-"], yaml, limit).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl apply: {errors}");
    }

    async fn kubectl_within(&self, arguments: &[&str], input: &str, limit: Duration) -> Output {
        let mut command = self.programs.command("kubectl");
        command.arg(format!("--kubeconfig={}", self.kubeconfig().display()));
        command.args(arguments).env("HOME", self.dir());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let fed = tokio::spawn(async move {
            // A command that fails does not read all of it.
            let _ = stdin.write_all(input.as_bytes()).await;
        });
        let output = timeout(limit, child.wait_with_output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("not within {limit:?}: kubectl {arguments:?}"))
            .unwrap();
        fed.await.unwrap();
        output
    }

    /// What kubectl prints, if it succeeds.
    pub async fn kubectl_succeeds(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `kubectl apply -f -`.
    pub async fn apply(&self, yaml: &str) -> String {
        self.kubectl_succeeds(&["apply", "-f", "-"], yaml).await
    }
}
