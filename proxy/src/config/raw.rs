//! What the sources say, value by value, and the checks that need more than one value. It reads no source itself.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::{NonZeroU16, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use squire_mesh::{
    ports,
    probe::Probes,
    spiffe::{SpiffeId, TrustDomain},
    workload::WorkloadUid,
};

use super::{
    AccessLog, AdminDetails, Authority, Config, HostPort, Http2Engine, InboundListener, Limits, Log, LogFormat, Mode,
    OutboundListener, Pool, Subscription, SubscriptionMode, TlsEngine, Unknown, Users, WorkloadApi,
    problem::Problems,
    read::{Section, Value},
    tree::{Node, Place},
    values::{Filter, ModeName},
};

/// Shorter than any CA gives; longer than a renewal takes.
const MIN_SVID_LIFETIME: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(10);

/// Each value on its own is right; together they may not be.
pub(super) struct Raw {
    workload: Option<WorkloadUid>,
    trust_domain: Option<TrustDomain>,
    identity: Placed<Option<SpiffeId>>,
    trust_bundle: Option<PathBuf>,
    token: Option<PathBuf>,
    control: Option<HostPort>,
    control_id: Placed<Option<SpiffeId>>,
    ca_address: Option<HostPort>,
    ca_id: Placed<Option<SpiffeId>>,
    admin: SocketAddr,
    admin_details: AdminDetails,
    probes: Option<Probes>,
    mode: Placed<Option<ModeName>>,
    inbound_port: NonZeroU16,
    outbound_port: NonZeroU16,
    inbound: Option<Vec<Placed<InboundListener>>>,
    outbound: Option<Vec<Placed<OutboundListener>>>,
    bind_source: Option<IpAddr>,
    limits: Limits,
    pool: Pool,
    unknown: Unknown,
    subscription: Subscription,
    token_keys_refresh: Duration,
    tls_engine: TlsEngine,
    http2_engine: Http2Engine,
    drain_grace: Duration,
    svid_lifetime: Duration,
    log: Log,
    access_log: AccessLog,
    workload_api: Option<WorkloadApi>,
}

/// A value and where it was written, for the checks that come later.
struct Placed<T> {
    place: Place,
    value: T,
}

