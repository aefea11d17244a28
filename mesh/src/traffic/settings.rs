//! What the Gateway API leaves open about the traffic of a Service: limits, ejection, zones. Written as annotations of the
//! Service; each sidecar applies them on its own, to what it sends itself.

use std::time::Duration;

/// The traffic settings of one Service, as each sidecar applies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficSettings {
    /// Requests under way to the Service from one sidecar (`squire.mesh/max-requests`).
    pub max_active: u32,
    /// Requests that wait for a connection (`squire.mesh/max-pending-requests`).
    pub max_pending: u32,
    /// Requests under way to one endpoint (`squire.mesh/max-requests-per-endpoint`).
    pub max_active_per_endpoint: u32,
    /// Consecutive failures after which an endpoint is ejected; 0: never (`squire.mesh/eject-after`).
    pub eject_after: u32,
    /// How long the first ejection lasts; it doubles with each one that follows (`squire.mesh/eject-for`).
    pub eject_for: Duration,
    /// The largest share of the endpoints that may be ejected, in percent; never all (`squire.mesh/eject-share`).
    pub eject_share: u8,
    /// Endpoints of our own zone first (`squire.mesh/prefer-zone`).
    pub prefer_zone: bool,
    /// How long connecting may take; none: the sidecar's own limit (`squire.mesh/connect-timeout`).
    pub connect_timeout: Option<Duration>,
    /// Retries, in percent of the requests (`squire.mesh/retry-budget`).
    pub retry_percent: u8,
    /// Retries a second that are always within the budget (`squire.mesh/retry-budget-floor`).
    pub retry_min_per_second: u32,
}

impl Default for TrafficSettings {
    fn default() -> Self {
        Self {
            max_active: 32_768,
            max_pending: 8_192,
            max_active_per_endpoint: 16_384,
            eject_after: 5,
            eject_for: Duration::from_secs(10),
            eject_share: 50,
            prefer_zone: true,
            connect_timeout: None,
            retry_percent: 20,
            retry_min_per_second: 10,
        }
    }
}

/// An annotation that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not understood: {expected}")]
pub struct BadSetting {
    /// Its name.
    pub name: &'static str,
    value: String,
    expected: &'static str,
}

/// The longest time that can be set.
const HOUR: Duration = Duration::from_secs(3_600);

impl TrafficSettings {
    /// The annotations that are read.
    pub const ANNOTATIONS: [&'static str; 10] = [
        "squire.mesh/max-requests",
        "squire.mesh/max-pending-requests",
        "squire.mesh/max-requests-per-endpoint",
        "squire.mesh/eject-after",
        "squire.mesh/eject-for",
        "squire.mesh/eject-share",
        "squire.mesh/prefer-zone",
        "squire.mesh/connect-timeout",
        "squire.mesh/retry-budget",
        "squire.mesh/retry-budget-floor",
    ];

    /// From the annotations of a Service; those of other names are passed over.
    ///
    /// # Errors
    /// The first one that is not understood.
    pub fn from_annotations<'a>(annotations: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, BadSetting> {
        let mut settings = Self::default();
        for (key, value) in annotations {
            if let Some(name) = Self::ANNOTATIONS.into_iter().find(|name| *name == key) {
                settings.set(name, value).map_err(|expected| BadSetting {
                    name,
                    value: value.chars().take(80).collect(),
                    expected,
                })?;
            }
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "squire.mesh/max-requests" => self.max_active = count(value)?,
            "squire.mesh/max-pending-requests" => self.max_pending = count(value)?,
            "squire.mesh/max-requests-per-endpoint" => self.max_active_per_endpoint = count(value)?,
            "squire.mesh/eject-after" if value == "never" => self.eject_after = 0,
            "squire.mesh/eject-after" => self.eject_after = count(value)?,
            "squire.mesh/eject-for" => self.eject_for = time(value)?,
            "squire.mesh/eject-share" => self.eject_share = percent(value)?,
            "squire.mesh/prefer-zone" => {
                self.prefer_zone = value.parse().map_err(|_| "write true or false")?;
            }
            "squire.mesh/connect-timeout" => self.connect_timeout = Some(time(value)?),
            "squire.mesh/retry-budget" => self.retry_percent = percent(value)?,
            "squire.mesh/retry-budget-floor" => {
                self.retry_min_per_second = value
                    .parse()
                    .ok()
                    .filter(|floor| *floor <= 10_000)
                    .ok_or("write a number of retries a second, 0 to 10000")?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn count(value: &str) -> Result<u32, &'static str> {
    let number = value.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    number.ok_or("write a number, 1 to 1000000")
}

fn percent(value: &str) -> Result<u8, &'static str> {
    let number = value.strip_suffix('%').unwrap_or(value).parse().ok();
    number
        .filter(|number| *number <= 100)
        .ok_or("write a percentage, 0% to 100%")
}

fn time(value: &str) -> Result<Duration, &'static str> {
    let time = super::duration(value).filter(|time| (Duration::from_millis(1)..=HOUR).contains(time));
    time.ok_or("write a time such as 500ms, 10s or 1m30s, 1ms to 1h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_read_and_others_passed_over() {
        let settings = TrafficSettings::from_annotations([
            ("squire.mesh/max-requests", "7"),
            ("squire.mesh/eject-after", "never"),
            ("squire.mesh/eject-for", "1m30s"),
            ("squire.mesh/eject-share", "34%"),
            ("squire.mesh/prefer-zone", "false"),
            ("squire.mesh/connect-timeout", "250ms"),
            ("squire.mesh/retry-budget", "0"),
            ("squire.mesh/retry-budget-floor", "0"),
            ("squire.mesh/transport", "squire"),
            ("team", "a"),
        ]);
        let expected = TrafficSettings {
            max_active: 7,
            eject_after: 0,
            eject_for: Duration::from_secs(90),
            eject_share: 34,
            prefer_zone: false,
            connect_timeout: Some(Duration::from_millis(250)),
            retry_percent: 0,
            retry_min_per_second: 0,
            ..TrafficSettings::default()
        };
        assert_eq!(settings, Ok(expected));
    }

    #[test]
    fn what_is_not_understood_names_the_annotation() {
        for (name, value) in [
            ("squire.mesh/max-requests", "0"),
            ("squire.mesh/max-pending-requests", "many"),
            ("squire.mesh/max-requests-per-endpoint", "-1"),
            ("squire.mesh/eject-after", "0"),
            ("squire.mesh/eject-for", "0s"),
            ("squire.mesh/eject-for", "10"),
            ("squire.mesh/eject-share", "101"),
            ("squire.mesh/prefer-zone", "yes"),
            ("squire.mesh/connect-timeout", "2h"),
            ("squire.mesh/retry-budget", "20.5"),
            ("squire.mesh/retry-budget-floor", "10001"),
        ] {
            let error = TrafficSettings::from_annotations([(name, value)]).expect_err(name);
            assert_eq!(error.name, name);
            assert!(error.to_string().contains(value), "{error}");
        }
    }
}
