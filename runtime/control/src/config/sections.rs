//! The config's tables, key by key: what each may hold, and its default.
//!
//! Invariant: a service or backend whose address is wrong or missing is left out of the config;
//! any other wrong value leaves its default in place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;
use waxwing_dataplane::Ports;
use waxwing_dataplane::counters::SIGNALS;
use waxwing_dataplane::model::{MidStream, Timeouts};
use waxwing_dataplane::time::TICK;
use waxwing_packet::Protocol;

use super::problem::{Located, Source, Span};
use super::reader::{Report, Table};
use super::schema::{self, Key};
use super::{
    Admin, Backend, ClusterKey, Config, Mode, Poll, Port, Reading, ReturnPath, Rings, Service,
    Workers, ZeroCopy, check, health, source_nat, values,
};

/// Linux's `sockaddr_un` holds a path of 107 bytes and its end.
const SOCKET_PATH_MAX: usize = 107;
/// The longest a new build may serve on one worker only.
const CANARY_MAX: Duration = Duration::from_secs(86_400);
/// The longest a session may live without a packet.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 86_400);
const ZERO_COPY: [(&str, ZeroCopy); 3] = [
    ("auto", ZeroCopy::Auto),
    ("require", ZeroCopy::Require),
    ("off", ZeroCopy::Off),
];

/// Reads a text. Where its syntax is broken, only that is reported: what the rest would then
/// mean is a guess.
pub(super) fn read(source: &Arc<Source>) -> Reading {
    let (root, syntax) = DeTable::parse_recoverable(source.text());
    let mut report = Report::new(source);
    if syntax.is_empty() {
        let config = config(root.get_ref(), &mut report);
        check::check(&config, &mut report);
        return Reading {
            config,
            problems: report.problems,
        };
    }
    for error in &syntax {
        let span = error.span().map_or_else(Span::default, Span::from);
        report.error(span, syntax_error(error.message()));
    }
    let defaults = config(&DeTable::new(), &mut Report::new(source));
    Reading {
        config: defaults,
        problems: report.problems,
    }
}

/// What the parser says, with the most likely remedy.
fn syntax_error(message: &str) -> String {
    let message = message.trim_end_matches(", expected nothing");
    let remedy = if message.contains("duplicate key") {
        "write each key and each [table] once; a list of tables has two brackets, as in [[service]]"
    } else if message.contains("no value") {
        "write `key = value`"
    } else if let Some((_, missing)) = message.split_once("expected `") {
        let missing = missing.trim_end_matches('`');
        return format!("not TOML: {message}; write the missing `{missing}`");
    } else {
        "write text in quotes, as in `vip = \"203.0.113.10\"`, and each `key = value` on a line of \
         its own"
    };
    format!("not TOML: {message}; {remedy}")
}

fn config(entries: &DeTable<'_>, report: &mut Report) -> Config {
    let root = &Table::new(&schema::ROOT, entries, Span::default(), report);
    let source = Arc::clone(&report.source);
    let folder = source.path().parent().unwrap_or(Path::new(""));
    let polls = [("adaptive", Poll::Adaptive), ("busy", Poll::Busy)];
    let modes = [("routed", Mode::Routed), ("transparent", Mode::Transparent)];
    let return_paths = [
        ("last-hop", ReturnPath::LastHop),
        ("route", ReturnPath::Route),
    ];
    Config {
        modules: root
            .parsed(&schema::MODULES, report, |text| {
                path(text, "the folder's path")
            })
            .map(|path| path.map(|path| folder.join(path))),
        canary: canary(root, report),
        sessions_max: or(
            root.integer(&schema::SESSIONS_MAX, 1..=1 << 27, report),
            1_000_000,
        ),
        services_max: or(
            root.integer(&schema::SERVICES_MAX, 1..=1 << 16, report),
            1 << 10,
        ),
        backends_max: or(
            root.integer(&schema::BACKENDS_MAX, 1..=1 << 20, report),
            1 << 14,
        ),
        cluster_key: root
            .parsed(&schema::CLUSTER_KEY, report, values::key_128)
            .map_or_else(ClusterKey::default, |key| ClusterKey(key.value)),
        zero_copy: or(
            root.choice(&schema::ZERO_COPY, &ZERO_COPY, report),
            ZeroCopy::default(),
        ),
        poll: or(root.choice(&schema::POLL, &polls, report), Poll::default()),
        mode: root
            .choice(&schema::MODE, &modes, report)
            .unwrap_or_else(|| Located::new(Mode::default(), Span::default())),
        return_path: or(
            root.choice(&schema::RETURN_PATH, &return_paths, report),
            ReturnPath::default(),
        ),
        routes_max: or(
            root.integer(&schema::ROUTES_MAX, 1..=1 << 21, report),
            100_000,
        ),
        ping: or(root.boolean(&schema::PING, report), true),
        admin: admin(root, folder, report),
        workers: workers(root, report),
        rings: rings(root, report),
        ports: ports(root, report),
        source_nat: source_nat::read(root, report),
        services: services(root, report),
        source: Arc::clone(&source),
    }
}

