//! Every single-valued key, for the environment, for `--set` and for the reference in `--help`. It reads nothing.

use std::fmt::Write as _;

/// What the environment variables of a sidecar begin with: `SQUIRE_PROXY_TRUST_DOMAIN` is `trustDomain`.
pub const PREFIX: &str = "SQUIRE_PROXY_";

/// One key with a single value.
#[derive(Debug)]
pub struct Setting {
    /// Dotted path.
    pub path: &'static str,
    /// What it is when nobody says so; empty: see `help`.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
}

const fn setting(path: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { path, default, help }
}

/// All of them, in the order people need them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "workload",
        "",
        "required: namespace/name of the pod (namespace/entry/name of a WorkloadEntry)",
    ),
    setting("trustDomain", "", "required: the SPIFFE trust domain"),
    setting("trustBundle", "", "required: PEM file with the root(s) to start with"),
    setting(
        "token",
        "",
        "required: file with the bearer token for the CA, read anew at every use",
    ),
    setting("control", "", "required: host:port of the control plane"),
    setting(
        "controlId",
        "",
        "the control plane's identity [spiffe://<trustDomain>/ns/squire-system/sa/squire-control]",
    ),
    setting("caAddress", "", "host:port of the CA [control]"),
    setting("caId", "", "the CA's identity [controlId]"),
    setting(
        "identity",
        "",
        "refuse any other identity than this one [what the token attests]",
    ),
    setting(
        "admin",
        "127.0.0.1:15020",
        "IP:port of /metrics /ready /live /connections /config /probe; port 0: any; [::] is IPv4 too",
    ),
    setting(
        "adminDetails",
        "anyone",
        "who sees /connections and /config: anyone, or loopback (as kubectl port-forward comes)",
    ),
    setting(
        "probes",
        "",
        "JSON: the application's probes, put to it when a kubelet asks for /probe/CONTAINER/KIND (written by the injector)",
    ),
    setting(
        "mode",
        "",
        "explicit (listeners as listed) or transparent [explicit when listeners are listed]",
    ),
    setting(
        "inboundPort",
        "15006",
        "transparent: where connections to the workload are redirected",
    ),
    setting(
        "outboundPort",
        "15001",
        "transparent: where connections of the workload are redirected",
    ),
    setting(
        "bindSource",
        "",
        "address to dial peers from [explicit: the workload's; transparent: any]",
    ),
    setting(
        "unknownDestinations",
        "passthrough",
        "transparent: connections to addresses the mesh does not know: passthrough, or refuse",
    ),
    setting(
        "subscription.mode",
        "all",
        "which workloads the control plane tells of: all, or on-demand (those that connections need)",
    ),
    setting(
        "subscription.timeout",
        "5s",
        "on-demand: how long a connection waits for the answer",
    ),
    setting(
        "subscription.keep",
        "10m",
        "on-demand: how long what no connection uses is kept",
    ),
    setting(
        "subscription.maxSelectors",
        "20000",
        "on-demand: addresses and services asked for at once, at least 64",
    ),
    setting("limits.maxConnections", "100000", "application connections at once"),
    setting("limits.maxPendingHandshakes", "4096", "inbound handshakes at once"),
    setting("limits.handshakeTimeout", "5s", "from accept to verified peer"),
    setting(
        "limits.headTimeout",
        "30s",
        "from the first byte of an HTTP/1 request's head to its last",
    ),
    setting(
        "limits.stallTimeout",
        "5m",
        "for an HTTP client to take anything of a response that waits for it",
    ),
    setting("limits.connectTimeout", "5s", "TCP connect"),
    setting("pool.ready", "2", "mesh connections kept ready for each peer in use"),
    setting("pool.maxIdlePerPeer", "64", "idle mesh connections kept for each peer"),
    setting("pool.idleTimeout", "60s", "idle mesh connections are closed after"),
    setting(
        "tokens.keysRefresh",
        "5m",
        "keys of tokens that come by URL are fetched again after; a key that was withdrawn is good for so long",
    ),
    setting(
        "tls.engine",
        "squire",
        "what protects TLS records: squire (our own, in place) or rustls",
    ),
    setting(
        "http2.engine",
        "squire",
        "what speaks HTTP/2: squire (our own) or h2 (the h2 crate)",
    ),
    setting("drain.grace", "30s", "how long live connections get at shutdown"),
    setting(
        "svid.lifetime",
        "1h",
        "certificate lifetime to ask for; the CA has the last word",
    ),
    setting(
        "log.level",
        "info",
        "error, warn, info, debug, trace, or a list: info,squire_proxy::xds=debug",
    ),
    setting("log.format", "text", "text or json"),
    setting("accessLog", "stdout", "off, stdout, or the path of a file"),
    setting(
        "workloadApi.socket",
        "",
        "Unix socket of the SPIFFE Workload API for the application [none: it is off]",
    ),
    setting(
        "workloadApi.users",
        "",
        "who may connect there: any, or user IDs such as 1000,1001 [the sidecar's own user alone]",
    ),
];

impl Setting {
    /// Its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        let mut name = PREFIX.to_owned();
        for c in self.path.chars() {
            match c {
                '.' => name.push('_'),
                c if c.is_ascii_uppercase() => name.extend(['_', c]),
                c => name.push(c.to_ascii_uppercase()),
            }
        }
        name
    }
}

/// The reference that `--help` prints.
#[must_use]
pub fn reference() -> String {
    SETTINGS.iter().fold(String::new(), |mut text, s| {
        let default = if s.default.is_empty() {
            String::new()
        } else {
            format!(" [{}]", s.default)
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<28} {}{default}", s.path, s.help);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_the_path_in_capitals() {
        let variables: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        for expected in [
            "SQUIRE_PROXY_WORKLOAD",
            "SQUIRE_PROXY_TRUST_DOMAIN",
            "SQUIRE_PROXY_LIMITS_MAX_CONNECTIONS",
        ] {
            assert!(variables.iter().any(|v| v == expected), "{expected}");
        }
    }
}
