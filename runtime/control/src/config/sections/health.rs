//! The keys of a service that its backends' health is judged by, and what follows from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::problem::{Located, Span};
use super::reader::{Report, Table};
use super::schema::{self, Key};
use super::{sections, values};

/// The shortest interval and timeout: below that a check is a flood.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// The longest interval.
const INTERVAL_MAX: Duration = Duration::from_secs(86_400);
/// The longest a check may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// What a service's health is judged by, and what follows.
#[derive(Clone, PartialEq, Debug)]
pub struct Health {
    /// The checks of each backend: it is up while all of them pass. Empty: it is always up.
    pub checks: Vec<Check>,
    /// Whether failures of the clients' own connections count too.
    pub ejection: Option<Ejection>,
    /// What becomes of the sessions of a backend that goes down.
    pub on_down: OnDown,
    /// What becomes of a connection that a backend refuses.
    pub on_refused: OnRefused,
    /// How long a backend that comes back takes to its full weight; 0 gives it at once.
    pub slow_start: Duration,
    /// How long the sessions of a draining backend live on; without it, until they end.
    pub drain_timeout: Option<Duration>,
    /// What becomes of new sessions while no backend is up.
    pub all_down: AllDown,
    /// Below this share of backends that are up, in percent, all are used; 0 for never.
    pub panic_threshold: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            checks: Vec::new(),
            ejection: None,
            on_down: OnDown::default(),
            on_refused: OnRefused::default(),
            slow_start: Duration::ZERO,
            drain_timeout: None,
            all_down: AllDown::default(),
            panic_threshold: 0,
        }
    }
}

/// A health check of every backend of a service.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    /// The module's name.
    pub module: Located<Arc<str>>,
    /// What the module is handed: a JSON object.
    pub config: Located<Arc<str>>,
    /// How often, and what it takes to change its mind.
    pub pace: Pace,
    /// How much an interval varies, in percent of it.
    pub jitter: u32,
    /// Where it connects, if not to the backend's own port.
    pub port: Option<u16>,
    /// How it speaks TLS, if it does.
    pub tls: Tls,
    /// The table's header.
    pub span: Span,
}

/// How often a backend is checked, and how many results in a row change what is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Between the starts of two checks.
    pub interval: Duration,
    /// The same, while the last results say something else than what is known.
    pub fast_interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Successes in a row that bring it up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// How checks trust a server's certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// A file of trusted roots (PEM); the system's where there is none.
    pub roots: Option<Located<PathBuf>>,
    /// The name that is asked for and must be in the certificate; the address where there is none.
    pub server_name: Option<Located<Arc<str>>>,
    /// Whether the certificate must be trusted at all.
    pub verify: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            roots: None,
            server_name: None,
            verify: true,
        }
    }
}

/// When a backend is taken out for what the clients' own connections meet there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ejection {
    /// This many failed connections ...
    pub failures: u32,
    /// ... within this time.
    pub window: Duration,
    /// How long it is out the first time; doubled each time again.
    pub time: Duration,
    /// The longest it is out.
    pub time_max: Duration,
    /// At least this share of the service's backends stays in, in percent.
    pub min_healthy: u32,
}

/// What becomes of the sessions of a backend that goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDown {
    /// They stay: the server may live, and only the check fail.
    #[default]
    Keep,
    /// The client is told: by RST, or by ICMP port unreachable.
    Reset,
    /// The next packet goes to another backend.
    Repick,
}

/// What becomes of a connection that a backend refuses, with an RST to its SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnRefused {
    /// The client hears of it.
    #[default]
    Pass,
    /// The client does not, and its next SYN goes to another backend, if there is one.
    Retry,
}

/// What becomes of new sessions while no backend is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AllDown {
    /// The client is told: by RST, or by ICMP port unreachable.
    #[default]
    Reject,
    /// They are dropped.
    Drop,
}

/// What a backend has otherwise than its service's checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Override {
    /// Whether it is checked at all.
    pub enabled: bool,
    /// See [`Check::port`].
    pub port: Option<u16>,
    /// See [`Pace::interval`].
    pub interval: Option<Duration>,
    /// See [`Pace::fast_interval`].
    pub fast_interval: Option<Duration>,
    /// See [`Pace::timeout`].
    pub timeout: Option<Duration>,
    /// See [`Pace::rise`].
    pub rise: Option<u32>,
    /// See [`Pace::fall`].
    pub fall: Option<u32>,
}

impl Default for Override {
    fn default() -> Self {
        Self {
            enabled: true,
            port: None,
            interval: None,
            fast_interval: None,
            timeout: None,
            rise: None,
            fall: None,
        }
    }
}

impl Override {
    /// A check's pace, as this backend has it.
    #[must_use]
    pub fn pace(&self, of: Pace) -> Pace {
        let interval = self.interval.unwrap_or(of.interval);
        Pace {
            interval,
            fast_interval: self.fast_interval.unwrap_or(of.fast_interval).min(interval),
            timeout: self.timeout.unwrap_or(of.timeout),
            rise: self.rise.unwrap_or(of.rise),
            fall: self.fall.unwrap_or(of.fall),
        }
    }
}

