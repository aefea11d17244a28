//! The CA that the replicas of a cluster share, as one of them shows it.

use anyhow::Context as _;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::super::output::{Format, pairs, show};
use crate::exit::{Failure, Outcome};

/// Shows the page `/ca/status` of a control plane.
pub(super) fn run(page: &str, output: Format) -> Outcome {
    let status: Value = serde_json::from_str(page)
        .context("the control plane did not answer with the state of a CA")
        .map_err(Failure::unavailable)?;
    show(output, &status, table)?;
    if can_sign(&status, OffsetDateTime::now_utc()) {
        Ok(())
    } else {
        Err(Failure::finding())
    }
}

fn can_sign(status: &Value, now: OffsetDateTime) -> bool {
    let time = |key: &str| {
        let text = status["intermediate"][key].as_str()?;
        OffsetDateTime::parse(text, &Rfc3339).ok()
    };
    time("not_before").is_some_and(|from| from <= now) && time("not_after").is_some_and(|until| now < until)
}

/// Every field on a line of its own, however deep it lies.
fn table(status: &Value) -> String {
    let mut rows = Vec::new();
    walk("", status, &mut rows);
    let rows: Vec<(&str, String)> = rows
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    pairs(&rows)
}

fn walk(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('_', " ");
                walk(
                    &if name.is_empty() { key } else { format!("{name} {key}") },
                    value,
                    rows,
                );
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|value| walk(name.strip_suffix('s').unwrap_or(name), value, rows)),
        Value::String(text) => rows.push((name.to_owned(), text.clone())),
        Value::Null => {}
        other => rows.push((name.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_shown_line_by_line_and_says_whether_the_ca_can_sign() {
        let status = json!({
            "trust_domain": "cluster.local", "roots": [{"key_id": "aa", "active": true}], "log_entries": 7,
            "intermediate": {"not_before": "2026-01-01T00:00:00Z", "not_after": "2026-02-01T00:00:00Z"},
        });
        let text = table(&status);
        for line in ["trust domain", "root key id", "log entries"] {
            assert!(text.contains(line), "{text}");
        }
        let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap();
        assert!(can_sign(&status, at("2026-01-15T00:00:00Z")) && !can_sign(&status, at("2026-02-15T00:00:00Z")));
    }
}
