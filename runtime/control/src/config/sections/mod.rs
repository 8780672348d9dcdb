//! Reads the config's tables, key by key: the allowed values and the defaults.
//!
//! Invariant: a backend without a valid address is left out of the config, a service without a valid
//! required value stands apart from the others; any other wrong value is replaced by its default.

mod admin;
mod health;
mod service;
mod source_nat;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;
use waxwing_dataplane::SourceLimit;
use waxwing_dataplane::model::Faces;
use waxwing_plugin::CanaryRules;

use super::added::AddedBackends;
use super::model::{
    ClusterKey, Config, Mode, Poll, Port, ReturnPath, Rings, Unserved, Workers, ZeroCopy,
};
use super::problem::{Located, Problems, SourceText, Span};
use super::reader::{Table, or, or_default};
use super::schema::{self, Key};
use super::values;

/// Maximum canary time.
const CANARY_MAX: Duration = Duration::from_secs(86_400);
/// Highest CPU number in the 1024-bit masks of `sched_setaffinity`.
const CPU_MAX: usize = 1023;

const ZERO_COPY: [(&str, ZeroCopy); 3] = [
    ("auto", ZeroCopy::Auto),
    ("require", ZeroCopy::Require),
    ("off", ZeroCopy::Off),
];
const FACES: [(&str, Faces); 2] = [("clients", Faces::Clients), ("servers", Faces::Servers)];
const POLL: [(&str, Poll); 2] = [("adaptive", Poll::Adaptive), ("busy", Poll::Busy)];
const MODE: [(&str, Mode); 2] = [
    (Mode::Routed.label(), Mode::Routed),
    (Mode::Transparent.label(), Mode::Transparent),
];
const UNSERVED: [(&str, Unserved); 2] = [("reject", Unserved::Reject), ("drop", Unserved::Drop)];
const RETURN_PATH: [(&str, ReturnPath); 2] = [
    ("last-hop", ReturnPath::LastHop),
    ("route", ReturnPath::Route),
];

/// Reads the source of `problems`. Returns `None` if its syntax is broken, and reports only that:
/// the meaning of the rest would be a guess.
pub(super) fn read(problems: &mut Problems) -> Option<Config> {
    let source = Arc::clone(&problems.source);
    let (root, syntax) = DeTable::parse_recoverable(source.text());
    for error in &syntax {
        let span = error.span().map_or_else(Span::default, Span::from);
        problems.error(span, syntax_error(error.message()));
    }
    syntax.is_empty().then(|| config(root.get_ref(), problems))
}

/// Returns the config of an empty file.
pub(super) fn defaults(source: &Arc<SourceText>) -> Config {
    config(&DeTable::new(), &mut Problems::new(source))
}

/// Returns the parser's message with the most likely remedy.
fn syntax_error(message: &str) -> String {
    let message = message.trim_end_matches(", expected nothing");
    let missing = message.split_once("expected `").map(|(_, rest)| rest);
    let remedy = if message.contains("duplicate key") {
        "write each key and each [table] once; a list of tables has double brackets: [[service]]"
    } else if message.contains("no value") {
        "write `key = value`"
    } else if let Some(missing) = missing {
        let missing = missing.trim_end_matches('`');
        return format!("invalid TOML: {message}; write the missing `{missing}`");
    } else {
        "write strings in quotes, such as `vip = \"203.0.113.10\"`, and each `key = value` on its own \
         line"
    };
    format!("invalid TOML: {message}; {remedy}")
}

fn config(entries: &DeTable<'_>, problems: &mut Problems) -> Config {
    let root = &Table::new(&schema::ROOT, entries, Span::default(), problems);
    let module_share = root.integer(&schema::MODULE_SHARE, 0..=100, problems);
    let sessions_max = root.integer(&schema::SESSIONS_MAX, 1..=1 << 27, problems);
    let services_max = root.integer(&schema::SERVICES_MAX, 1..=1 << 16, problems);
    let backends_max = root.integer(&schema::BACKENDS_MAX, 1..=1 << 20, problems);
    let sample_sessions = root.integer(&schema::SAMPLE_SESSIONS, 0..=1_000_000, problems);
    let routes_max = root.integer(&schema::ROUTES_MAX, 1..=1 << 21, problems);
    let cluster_key = root.parsed(&schema::CLUSTER_KEY, problems, values::key_128);
    let default_mode = Located::new(Mode::default(), Span::default());
    let (services, incomplete) = service::read(root, problems);
    Config {
        modules: folder(root, &schema::MODULES, problems),
        state: folder(root, &schema::STATE, problems),
        canary: canary(root, problems),
        module_share: or(module_share, 10),
        sessions_max: or(sessions_max, 1_000_000),
        services_max: or(services_max, 1 << 10),
        backends_max: or(backends_max, 1 << 14),
        sample_sessions: or(sample_sessions, 64),
        cluster_key: or_default(cluster_key.map(|key| key.map(ClusterKey))),
        zero_copy: or_default(root.choice(&schema::ZERO_COPY, &ZERO_COPY, problems)),
        poll: or_default(root.choice(&schema::POLL, &POLL, problems)),
        mode: (root.choice(&schema::MODE, &MODE, problems)).unwrap_or(default_mode),
        return_path: or_default(root.choice(&schema::RETURN_PATH, &RETURN_PATH, problems)),
        routes_max: or(routes_max, 100_000),
        ping: or(root.boolean(&schema::PING, problems), true),
        unserved: or_default(root.choice(&schema::UNSERVED, &UNSERVED, problems)),
        source_limit: source_limit(root, problems),
        admin: admin::read(root, problems),
        metrics: metrics(root, problems),
        workers: workers(root, problems),
        rings: rings(root, problems),
        ports: ports(root, problems),
        source_nat: source_nat::read(root, problems),
        services,
        added: AddedBackends::default(),
        incomplete,
        source: Arc::clone(&problems.source),
    }
}