/// Reads a service's keys.
pub(super) fn read(service: &Table<'_, '_>, report: &mut Report) -> Health {
    let on_downs = [
        ("keep", OnDown::Keep),
        ("reset", OnDown::Reset),
        ("repick", OnDown::Repick),
    ];
    let on_refuseds = [("pass", OnRefused::Pass), ("retry", OnRefused::Retry)];
    let all_downs = [("reject", AllDown::Reject), ("drop", AllDown::Drop)];
    let checks = service.tables(&schema::HEALTH, report);
    let spans = (Duration::ZERO, INTERVAL_MAX);
    Health {
        checks: checks.iter().filter_map(|it| check(it, report)).collect(),
        ejection: ejection(service, report),
        on_down: located(service.choice(&schema::ON_DOWN, &on_downs, report)),
        on_refused: located(service.choice(&schema::ON_REFUSED, &on_refuseds, report)),
        slow_start: bounded(service, &schema::SLOW_START, spans, report).unwrap_or_default(),
        drain_timeout: bounded(service, &schema::DRAIN_TIMEOUT, spans, report),
        all_down: located(service.choice(&schema::ALL_DOWN, &all_downs, report)),
        panic_threshold: located(service.integer(&schema::PANIC_THRESHOLD, 0..=100, report)),
    }
}

fn located<T: Default>(read: Option<Located<T>>) -> T {
    read.map_or_else(T::default, |read| read.value)
}

/// A duration within bounds; outside of them it is an error, and as if it were not there.
fn bounded(
    table: &Table<'_, '_>,
    key: &'static Key,
    (least, most): (Duration, Duration),
    report: &mut Report,
) -> Option<Duration> {
    let Located { value, span } = table.duration(key, report)?;
    if (least..=most).contains(&value) {
        return Some(value);
    }
    let (least, most) = (values::duration_text(least), values::duration_text(most));
    let text = format!(
        "`{}` is out of range; write \"{least}\" to \"{most}\"",
        key.name
    );
    report.error(span, text);
    None
}

fn check(table: &Table<'_, '_>, report: &mut Report) -> Option<Check> {
    let module = table.parsed(&schema::CHECK, report, values::name);
    let config = table.json(&schema::CHECK_CONFIG, report);
    let own = paces(table, report);
    let interval = own.interval.unwrap_or(Duration::from_secs(2));
    let pace = own.pace(Pace {
        interval,
        fast_interval: interval.min(Duration::from_millis(500)),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    });
    let jitter = table.integer(&schema::JITTER, 0..=50, report);
    let tls = tls(table, report);
    Some(Check {
        module: module?.map(Arc::from),
        config: config
            .map_or_else(
                || Located::new("{}".to_owned(), table.span),
                |json| json.map(|json| json.to_string()),
            )
            .map(Arc::from),
        pace,
        jitter: jitter.map_or(10, |jitter| jitter.value),
        port: own.port,
        tls,
        span: table.span,
    })
}

/// The keys that a check and a backend's exception from it share.
fn paces(table: &Table<'_, '_>, report: &mut Report) -> Override {
    let intervals = (INTERVAL_MIN, INTERVAL_MAX);
    let count = |key, report: &mut Report| table.integer(key, 1..=100, report).map(|n| n.value);
    let port = table.integer(&schema::CHECK_PORT, 1..=u16::MAX, report);
    Override {
        enabled: true,
        port: port.map(|port| port.value),
        interval: bounded(table, &schema::INTERVAL, intervals, report),
        fast_interval: bounded(table, &schema::FAST_INTERVAL, intervals, report),
        timeout: bounded(table, &schema::TIMEOUT, (INTERVAL_MIN, TIMEOUT_MAX), report),
        rise: count(&schema::RISE, report),
        fall: count(&schema::FALL, report),
    }
}

/// Reads a backend's exception from its service's checks.
pub(super) fn read_override(backend: &Table<'_, '_>, report: &mut Report) -> Override {
    let Some(table) = backend.table(&schema::BACKEND_HEALTH, report) else {
        return Override::default();
    };
    let enabled = table.boolean(&schema::ENABLED, report);
    Override {
        enabled: enabled.is_none_or(|enabled| enabled.value),
        ..paces(&table, report)
    }
}

fn tls(check: &Table<'_, '_>, report: &mut Report) -> Tls {
    let Some(table) = check.table(&schema::TLS, report) else {
        return Tls::default();
    };
    let folder = report.source.path().parent().map(Path::to_owned);
    let roots = table.parsed(&schema::ROOTS, report, |text| {
        let path = sections::path(text, "the path of a file of certificates (PEM)")?;
        Ok(folder.unwrap_or_default().join(path))
    });
    let server_name = table.parsed(&schema::SERVER_NAME, report, |text| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
        if (1..=253).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Arc::from(text))
        } else {
            Err("this is no server's name; write one as in \"api.example.com\"".to_owned())
        }
    });
    let verify = table.boolean(&schema::VERIFY, report);
    if let Some(Located { value: false, span }) = verify {
        let text = "whoever answers is trusted; that is for tests, and for networks that nobody else \
                    can reach";
        report.warn(span, text);
    }
    Tls {
        roots,
        server_name,
        verify: verify.is_none_or(|verify| verify.value),
    }
}

fn ejection(service: &Table<'_, '_>, report: &mut Report) -> Option<Ejection> {
    let table = service.table(&schema::EJECTION, report)?;
    let spans = (Duration::from_secs(1), INTERVAL_MAX);
    let seconds = Duration::from_secs;
    let failures = table.integer(&schema::FAILURES, 1..=1_000_000, report);
    let min_healthy = table.integer(&schema::MIN_HEALTHY, 0..=100, report);
    let time = bounded(&table, &schema::TIME, spans, report).unwrap_or(seconds(10));
    let time_max = bounded(&table, &schema::TIME_MAX, spans, report).unwrap_or(seconds(300));
    Some(Ejection {
        failures: failures.map_or(5, |failures| failures.value),
        window: bounded(&table, &schema::WINDOW, spans, report).unwrap_or(seconds(10)),
        time,
        time_max: time_max.max(time),
        min_healthy: min_healthy.map_or(50, |min| min.value),
    })
}
