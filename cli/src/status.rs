//! `squire status`: how a mesh is doing, and what would fail when. What it shows is made by the control plane; it only asks,
//! and puts it into words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use squire_control::forecast::span;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    exit::{Failure, Outcome, block_on},
    fetch::{self, Endpoint},
    output::{Format, columns, pairs, show},
};

const EXAMPLES: &str = "\
Examples:
  squire status
      proxies, clocks, missed renewals, and what the CA signs with
  squire status --forecast
      if the control plane stopped now, which workload would fail first, and when half of them would
  squire status --forecast -o json

Exit codes: 0 nothing to do, 1 something needs a hand (a missed renewal, a wrong clock, something that ended),
69 the control plane cannot be asked.";

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the mesh is doing: proxies, clocks, missed renewals, expiries; with --forecast, what fails when
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Say what would fail when, if the control plane stopped now
    #[arg(long)]
    forecast: bool,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Admin endpoint of the control plane
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:15014",
        env = "SQUIRE_CONTROL_ADMIN"
    )]
    control: Endpoint,
}

/// What the control plane says (`/debug/forecast`). Times are seconds since the epoch.
#[derive(Debug, Serialize, Deserialize)]
struct Forecast {
    now: u64,
    proxies: usize,
    first: Option<First>,
    half: Option<u64>,
    all: Option<u64>,
    overdue: Named,
    skewed: Named,
    largest_skew: i64,
    expiries: Vec<Expiry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct First {
    workload: String,
    at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    count: usize,
    named: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Expiry {
    what: String,
    name: String,
    not_after: u64,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        block_on(async move {
            let page = fetch::json(&self.control, "/debug/forecast", PATIENCE)
                .await
                .context("the control plane cannot be asked; start it, or name its admin endpoint with --control");
            let forecast: Forecast = page
                .and_then(|page| serde_json::from_value(page).context("the control plane is of another version"))
                .map_err(Failure::unavailable)?;
            let with_forecast = self.forecast;
            show(self.output, &forecast, |forecast| table(forecast, with_forecast))?;
            if forecast.needs_a_hand() {
                return Err(Failure::finding());
            }
            Ok(())
        })
    }
}

impl Forecast {
    fn needs_a_hand(&self) -> bool {
        let ended = self.expiries.iter().any(|expiry| expiry.not_after <= self.now);
        ended || self.overdue.count > 0 || self.skewed.count > 0
    }

    /// A moment, and how far away it is.
    fn when(&self, at: u64) -> String {
        match at.checked_sub(self.now) {
            Some(left) => format!("{}  in {}", rfc3339(at), span(Duration::from_secs(left))),
            None => format!("{}  {} ago", rfc3339(at), span(Duration::from_secs(self.now - at))),
        }
    }
}

fn table(forecast: &Forecast, with_forecast: bool) -> String {
    let mut rows = vec![
        ("proxies with an SVID", forecast.proxies.to_string()),
        ("missed renewals", forecast.overdue.count.to_string()),
        ("clocks off by more than a minute", forecast.skewed.count.to_string()),
        ("largest clock difference", format!("{:+} s", forecast.largest_skew)),
    ];
    if with_forecast {
        let none = || "nothing: no proxy has reported an SVID".to_owned();
        let first = forecast.first.as_ref();
        rows.push((
            "if the control plane stopped now, first",
            first.map_or_else(none, |first| format!("{}  {}", forecast.when(first.at), first.workload)),
        ));
        rows.push((
            "half of the workloads",
            forecast.half.map_or_else(none, |at| forecast.when(at)),
        ));
        rows.push(("all of them", forecast.all.map_or_else(none, |at| forecast.when(at))));
    }
    let mut text = pairs(&rows);
    for (what, named) in [("missed its renewal", &forecast.overdue), ("clock", &forecast.skewed)] {
        for (workload, words) in &named.named {
            text += &format!("{workload}: {what} {words}\n");
        }
    }
    let expiries = forecast.expiries.iter().map(|expiry| {
        let name = if expiry.name.is_empty() { "-" } else { &expiry.name };
        let name: String = name.chars().take(32).collect();
        [words(&expiry.what), name, forecast.when(expiry.not_after)]
    });
    text + "\n" + &columns(["ENDS", "WHICH", "WHEN"], &expiries.collect::<Vec<_>>())
}

fn words(what: &str) -> String {
    match what {
        "jwt_key" => "JWT key (next is due)".to_owned(),
        "control_svid" => "control plane's SVID".to_owned(),
        other => other.to_owned(),
    }
}

fn rfc3339(seconds: u64) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(seconds);
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_else(|_| format!("{seconds} s after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast() -> Forecast {
        serde_json::from_value(serde_json::json!({
            "now": 1_000_000, "proxies": 3, "first": {"workload": "shop/web", "at": 1_000_090}, "half": 1_003_600,
            "all": 1_007_200, "overdue": {"count": 0, "named": {}}, "skewed": {"count": 0, "named": {}},
            "largest_skew": -2, "expiries": [{"what": "root", "name": "ab", "not_after": 2_000_000}],
        }))
        .unwrap()
    }

    #[test]
    fn the_table_says_what_fails_first_and_when() {
        let text = table(&forecast(), true);
        let first = text.lines().find(|line| line.contains("stopped now")).unwrap();
        assert!(first.contains("shop/web") && first.contains("in 1 min 30 s"), "{text}");
        assert!(
            text.contains("1970-01-12T14:46:40Z") && text.contains("in 11 d 13 h"),
            "{text}"
        );
        assert!(!table(&forecast(), false).contains("stopped now"));
    }

    #[test]
    fn what_needs_a_hand_is_a_finding() {
        assert!(!forecast().needs_a_hand());
        let mut late = forecast();
        late.overdue.count = 1;
        let mut ended = forecast();
        ended.expiries[0].not_after = 999_999;
        assert!(late.needs_a_hand() && ended.needs_a_hand());
        assert!(table(&ended, false).contains("1 s ago"));
    }
}
