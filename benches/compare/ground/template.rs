//! Fills `{{name}}` placeholders in configuration files and commands. Knows nothing of what the names mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, bail};

/// Placeholder values by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(BTreeMap<String, String>);

impl Values {
    /// Sets `name`.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Sets `name` to `host:port`, and `name_host` and `name_port` to the parts.
    pub(crate) fn set_address(&mut self, name: &str, address: SocketAddr) {
        self.set(name, address.to_string());
        self.set(&format!("{name}_host"), address.ip().to_string());
        self.set(&format!("{name}_port"), address.port().to_string());
    }
}

/// Replaces every placeholder; an unknown or unclosed one is an error, so that a typing mistake cannot become a silent default.
pub(crate) fn fill(text: &str, values: &Values) -> Result<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let Some((name, after)) = after.split_once("}}") else {
            bail!("a placeholder is not closed: {{{{{}", first_line(after))
        };
        let Some(value) = values.0.get(name.trim()) else {
            let known: Vec<&str> = values.0.keys().map(String::as_str).collect();
            bail!("unknown placeholder {{{{{name}}}}}; known: {}", known.join(", "));
        };
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_single_braces_stay() {
        let mut values = Values::default();
        values.set_address("entry", "127.0.0.1:80".parse().unwrap());
        assert_eq!(
            fill("listen {{entry}}; { {{entry_port}}{{ entry_host }} }", &values).unwrap(),
            "listen 127.0.0.1:80; { 80127.0.0.1 }"
        );
    }

    #[test]
    fn unknown_and_unclosed_placeholders_are_errors() {
        assert!(
            fill("{{nothing}}", &Values::default())
                .unwrap_err()
                .to_string()
                .contains("nothing")
        );
        assert!(fill("a {{entry", &Values::default()).is_err());
    }
}
