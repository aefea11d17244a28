//! Durations as Istio and Go write them: `5s`, `1.5s`, `250ms`, `1m30s`.

use std::time::Duration;

use super::report::{Fields, Report};

/// The field `timeout`, if there is one; anything else than a duration, and one too short to wait for, is an error.
pub(super) fn timeout(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Duration> {
    let node = fields.get("timeout")?;
    let text = node.text(report)?;
    let problem = match parse(text) {
        Some(duration) if duration >= Duration::from_millis(1) => return Some(duration),
        Some(_) => format!("{text:?} is shorter than 1ms"),
        None => format!("{text:?} is not a duration"),
    };
    report.error(&node.path, problem, "write a number and h, m, s or ms, such as 5s");
    None
}

fn parse(mut text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(end);
        let number: f64 = number.parse().ok()?;
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match rest.get(..unit)? {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        text = rest.get(unit..)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("5s", Some(5_000)),
            ("1.5s", Some(1_500)),
            ("250ms", Some(250)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("5d", None),
            ("1..5s", None),
        ] {
            assert_eq!(parse(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