impl Raw {
    /// Reads every key and notes the problems.
    pub(super) fn read(node: Node, problems: &mut Problems) -> Self {
        let mut root = Section::root(node, problems);
        let raw = Self {
            workload: root.required("workload"),
            trust_domain: root.required("trustDomain"),
            identity: placed(&mut root, "identity"),
            trust_bundle: root.required("trustBundle"),
            token: root.required("token"),
            control: root.required("control"),
            control_id: placed(&mut root, "controlId"),
            ca_address: root.optional("caAddress"),
            ca_id: placed(&mut root, "caId"),
            admin: root.or("admin", SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN))),
            admin_details: root.or("adminDetails", AdminDetails::Anyone),
            probes: root.optional("probes"),
            mode: placed(&mut root, "mode"),
            inbound_port: root.or("inboundPort", port(ports::INBOUND)),
            outbound_port: root.or("outboundPort", port(ports::OUTBOUND)),
            inbound: root.list("inbound", inbound),
            outbound: root.list("outbound", outbound),
            bind_source: root.optional("bindSource"),
            limits: root.section("limits", limits),
            pool: root.section("pool", pool),
            unknown: root.or("unknownDestinations", Unknown::Passthrough),
            subscription: root.section("subscription", subscription),
            token_keys_refresh: root.section("tokens", |s| {
                let (least, most) = (Duration::from_secs(1), DAY);
                s.duration("keysRefresh", Duration::from_secs(300), least, most)
            }),
            tls_engine: root.section("tls", |s| s.or("engine", TlsEngine::Squire)),
            http2_engine: root.section("http2", |s| s.or("engine", Http2Engine::Squire)),
            drain_grace: root.section("drain", |s| {
                s.duration("grace", Duration::from_secs(30), Duration::ZERO, HOUR)
            }),
            svid_lifetime: root.section("svid", |s| s.duration("lifetime", HOUR, MIN_SVID_LIFETIME, DAY)),
            log: root.section("log", log),
            access_log: root.or("accessLog", AccessLog::Stdout),
            workload_api: root.section("workloadApi", workload_api),
        };
        root.finish();
        raw
    }

    /// The configuration, if the values fit together and none is missing.
    pub(super) fn valid(self, problems: &mut Problems) -> Option<Config> {
        let mode = self.mode(problems);
        let trust_domain = self.trust_domain?;
        if let Some(id) = &self.identity.value
            && *id.trust_domain() != trust_domain
        {
            let what = format!("{id} is not in trust domain {trust_domain}");
            note(
                problems,
                &self.identity.place,
                "identity",
                what,
                "correct identity or trustDomain",
            );
        }
        let control_default =
            SpiffeId::workload(&trust_domain, ports::SYSTEM_NAMESPACE, ports::CONTROL_ACCOUNT).ok()?;
        let control_id = self.control_id.value.unwrap_or(control_default);
        let ca_id = self.ca_id.value.unwrap_or_else(|| control_id.clone());
        let control = self.control?;
        Some(Config {
            workload: self.workload?,
            trust_domain,
            identity: self.identity.value,
            trust_bundle: self.trust_bundle?,
            token: self.token?,
            ca: Authority {
                address: self.ca_address.unwrap_or_else(|| control.clone()),
                id: ca_id,
            },
            control: Authority {
                address: control,
                id: control_id,
            },
            admin: self.admin,
            admin_details: self.admin_details,
            probes: self.probes.unwrap_or_default(),
            mode: mode?,
            bind_source: self.bind_source,
            limits: self.limits,
            pool: self.pool,
            unknown: self.unknown,
            subscription: self.subscription,
            token_keys_refresh: self.token_keys_refresh,
            tls_engine: self.tls_engine,
            http2_engine: self.http2_engine,
            drain_grace: self.drain_grace,
            svid_lifetime: self.svid_lifetime,
            log: self.log,
            access_log: self.access_log,
            workload_api: self.workload_api,
        })
    }

    /// Explicit when listeners are given, unless the mode says otherwise.
    fn mode(&self, problems: &mut Problems) -> Option<Mode> {
        let (inbound, outbound) = (self.inbound.as_deref(), self.outbound.as_deref());
        let given = inbound.is_some() || outbound.is_some();
        let place = &self.mode.place;
        match (self.mode.value, given) {
            (Some(ModeName::Transparent), true) => {
                let what = "is transparent, but explicit listeners are given".to_owned();
                note(
                    problems,
                    place,
                    "mode",
                    what,
                    "remove inbound and outbound, or write mode: explicit",
                );
                None
            }
            (Some(ModeName::Explicit), false) => {
                let what = "is explicit, but neither inbound nor outbound is given".to_owned();
                note(
                    problems,
                    place,
                    "mode",
                    what,
                    "list the listeners, or write mode: transparent",
                );
                None
            }
            (Some(ModeName::Explicit) | None, true) => {
                let (inbound, outbound) = (inbound.unwrap_or_default(), outbound.unwrap_or_default());
                no_listener_twice(inbound, outbound, self.admin, problems);
                Some(Mode::Explicit {
                    inbound: inbound.iter().map(|l| l.value.clone()).collect(),
                    outbound: outbound.iter().map(|l| l.value.clone()).collect(),
                })
            }
            (Some(ModeName::Transparent) | None, false) => self.transparent(problems),
        }
    }

    fn transparent(&self, problems: &mut Problems) -> Option<Mode> {
        let (inbound, outbound) = (self.inbound_port.get(), self.outbound_port.get());
        if inbound == outbound {
            let what = format!("{outbound} is the inboundPort too");
            note(
                problems,
                &self.mode.place,
                "outboundPort",
                what,
                "choose two different ports",
            );
            return None;
        }
        Some(Mode::Transparent { inbound, outbound })
    }
}

/// Two listeners on one address would fail at start, after everything else had come up.
fn no_listener_twice(
    inbound: &[Placed<InboundListener>],
    outbound: &[Placed<OutboundListener>],
    admin: SocketAddr,
    problems: &mut Problems,
) {
    let mut taken = HashMap::from([(admin, "admin".to_owned())]);
    let inbound = inbound
        .iter()
        .enumerate()
        .map(|(i, l)| (format!("inbound[{i}].listen"), &l.place, l.value.listen));
    let outbound = outbound
        .iter()
        .enumerate()
        .map(|(i, l)| (format!("outbound[{i}].listen"), &l.place, l.value.listen));
    for (path, place, listen) in inbound.chain(outbound) {
        if listen.port() == 0 {
            continue;
        }
        if let Some(other) = taken.insert(listen, path.clone()) {
            let fix = "give each listener an address and port of its own";
            note(problems, place, &path, format!("{listen} is taken by {other}"), fix);
        }
    }
}

