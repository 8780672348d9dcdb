//! Every key that a config may have, with an example value.
//!
//! Invariant: a key that is not listed here is refused; each listed key is read by `sections` and
//! documented in `examples/full.toml`. Tests check all three against each other.

use std::collections::BTreeMap;

/// One key of a table.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// A value, or the header of a table.
    pub(super) example: &'static str,
    pub(super) shape: Shape,
    pub(super) required: bool,
}

/// What a key holds.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Shape {
    Value,
    /// A table of any keys, passed to a module.
    Free,
    Table(&'static Section),
    Tables(&'static Section),
}

/// A kind of table.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Section {
    /// `None`: the top of the file.
    pub(super) header: Option<&'static str>,
    pub(super) keys: &'static [&'static Key],
}

impl Section {
    /// Returns this section and all sections in it.
    pub(super) fn all(&'static self) -> Vec<&'static Self> {
        let inner = self.keys.iter().filter_map(|key| match key.shape {
            Shape::Table(section) | Shape::Tables(section) => Some(section.all()),
            Shape::Value | Shape::Free => None,
        });
        std::iter::once(self).chain(inner.flatten()).collect()
    }

    /// Returns its name in errors.
    pub(super) fn title(&self) -> &'static str {
        self.header.unwrap_or("the top of the file")
    }
}

/// What a key's value must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    Text,
    Choice(Vec<&'static str>),
    Boolean,
    Integer([i128; 2]),
    /// A text with units, or whole seconds.
    Duration,
    /// A port, or a text for several.
    Ports,
    Texts,
    Integers([i128; 2]),
    /// A table of any keys.
    Free,
}

/// What the reader asks for, by section and key.
#[derive(Default)]
pub(super) struct Asked(BTreeMap<(&'static str, &'static str), Expected>);

impl Asked {
    /// Returns what is asked for.
    pub(super) fn get(&self, section: &Section, key: &Key) -> Option<&Expected> {
        self.0.get(&(section.title(), key.name))
    }

    /// Notes what is asked for first: a reader may try one form of a value after the other.
    pub(super) fn note(&mut self, section: &Section, key: &Key, expected: Expected) {
        self.0
            .entry((section.title(), key.name))
            .or_insert(expected);
    }
}

const fn key(name: &'static str, example: &'static str, shape: Shape, required: bool) -> Key {
    Key {
        name,
        example,
        shape,
        required,
    }
}

const fn required(name: &'static str, example: &'static str) -> Key {
    key(name, example, Shape::Value, true)
}

const fn optional(name: &'static str, example: &'static str) -> Key {
    key(name, example, Shape::Value, false)
}