/// How long a new build is seen at work on one worker.
fn canary(root: &Table<'_, '_>, report: &mut Report) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(1);
    let Some(Located { value, span }) = root.duration(&schema::CANARY, report) else {
        return DEFAULT;
    };
    if value > CANARY_MAX {
        report.error(span, "`canary` is out of range; write \"0s\" to \"1d\"");
        return DEFAULT;
    }
    value
}

/// The value, or a default.
fn or<T>(read: Option<Located<T>>, default: T) -> T {
    read.map_or(default, |located| located.value)
}

pub(super) fn path(text: &str, what: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("this is no path; write {what}"));
    }
    Ok(PathBuf::from(text))
}

fn admin(root: &Table<'_, '_>, folder: &Path, report: &mut Report) -> Admin {
    let table = root.table(&schema::ADMIN, report);
    let socket = table.as_ref().and_then(|table| {
        table.parsed(&schema::SOCKET, report, |text| {
            let path = folder.join(path(text, "the socket's path")?);
            if path.as_os_str().len() > SOCKET_PATH_MAX {
                return Err(format!(
                    "a socket's path has at most {SOCKET_PATH_MAX} bytes; write a shorter one, \
                     such as \"/run/waxwing.sock\""
                ));
            }
            Ok(path)
        })
    });
    let span = table.map_or_else(Span::default, |table| table.span);
    Admin {
        socket: socket.unwrap_or_else(|| Located::new("/run/waxwing.sock".into(), span)),
    }
}

fn workers(root: &Table<'_, '_>, report: &mut Report) -> Workers {
    let Some(table) = root.table(&schema::WORKERS, report) else {
        return Workers {
            pin: true,
            cpus: Vec::new(),
        };
    };
    let pin = or(table.boolean(&schema::PIN, report), true);
    // The kernel's CPU masks, and with them `sched_setaffinity`, are used with 1024 bits.
    let cpus = table
        .integers(&schema::CPUS, 0..=1023, report)
        .unwrap_or_default();
    if let (false, Some(first)) = (pin, cpus.first()) {
        report.warn(
            first.span,
            "without pinning, `cpus` has no effect; write `pin = true`",
        );
    }
    Workers { pin, cpus }
}

fn rings(root: &Table<'_, '_>, report: &mut Report) -> Rings {
    const SIZE: u32 = 2048;
    let Some(table) = root.table(&schema::RINGS, report) else {
        return Rings::of_size(SIZE);
    };
    let size = table.integer(&schema::SIZE, 64..=32_768_u32, report);
    if let Some(Located { value, span }) = size
        && !value.is_power_of_two()
    {
        let (low, high) = (value.next_power_of_two() / 2, value.next_power_of_two());
        let text = format!("`size` must be a power of two; write {low} or {high}");
        report.error(span, text);
    }
    let rings = Rings::of_size(or(size, SIZE));
    let frames = table.integer(&schema::FRAMES, 128..=1 << 20, report);
    if let Some(Located { value, span }) = frames
        && value < 2 * rings.size
    {
        let text = format!(
            "{value} frames cannot fill a receive ring and a transmit ring of {}; write \
             `frames = {}` or more",
            rings.size, rings.frames
        );
        report.error(span, text);
    }
    Rings {
        frames: or(frames, rings.frames),
        ..rings
    }
}