fn folder(
    root: &Table<'_, '_>,
    key: &'static Key,
    problems: &mut Problems,
) -> Option<Located<PathBuf>> {
    let base = problems.folder();
    root.parsed(key, problems, |text| {
        Ok(base.join(values::path(text, "the folder's path")?))
    })
}

fn canary(root: &Table<'_, '_>, problems: &mut Problems) -> CanaryRules {
    let defaults = CanaryRules {
        time: Duration::from_secs(10),
        ..CanaryRules::default()
    };
    let Some(table) = root.table(&schema::CANARY, problems) else {
        return defaults;
    };
    let time = table.duration(&schema::CANARY_TIME, Duration::ZERO..=CANARY_MAX, problems);
    let flows_min = table.integer(&schema::FLOWS_MIN, 1..=1_000_000, problems);
    let mut percent = |key, default| or(table.integer(key, 0..=100, problems), default);
    CanaryRules {
        time: or(time, defaults.time),
        flows_min: or(flows_min, defaults.flows_min),
        more_drops: percent(&schema::MORE_DROPS, defaults.more_drops),
        more_fallbacks: percent(&schema::MORE_FALLBACKS, defaults.more_fallbacks),
        more_failures: percent(&schema::MORE_FAILURES, defaults.more_failures),
        one_backend: percent(&schema::ONE_BACKEND, defaults.one_backend),
    }
}

/// An office behind one address opens some hundred sessions a second, a proxy or a carrier's NAT some
/// thousand.
const SOURCE_LIMIT: SourceLimit = SourceLimit {
    sessions_per_s: 20_000,
    prefix_v4: 32,
    prefix_v6: 64,
};

fn source_limit(root: &Table<'_, '_>, problems: &mut Problems) -> Option<SourceLimit> {
    let Some(table) = root.table(&schema::SOURCE_LIMIT, problems) else {
        return Some(SOURCE_LIMIT);
    };
    let per_s = table.integer(&schema::SESSIONS_PER_S, 0..=10_000_000_u32, problems);
    let prefix_v4 = table.integer(&schema::PREFIX_V4, 8..=32_u8, problems);
    let prefix_v6 = table.integer(&schema::PREFIX_V6, 16..=128_u8, problems);
    let limit = SourceLimit {
        sessions_per_s: or(per_s, SOURCE_LIMIT.sessions_per_s),
        prefix_v4: or(prefix_v4, SOURCE_LIMIT.prefix_v4),
        prefix_v6: or(prefix_v6, SOURCE_LIMIT.prefix_v6),
    };
    (limit.sessions_per_s > 0).then_some(limit)
}

fn metrics(root: &Table<'_, '_>, problems: &mut Problems) -> Option<SocketAddr> {
    let table = root.table(&schema::METRICS, problems)?;
    let listen = table.parsed(&schema::LISTEN, problems, values::listen);
    listen.map(|listen| listen.value)
}

fn workers(root: &Table<'_, '_>, problems: &mut Problems) -> Workers {
    let Some(table) = root.table(&schema::WORKERS, problems) else {
        return Workers {
            pin: true,
            cpus: Vec::new(),
        };
    };
    let pin = or(table.boolean(&schema::PIN, problems), true);
    let cpus = table.integers(&schema::CPUS, 0..=CPU_MAX, problems);
    let cpus = cpus.unwrap_or_default();
    if let (false, Some(first)) = (pin, cpus.first()) {
        let text = "`cpus` has no effect without pinning; write `pin = true`, or remove `cpus`";
        problems.warn(first.span, text);
    }
    Workers { pin, cpus }
}

fn rings(root: &Table<'_, '_>, problems: &mut Problems) -> Rings {
    const SIZE: u32 = 2048;
    let Some(table) = root.table(&schema::RINGS, problems) else {
        return Rings::of_size(SIZE);
    };
    let size = table.integer(&schema::SIZE, 64..=32_768_u32, problems);
    if let Some(Located { value, span }) = size
        && !value.is_power_of_two()
    {
        let (low, high) = (value.next_power_of_two() / 2, value.next_power_of_two());
        let text = format!("`size` must be a power of two; write {low} or {high}");
        problems.error(span, text);
    }
    let rings = Rings::of_size(or(size, SIZE));
    let frames = table.integer(&schema::FRAMES, 128..=1 << 20, problems);
    if let Some(Located { value, span }) = frames
        && value < 2 * rings.size
    {
        let text = format!(
            "{value} frames cannot fill a receive ring and a transmit ring of {}; write \
             `frames = {}` or more",
            rings.size, rings.frames
        );
        problems.error(span, text);
    }
    Rings {
        frames: or(frames, rings.frames),
        ..rings
    }
}

fn ports(root: &Table<'_, '_>, problems: &mut Problems) -> Vec<Port> {
    let tables = root.tables(&schema::PORT, problems);
    let read = |table: &Table<'_, '_>| {
        let interface = table.parsed(&schema::INTERFACE, problems, values::interface);
        let faces = table.choice(&schema::FACES, &FACES, problems);
        Some(Port {
            interface: interface?.map(Arc::from),
            faces: faces.map(|faces| faces.value),
        })
    };
    tables.iter().filter_map(read).collect()
}