pub(super) static MODULES: Key = optional("modules", r#""modules""#);
pub(super) static STATE: Key = optional("state", r#""/var/lib/waxwing""#);
pub(super) static CANARY: Key = key("canary", "[canary]", Shape::Table(&CANARY_SECTION), false);
pub(super) static MODULE_SHARE: Key = optional("module_share", "10");
pub(super) static SESSIONS_MAX: Key = optional("sessions_max", "1_000_000");
pub(super) static SERVICES_MAX: Key = optional("services_max", "1_024");
pub(super) static BACKENDS_MAX: Key = optional("backends_max", "16_384");
pub(super) static SAMPLE_SESSIONS: Key = optional("sample_sessions", "64");
pub(super) static CLUSTER_KEY: Key =
    optional("cluster_key", r#""00112233445566778899aabbccddeeff""#);
pub(super) static ZERO_COPY: Key = optional("zero_copy", r#""auto""#);
pub(super) static POLL: Key = optional("poll", r#""adaptive""#);
pub(super) static MODE: Key = optional("mode", r#""transparent""#);
pub(super) static RETURN_PATH: Key = optional("return_path", r#""last-hop""#);
pub(super) static ROUTES_MAX: Key = optional("routes_max", "100_000");
pub(super) static PING: Key = optional("ping", "true");
pub(super) static UNSERVED: Key = optional("unserved", r#""reject""#);

pub(super) static SESSIONS_PER_S: Key = optional("sessions_per_s", "20_000");
pub(super) static PREFIX_V4: Key = optional("prefix_v4", "32");
pub(super) static PREFIX_V6: Key = optional("prefix_v6", "64");

pub(super) static CANARY_TIME: Key = optional("time", r#""10s""#);
pub(super) static FLOWS_MIN: Key = optional("flows_min", "20");
pub(super) static MORE_DROPS: Key = optional("more_drops", "50");
pub(super) static MORE_FALLBACKS: Key = optional("more_fallbacks", "50");
pub(super) static MORE_FAILURES: Key = optional("more_failures", "50");
pub(super) static ONE_BACKEND: Key = optional("one_backend", "95");

pub(super) static SOCKET: Key = optional("socket", r#""/run/waxwing/waxwing.sock""#);
pub(super) static GROUP: Key = optional("group", r#""waxwing""#);
pub(super) static READ_SOCKET: Key = optional("read_socket", r#""/run/waxwing/read.sock""#);
pub(super) static READ_GROUP: Key = optional("read_group", r#""monitoring""#);
pub(super) static ADMIN_LISTEN: Key = optional("listen", r#""127.0.0.1:9118""#);
pub(super) static TOKEN_FILE: Key = optional("token_file", r#""/etc/waxwing/token""#);

pub(super) static LISTEN: Key = required("listen", r#""127.0.0.1:9117""#);

pub(super) static PIN: Key = optional("pin", "true");
pub(super) static CPUS: Key = optional("cpus", "[0, 1]");

pub(super) static SIZE: Key = optional("size", "2048");
pub(super) static FRAMES: Key = optional("frames", "8192");

pub(super) static INTERFACE: Key = required("interface", r#""eth0""#);
pub(super) static FACES: Key = optional("faces", r#""clients""#);

pub(super) static NAME: Key = required("name", r#""web""#);
pub(super) static VIP: Key = required("vip", r#""203.0.113.10""#);
pub(super) static SERVICE_PORT: Key = required("port", "80");
pub(super) static PROTOCOL: Key = required("protocol", r#""tcp""#);
pub(super) static POLICY: Key = required("policy", r#""round_robin""#);
pub(super) static POLICY_CONFIG: Key = key("policy_config", "{ }", Shape::Free, false);
pub(super) static MID_STREAM: Key = optional("mid_stream", r#""pick""#);
pub(super) static UNEVEN: Key = optional("uneven", "true");
pub(super) static ADOPT_REPLIES: Key = optional("adopt_replies", "true");

pub(super) static SERVICE_SESSIONS_MAX: Key = optional("sessions_max", "500_000");

pub(super) static SIGNALS: Key = optional("signals", r#"["queue"]"#);

pub(super) static TCP_HALF_OPEN: Key = optional("tcp_half_open", r#""240s""#);
pub(super) static TCP_ESTABLISHED: Key = optional("tcp_established", r#""2h4m""#);
pub(super) static TCP_CLOSING: Key = optional("tcp_closing", r#""240s""#);
pub(super) static UDP: Key = optional("udp", r#""120s""#);
pub(super) static UDP_UNASSURED: Key = optional("udp_unassured", r#""30s""#);

pub(super) static ADDRESS: Key = required("address", r#""10.2.0.11""#);
pub(super) static BACKEND_PORT: Key = optional("port", "8080");
pub(super) static WEIGHT: Key = optional("weight", "1");
pub(super) static BACKEND_NAME: Key = optional("name", r#""web-1""#);
pub(super) static TAG: Key = optional("tag", "7");

pub(super) static BACKUP: Key = optional("backup", "true");

pub(super) static ON_DOWN: Key = optional("on_down", r#""reset""#);
pub(super) static ON_REFUSED: Key = optional("on_refused", r#""retry""#);
pub(super) static SLOW_START: Key = optional("slow_start", r#""30s""#);
pub(super) static DRAIN_TIMEOUT: Key = optional("drain_timeout", r#""10m""#);
pub(super) static ALL_DOWN: Key = optional("all_down", r#""reject""#);
pub(super) static PANIC_THRESHOLD: Key = optional("panic_threshold", "30");

pub(super) static CHECK: Key = required("check", r#""http""#);
pub(super) static CHECK_CONFIG: Key = key("config", "{ }", Shape::Free, false);
pub(super) static INTERVAL: Key = optional("interval", r#""2s""#);
pub(super) static FAST_INTERVAL: Key = optional("fast_interval", r#""500ms""#);
pub(super) static TIMEOUT: Key = optional("timeout", r#""1s""#);
pub(super) static RISE: Key = optional("rise", "2");
pub(super) static FALL: Key = optional("fall", "3");
pub(super) static JITTER: Key = optional("jitter", "10");
pub(super) static CHECK_PORT: Key = optional("port", "9100");
pub(super) static ENABLED: Key = optional("enabled", "false");

pub(super) static ROOTS: Key = optional("roots", r#""ca.pem""#);
pub(super) static SERVER_NAME: Key = optional("server_name", r#""api.example.com""#);
pub(super) static VERIFY: Key = optional("verify", "true");

pub(super) static FAILURES: Key = optional("failures", "5");
pub(super) static WINDOW: Key = optional("window", r#""10s""#);
pub(super) static TIME: Key = optional("time", r#""10s""#);
pub(super) static TIME_MAX: Key = optional("time_max", r#""5m""#);
pub(super) static MIN_HEALTHY: Key = optional("min_healthy", "50");

pub(super) static HEALTH: Key = key(
    "health",
    "[[service.health]]",
    Shape::Tables(&HEALTH_SECTION),
    false,
);
pub(super) static TLS: Key = key(
    "tls",
    "[service.health.tls]",
    Shape::Table(&TLS_SECTION),
    false,
);
pub(super) static EJECTION: Key = key(
    "ejection",
    "[service.ejection]",
    Shape::Table(&EJECTION_SECTION),
    false,
);
pub(super) static BACKEND_HEALTH: Key = key(
    "health",
    "[service.backend.health]",
    Shape::Table(&BACKEND_HEALTH_SECTION),
    false,
);

pub(super) static ADMIN: Key = key("admin", "[admin]", Shape::Table(&ADMIN_SECTION), false);
pub(super) static METRICS: Key = key(
    "metrics",
    "[metrics]",
    Shape::Table(&METRICS_SECTION),
    false,
);
pub(super) static SOURCE_LIMIT: Key = key(
    "source_limit",
    "[source_limit]",
    Shape::Table(&SOURCE_LIMIT_SECTION),
    false,
);
pub(super) static WORKERS: Key = key(
    "workers",
    "[workers]",
    Shape::Table(&WORKERS_SECTION),
    false,
);
pub(super) static RINGS: Key = key("rings", "[rings]", Shape::Table(&RINGS_SECTION), false);
pub(super) static CLIENTS: Key = optional("clients", r#"["10.2.0.0/24"]"#);
pub(super) static ADDRESSES: Key = required("addresses", r#"["10.2.0.9"]"#);
pub(super) static SOURCE_PORTS: Key = optional("ports", r#""1024-65535""#);
pub(super) static SOURCE_NAT: Key = key(
    "source_nat",
    "[[source_nat]]",
    Shape::Tables(&SOURCE_NAT_SECTION),
    false,
);
pub(super) static SERVICE_SOURCE_NAT: Key = optional("source_nat", r#""auto""#);

pub(super) static PORT: Key = key("port", "[[port]]", Shape::Tables(&PORT_SECTION), true);
pub(super) static SERVICE: Key = key(
    "service",
    "[[service]]",
    Shape::Tables(&SERVICE_SECTION),
    false,
);
pub(super) static TIMEOUTS: Key = key(
    "timeouts",
    "[service.timeouts]",
    Shape::Table(&TIMEOUTS_SECTION),
    false,
);
pub(super) static BACKEND: Key = key(
    "backend",
    "[[service.backend]]",
    Shape::Tables(&BACKEND_SECTION),
    false,
);

pub(super) static ROOT: Section = Section {
    header: None,
    keys: &[
        &MODULES,
        &STATE,
        &CANARY,
        &MODULE_SHARE,
        &SESSIONS_MAX,
        &SERVICES_MAX,
        &BACKENDS_MAX,
        &SAMPLE_SESSIONS,
        &CLUSTER_KEY,
        &ZERO_COPY,
        &POLL,
        &MODE,
        &RETURN_PATH,
        &ROUTES_MAX,
        &PING,
        &UNSERVED,
        &SOURCE_LIMIT,
        &ADMIN,
        &METRICS,
        &WORKERS,
        &RINGS,
        &PORT,
        &SOURCE_NAT,
        &SERVICE,
    ],
};
static SOURCE_LIMIT_SECTION: Section = Section {
    header: Some("[source_limit]"),
    keys: &[&SESSIONS_PER_S, &PREFIX_V4, &PREFIX_V6],
};
static ADMIN_SECTION: Section = Section {
    header: Some("[admin]"),
    keys: &[
        &SOCKET,
        &GROUP,
        &READ_SOCKET,
        &READ_GROUP,
        &ADMIN_LISTEN,
        &TOKEN_FILE,
    ],
};
static METRICS_SECTION: Section = Section {
    header: Some("[metrics]"),
    keys: &[&LISTEN],
};
static WORKERS_SECTION: Section = Section {
    header: Some("[workers]"),
    keys: &[&PIN, &CPUS],
};
static RINGS_SECTION: Section = Section {
    header: Some("[rings]"),
    keys: &[&SIZE, &FRAMES],
};
static PORT_SECTION: Section = Section {
    header: Some("[[port]]"),
    keys: &[&INTERFACE, &FACES],
};
static SOURCE_NAT_SECTION: Section = Section {
    header: Some("[[source_nat]]"),
    keys: &[&CLIENTS, &ADDRESSES, &SOURCE_PORTS],
};
static SERVICE_SECTION: Section = Section {
    header: Some("[[service]]"),
    keys: &[
        &NAME,
        &VIP,
        &SERVICE_PORT,
        &PROTOCOL,
        &POLICY,
        &POLICY_CONFIG,
        &MID_STREAM,
        &UNEVEN,
        &ADOPT_REPLIES,
        &SERVICE_SOURCE_NAT,
        &SERVICE_SESSIONS_MAX,
        &SIGNALS,
        &ON_DOWN,
        &ON_REFUSED,
        &SLOW_START,
        &DRAIN_TIMEOUT,
        &ALL_DOWN,
        &PANIC_THRESHOLD,
        &TIMEOUTS,
        &HEALTH,
        &EJECTION,
        &BACKEND,
    ],
};
static HEALTH_SECTION: Section = Section {
    header: Some("[[service.health]]"),
    keys: &[
        &CHECK,
        &CHECK_CONFIG,
        &INTERVAL,
        &FAST_INTERVAL,
        &TIMEOUT,
        &RISE,
        &FALL,
        &JITTER,
        &CHECK_PORT,
        &TLS,
    ],
};
static TLS_SECTION: Section = Section {
    header: Some("[service.health.tls]"),
    keys: &[&ROOTS, &SERVER_NAME, &VERIFY],
};
static EJECTION_SECTION: Section = Section {
    header: Some("[service.ejection]"),
    keys: &[&FAILURES, &WINDOW, &TIME, &TIME_MAX, &MIN_HEALTHY],
};
static CANARY_SECTION: Section = Section {
    header: Some("[canary]"),
    keys: &[
        &CANARY_TIME,
        &FLOWS_MIN,
        &MORE_DROPS,
        &MORE_FALLBACKS,
        &MORE_FAILURES,
        &ONE_BACKEND,
    ],
};
static TIMEOUTS_SECTION: Section = Section {
    header: Some("[service.timeouts]"),
    keys: &[
        &TCP_HALF_OPEN,
        &TCP_ESTABLISHED,
        &TCP_CLOSING,
        &UDP,
        &UDP_UNASSURED,
    ],
};
static BACKEND_SECTION: Section = Section {
    header: Some("[[service.backend]]"),
    keys: &[
        &ADDRESS,
        &BACKEND_PORT,
        &WEIGHT,
        &BACKEND_NAME,
        &TAG,
        &BACKUP,
        &BACKEND_HEALTH,
    ],
};
static BACKEND_HEALTH_SECTION: Section = Section {
    header: Some("[service.backend.health]"),
    keys: &[
        &ENABLED,
        &CHECK_PORT,
        &INTERVAL,
        &FAST_INTERVAL,
        &TIMEOUT,
        &RISE,
        &FALL,
    ],
};