fn ports(root: &Table<'_, '_>, report: &mut Report) -> Vec<Port> {
    let tables = root.tables(&schema::PORT, report);
    let read = |table: &Table<'_, '_>| {
        let interface = table.parsed(&schema::INTERFACE, report, values::interface);
        Some(Port {
            interface: interface?.map(Arc::from),
        })
    };
    tables.iter().filter_map(read).collect()
}

fn services(root: &Table<'_, '_>, report: &mut Report) -> Vec<Service> {
    if !root.has(&schema::SERVICE) {
        let text = "there is no service, so nothing is balanced; write a [[service]]";
        report.warn(root.span, text);
    }
    let tables = root.tables(&schema::SERVICE, report);
    tables
        .iter()
        .filter_map(|table| service(table, report))
        .collect()
}

/// Reads every key, then keeps the service if its essentials are there.
fn service(table: &Table<'_, '_>, report: &mut Report) -> Option<Service> {
    let mid_streams = [("pick", MidStream::Pick), ("drop", MidStream::Drop)];
    let name = table.parsed(&schema::NAME, report, values::name);
    let vip = table.parsed(&schema::VIP, report, values::address);
    let ports = table.ports(&schema::SERVICE_PORT, report);
    let protocol = table.choice(
        &schema::PROTOCOL,
        &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)],
        report,
    );
    let policy = table.parsed(&schema::POLICY, report, values::name);
    let policy_config = table.json(&schema::POLICY_CONFIG, report);
    let mid_stream = table.choice(&schema::MID_STREAM, &mid_streams, report);
    if let (Some(mid_stream), Some(Protocol::Udp)) = (mid_stream, protocol.map(|p| p.value)) {
        report.warn(
            mid_stream.span,
            "UDP has no streams, so `mid_stream` has no effect",
        );
    }
    let source_nat = table.choice(&schema::SERVICE_SOURCE_NAT, &source_nat::USES, report);
    let timeouts = timeouts(table, protocol.map(|p| p.value), report);
    let signals = signals(table, report);
    let health = health::read(table, report);
    let backends = table.tables(&schema::BACKEND, report);
    let backends = backends
        .iter()
        .filter_map(|table| backend(table, ports.map(|ports| ports.value), report))
        .collect();
    let no_config = || Located::new("{}".to_owned(), table.span);
    Some(Service {
        name: name?.map(Arc::from),
        vip: vip?,
        ports: ports?,
        protocol: protocol?,
        policy: policy?.map(Arc::from),
        policy_config: policy_config
            .map_or_else(no_config, |json| json.map(|json| json.to_string()))
            .map(Arc::from),
        mid_stream: or(mid_stream, MidStream::default()),
        source_nat,
        signals,
        timeouts,
        health,
        backends,
        span: table.span,
    })
}

/// The names of a service's signals: at most as many as there are, and no two alike.
fn signals(table: &Table<'_, '_>, report: &mut Report) -> Vec<Arc<str>> {
    let names = table.texts(&schema::SIGNALS, report, |text| {
        if is_signal_name(text) {
            Ok(Arc::from(text))
        } else {
            Err(format!(
                "\"{text}\" cannot name a signal; write 1 to 32 of a-z, 0-9 and `_`, a letter first"
            ))
        }
    });
    let names: Vec<Located<Arc<str>>> = names.unwrap_or_default();
    for (at, name) in names.iter().enumerate() {
        if at == SIGNALS {
            let text = format!("a backend has {SIGNALS} signals; take the others out");
            report.error(name.span, text);
            break;
        }
        if names[..at].iter().any(|other| other.value == name.value) {
            let text = format!("two signals are named \"{}\"; rename one", name.value);
            report.error(name.span, text);
        }
    }
    names.into_iter().map(|name| name.value).collect()
}

