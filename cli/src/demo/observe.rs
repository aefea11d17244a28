//! How the demo sees: pages of admin endpoints, lines of access logs, progress of streams. Waiting always means to look
//! until something is there, with a deadline; it decides nothing and takes nothing for granted.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{interval, timeout},
};

use super::stream::Line;
use crate::fetch::{self, Endpoint, Page};

/// For everything that should happen at once, on a machine that is busy with something else.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until there is something to see.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let mut last = None;
    let found = timeout(SOON, async {
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            match look().await {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
        }
    })
    .await;
    found.map_err(|_| {
        let last = last.map_or_else(String::new, |error| format!("; last seen: {error:#}"));
        anyhow!("{what}: not seen within {SOON:?}{last}")
    })
}

/// A page, whatever its status.
pub(super) async fn page(address: SocketAddr, path: &str) -> anyhow::Result<Page> {
    fetch::page(&Endpoint::from(address), path, SOON).await
}

/// A JSON document.
pub(super) async fn json(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    fetch::json(&Endpoint::from(address), path, SOON).await
}

/// Waits until `/ready` says yes.
pub(super) async fn ready(what: &str, address: SocketAddr) -> anyhow::Result<()> {
    until(&format!("{what} is ready"), async || {
        let page = page(address, "/ready").await?;
        if page.status == StatusCode::OK {
            return Ok(Some(()));
        }
        Err(anyhow!("{}", page.text().trim()))
    })
    .await
}

/// An access log, from where it ended when this was made.
pub(super) struct AccessLog {
    path: PathBuf,
    from: usize,
}

impl AccessLog {
    /// Everything that will be written from now on.
    pub(super) fn from_now(path: PathBuf) -> Self {
        let from = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self {
            path,
            from: usize::try_from(from).unwrap_or(usize::MAX),
        }
    }

    /// Everything that was ever written.
    pub(super) fn from_start(path: PathBuf) -> Self {
        Self { path, from: 0 }
    }

    /// Whole lines so far.
    pub(super) fn lines(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(&self.path).with_context(|| self.path.display().to_string())?;
        let new = text.get(self.from..).unwrap_or_default();
        let whole = new.rfind('\n').map_or("", |end| &new[..end]);
        let line = |line| serde_json::from_str(line).with_context(|| format!("{}: {line}", self.path.display()));
        whole.lines().map(line).collect()
    }

    /// Waits for a line.
    pub(super) async fn line(&self, what: &str, fits: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        until(&format!("{what} (in {})", self.path.display()), async || {
            let lines = self.lines()?;
            let last = lines
                .last()
                .map_or_else(|| "no new line".to_owned(), ToString::to_string);
            match lines.into_iter().find(&fits) {
                Some(line) => Ok(Some(line)),
                None => Err(anyhow!("{last}")),
            }
        })
        .await
    }
}

/// A stream of a client, as it is told.
pub(super) struct Stream {
    state: watch::Receiver<State>,
}

#[derive(Clone, Default)]
struct State {
    echoed: u64,
    ended: Option<(Instant, Line)>,
}

impl Stream {
    /// Has the application at `app` open one.
    pub(super) async fn open(app: SocketAddr) -> anyhow::Result<Self> {
        let (status, body) = fetch::open(&Endpoint::from(app), "/stream").await?;
        anyhow::ensure!(status == StatusCode::OK, "http://{app}/stream: answered {status}");
        let (publish, state) = watch::channel(State::default());
        tokio::spawn(follow(body, publish));
        Ok(Self { state })
    }

    /// How many bytes have come back right; an error if it is no longer open.
    pub(super) fn echoed(&self) -> anyhow::Result<u64> {
        let state = self.state.borrow();
        match &state.ended {
            None => Ok(state.echoed),
            Some((_, line)) => Err(anyhow!("the stream has ended: {line:?}")),
        }
    }

    /// Waits until so many more bytes have come back right. How many in all.
    pub(super) async fn grown(&mut self, bytes: u64) -> anyhow::Result<u64> {
        let goal = self.echoed()? + bytes;
        let far = |state: &State| state.echoed >= goal || state.ended.is_some();
        let grown = timeout(SOON, self.state.wait_for(far)).await.map(drop);
        match grown {
            Ok(()) => self.echoed(),
            Err(_) => bail!("the stream stands still at {} bytes", self.state.borrow().echoed),
        }
    }

    /// Waits for its end. When it was heard of, and how it ended.
    pub(super) async fn ended(&mut self) -> anyhow::Result<(Instant, Line)> {
        let ended = timeout(SOON, self.state.wait_for(|state| state.ended.is_some())).await;
        let state = ended.map_err(|_| anyhow!("the stream has not ended within {SOON:?}"))?;
        let state = state.context("the application that told of the stream is gone")?;
        state.ended.clone().context("the stream has not ended")
    }
}

/// Publishes what the lines of a stream say.
async fn follow(mut body: Incoming, publish: watch::Sender<State>) {
    let mut pending = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if let Ok(line) = serde_json::from_slice(&line) {
                publish.send_modify(|state| state.take(line));
            }
        }
    }
}

impl State {
    fn take(&mut self, line: Line) {
        match line {
            Line::Progress { echoed } => self.echoed = echoed,
            ended => self.ended = Some((Instant::now(), ended)),
        }
    }
}

/// The sum of a metric's series that carry all these labels, in Prometheus' text format; none: there is no such series.
pub(super) fn metric(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |line: &&str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
        rest.is_some_and(|rest| {
            labels
                .iter()
                .all(|(key, value)| rest.contains(&format!("{key}=\"{value}\"")))
        })
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    page.lines()
        .filter(fits)
        .filter_map(value)
        .fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_the_series_that_fit() {
        let page = "# HELP a x\n# TYPE a counter\na{d=\"in\",s=\"web\"} 2\na{d=\"in\",s=\"api\"} 3\na{d=\"out\",s=\"web\"} 5\n\
                    a_total{d=\"in\"} 100\nb 7\n";
        assert_eq!(metric(page, "a", &[]), Some(10.0));
        assert_eq!(metric(page, "a", &[("d", "in")]), Some(5.0));
        assert_eq!(metric(page, "a", &[("d", "in"), ("s", "web")]), Some(2.0));
        assert_eq!(metric(page, "b", &[]), Some(7.0));
        assert_eq!(metric(page, "c", &[]), None);
    }

    #[test]
    fn an_access_log_is_read_from_a_mark_and_only_in_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "{\"n\":1}\n").unwrap();
        let log = AccessLog::from_now(path.clone());
        fs::write(&path, "{\"n\":1}\n{\"n\":2}\n{\"n\":").unwrap();
        assert_eq!(log.lines().unwrap(), [serde_json::json!({"n": 2})]);
        assert_eq!(AccessLog::from_start(path).lines().unwrap().len(), 2);
    }
}
