//! The values that only this configuration has: how each is written. Their meaning is elsewhere.

use squire_mesh::{
    probe::{ProbeError, Probes},
    workload::{NameError, UidKind, WorkloadUid},
};

use super::{
    AccessLog, AdminDetails, HostPort, HostPortError, Http2Engine, LogFormat, SubscriptionMode, TlsEngine, Unknown,
    Users, read::Value,
};

/// `mode` as written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ModeName {
    Explicit,
    Transparent,
}

/// A log filter that was seen to parse.
pub(super) struct Filter(pub(super) String);

impl Value for Filter {
    const EXPECTED: &'static str =
        "write error, warn, info, debug or trace, or a list such as info,squire_proxy::xds=debug";

    fn read(text: &str) -> Result<Self, String> {
        // `Targets` takes a misspelt level for the name of a target and logs everything from it.
        let level = |l: &str| matches!(l, "error" | "warn" | "info" | "debug" | "trace" | "off");
        for part in text.split(',') {
            let right = match part.split_once('=') {
                None => level(part),
                Some((target, part)) => {
                    level(part) && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
                }
            };
            if !right {
                return Err(format!("{part:?} is not a level"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "write text or json";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not a log format".to_owned()),
        }
    }
}

impl Value for Unknown {
    const EXPECTED: &'static str = "write passthrough or refuse";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "passthrough" => Ok(Self::Passthrough),
            "refuse" => Ok(Self::Refuse),
            _ => Err("not a way to treat unknown destinations".to_owned()),
        }
    }
}

impl Value for SubscriptionMode {
    const EXPECTED: &'static str = "write all or on-demand";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "on-demand" => Ok(Self::OnDemand),
            _ => Err("not a way to subscribe".to_owned()),
        }
    }
}

impl Value for TlsEngine {
    const EXPECTED: &'static str = "write squire or rustls";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "squire" => Ok(Self::Squire),
            "rustls" => Ok(Self::Rustls),
            _ => Err("not an engine".to_owned()),
        }
    }
}

impl Value for Http2Engine {
    const EXPECTED: &'static str = "write squire or h2";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "squire" => Ok(Self::Squire),
            "h2" => Ok(Self::H2),
            _ => Err("not an engine".to_owned()),
        }
    }
}

impl Value for AccessLog {
    const EXPECTED: &'static str = "write off, stdout, or the path of a file";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            path if path.contains('/') => Ok(Self::File(path.into())),
            _ => Err("not a target".to_owned()),
        }
    }
}

impl Value for AdminDetails {
    const EXPECTED: &'static str = "write anyone or loopback";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "anyone" => Ok(Self::Anyone),
            "loopback" => Ok(Self::Loopback),
            _ => Err("nobody".to_owned()),
        }
    }
}

impl Value for Probes {
    const EXPECTED: &'static str = "write probes as the injector does, such as \
                                    '{\"/probe/web/liveness\":{\"http\":{\"port\":8080,\"path\":\"/healthz\"},\"timeoutMs\":1000}}'";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: ProbeError| error.to_string())
    }
}

impl Value for Users {
    const EXPECTED: &'static str = "write any, or user IDs such as 1000 or 1000,1001";

    fn read(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self::Any);
        }
        let ids = text.split(',').map(|id| id.trim().parse::<u32>());
        let ids = ids.collect::<Result<Vec<_>, _>>();
        ids.map(Self::These).map_err(|_| "not a list of user IDs".to_owned())
    }
}

impl Value for ModeName {
    const EXPECTED: &'static str = "write explicit or transparent";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "explicit" => Ok(Self::Explicit),
            "transparent" => Ok(Self::Transparent),
            _ => Err("not a mode".to_owned()),
        }
    }
}

impl Value for HostPort {
    const EXPECTED: &'static str = "write host:port, such as squire-control.squire-system:15012 or [::1]:15012";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: HostPortError| error.to_string())
    }
}

impl Value for WorkloadUid {
    const EXPECTED: &'static str =
        "write namespace/name of a pod or namespace/entry/name of a WorkloadEntry, such as shop/web-0";

    fn read(text: &str) -> Result<Self, String> {
        let uid: Self = text.parse().map_err(|error: NameError| error.to_string())?;
        match uid.kind() {
            UidKind::Pod | UidKind::Entry => Ok(uid),
            UidKind::Address => Err("a bare address has no sidecar".to_owned()),
        }
    }
}