/// A backend has a port where its service has one. Where the service has many, each session keeps the one
/// that its client used: there is none that the backend could have instead of all of them.
fn backend(
    table: &Table<'_, '_>,
    of_service: Option<Ports>,
    report: &mut Report,
) -> Option<Backend> {
    let address = table.parsed(&schema::ADDRESS, report, values::address);
    let port = table.integer(&schema::BACKEND_PORT, 1..=u16::MAX, report);
    let many = of_service.filter(|ports| ports.single().is_none());
    if let (Some(port), Some(ports)) = (port, many) {
        let text = format!(
            "the service has ports {ports}, and a session goes to the one that its client used; take \
             `port` out here, or write a service with one port"
        );
        report.error(port.span, text);
    }
    if many.is_none() && !table.has(&schema::BACKEND_PORT) {
        report.error(table.span, table.missing(&schema::BACKEND_PORT));
    }
    let weight = table.integer(&schema::WEIGHT, 0..=65_535, report);
    let name = table.parsed(&schema::BACKEND_NAME, report, values::name);
    let tag = table.integer(&schema::TAG, 0..=u32::MAX, report);
    let backup = table.boolean(&schema::BACKUP, report);
    let health = health::read_override(table, report);
    Some(Backend {
        address: address?,
        port: if many.is_some() { None } else { Some(port?) },
        weight: or(weight, 1),
        name: name.map(|name| name.map(Arc::from)),
        tag: or(tag, 0),
        backup: or(backup, false),
        health,
    })
}

/// The timeouts of a service. The defaults are the least that the RFCs allow (see
/// [`Timeouts`]); a shorter one is warned of, and so is one that its protocol does not use.
fn timeouts(service: &Table<'_, '_>, protocol: Option<Protocol>, report: &mut Report) -> Timeouts {
    let least = Timeouts::default();
    let Some(table) = service.table(&schema::TIMEOUTS, report) else {
        return least;
    };
    let mut timeout = |key: &'static Key, least: Duration, of: Protocol, rfc: &str| {
        let Some(Located { value, span }) = table.duration(key, report) else {
            return least;
        };
        let name = key.name;
        if value < TICK || value > TIMEOUT_MAX {
            report.error(
                span,
                format!("`{name}` is out of range; write \"100ms\" to \"30d\""),
            );
            return least;
        }
        if protocol.is_some_and(|protocol| protocol != of) {
            report.warn(
                span,
                format!("`{name}` has no effect: the service does not serve {of}"),
            );
        } else if value < least {
            let (value, least) = (values::duration_text(value), values::duration_text(least));
            report.warn(
                span,
                format!(
                    "{value} is shorter than {rfc} allows, so sessions may end that are still in \
                     use; write `{name} = \"{least}\"` or more"
                ),
            );
        }
        value
    };
    let tcp = "RFC 5382 REQ-5";
    Timeouts {
        tcp_half_open: timeout(
            &schema::TCP_HALF_OPEN,
            least.tcp_half_open,
            Protocol::Tcp,
            tcp,
        ),
        tcp_established: timeout(
            &schema::TCP_ESTABLISHED,
            least.tcp_established,
            Protocol::Tcp,
            tcp,
        ),
        tcp_closing: timeout(&schema::TCP_CLOSING, least.tcp_closing, Protocol::Tcp, tcp),
        udp: timeout(&schema::UDP, least.udp, Protocol::Udp, "RFC 4787 REQ-5"),
    }
}

/// Whether a text can name a signal: not a number, which would be taken for its place.
fn is_signal_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=32).contains(&text.len())
        && text.bytes().all(plain)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
}