fn inbound(s: &mut Section<'_>) -> Option<Placed<InboundListener>> {
    let place = s.place_of("listen");
    let (listen, app, port) = (
        s.required::<SocketAddr>("listen"),
        s.required("app"),
        s.optional::<NonZeroU16>("port"),
    );
    let (listen, app) = (listen?, app?);
    let port = match port.map_or(listen.port(), NonZeroU16::get) {
        0 => {
            let fix = "write the workload's port".to_owned();
            s.problem(place, "port", "is missing, and listen has port 0".to_owned(), fix);
            return None;
        }
        port => port,
    };
    Some(Placed {
        place,
        value: InboundListener { listen, app, port },
    })
}

fn outbound(s: &mut Section<'_>) -> Option<Placed<OutboundListener>> {
    let place = s.place_of("listen");
    let (listen, to) = (s.required("listen"), s.required("to"));
    Some(Placed {
        place,
        value: OutboundListener {
            listen: listen?,
            to: to?,
        },
    })
}

fn limits(s: &mut Section<'_>) -> Limits {
    Limits {
        max_connections: s.or("maxConnections", count(100_000)).get(),
        max_pending_handshakes: s.or("maxPendingHandshakes", count(4_096)).get(),
        handshake_timeout: s.duration("handshakeTimeout", Duration::from_secs(5), SHORT, HOUR),
        head_timeout: s.duration("headTimeout", Duration::from_secs(30), SHORT, HOUR),
        stall_timeout: s.duration("stallTimeout", Duration::from_secs(300), SHORT, DAY),
        connect_timeout: s.duration("connectTimeout", Duration::from_secs(5), SHORT, HOUR),
    }
}

fn subscription(s: &mut Section<'_>) -> Subscription {
    /// Fewer than what a service of some size takes.
    const FEWEST: usize = 64;
    let (mode, place) = (s.or("mode", SubscriptionMode::All), s.place_of("maxSelectors"));
    let mut most = s.or("maxSelectors", 20_000);
    if most < FEWEST {
        let what = format!("{most} is too few");
        s.problem(place, "maxSelectors", what, format!("write {FEWEST} or more"));
        most = FEWEST;
    }
    Subscription {
        mode,
        timeout: s.duration("timeout", Duration::from_secs(5), SHORT, HOUR),
        keep: s.duration("keep", Duration::from_secs(600), Duration::from_secs(1), DAY),
        max_selectors: most,
    }
}

fn pool(s: &mut Section<'_>) -> Pool {
    Pool {
        ready: s.or("ready", 2),
        max_idle_per_peer: s.or("maxIdlePerPeer", 64),
        idle_timeout: s.duration("idleTimeout", Duration::from_secs(60), SHORT, DAY),
    }
}

fn log(s: &mut Section<'_>) -> Log {
    let filter: Filter = s.or("level", Filter("info".to_owned()));
    Log {
        filter: filter.0,
        format: s.or("format", LogFormat::Text),
    }
}

/// Absent unless a socket is named.
fn workload_api(s: &mut Section<'_>) -> Option<WorkloadApi> {
    let (place, users) = (s.place_of("users"), s.optional::<Users>("users"));
    match (s.optional::<PathBuf>("socket"), users) {
        (Some(socket), users) => Some(WorkloadApi {
            socket,
            users: users.unwrap_or(Users::Own),
        }),
        (None, Some(_)) => {
            let fix = "name the socket too: workloadApi.socket".to_owned();
            s.problem(place, "users", "is given, but no socket".to_owned(), fix);
            None
        }
        (None, None) => None,
    }
}

fn placed<T: Value>(section: &mut Section<'_>, key: &'static str) -> Placed<Option<T>> {
    Placed {
        place: section.place_of(key),
        value: section.optional(key),
    }
}

fn note(problems: &mut Problems, place: &Place, path: &str, what: String, fix: &str) {
    problems.push(super::Problem {
        place: place.clone(),
        path: path.to_owned(),
        what,
        fix: fix.to_owned(),
    });
}

/// For constants that are not zero.
const fn port(port: u16) -> NonZeroU16 {
    match NonZeroU16::new(port) {
        Some(port) => port,
        None => NonZeroU16::MIN,
    }
}

/// For constants that are not zero.
const fn count(count: usize) -> NonZeroUsize {
    match NonZeroUsize::new(count) {
        Some(count) => count,
        None => NonZeroUsize::MIN,
    }
}
