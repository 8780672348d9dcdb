//! Reads the health keys of a service and of its backends.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::config::model::health::{
    AllDown, CheckOverride, CheckTiming, Ejection, HealthCheck, HealthConfig, OnDown, OnRefused,
    TlsConfig,
};
use crate::config::problem::{Located, Problems};
use crate::config::reader::{Table, or, or_default};
use crate::config::schema;
use crate::config::values;

/// Minimum interval and timeout of a check, so that checks do not flood a server.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_secs(86_400);
/// Maximum timeout of a check.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

const ON_DOWN: [(&str, OnDown); 3] = [
    ("keep", OnDown::Keep),
    ("reset", OnDown::Reset),
    ("repick", OnDown::Repick),
];
const ON_REFUSED: [(&str, OnRefused); 2] = [("pass", OnRefused::Pass), ("retry", OnRefused::Retry)];
const ALL_DOWN: [(&str, AllDown); 2] = [("reject", AllDown::Reject), ("drop", AllDown::Drop)];

/// Reads the health keys of a service.
pub(super) fn read(service: &Table<'_, '_>, problems: &mut Problems) -> HealthConfig {
    let checks = service.tables(&schema::HEALTH, problems);
    let up_to_a_day = Duration::ZERO..=DAY;
    let slow_start = service.duration(&schema::SLOW_START, up_to_a_day.clone(), problems);
    let drain_timeout = service.duration(&schema::DRAIN_TIMEOUT, up_to_a_day, problems);
    let panic_threshold = service.integer(&schema::PANIC_THRESHOLD, 0..=100, problems);
    HealthConfig {
        checks: (checks.iter().filter_map(|it| check(it, problems))).collect(),
        ejection: ejection(service, problems),
        on_down: or_default(service.choice(&schema::ON_DOWN, &ON_DOWN, problems)),
        on_refused: or_default(service.choice(&schema::ON_REFUSED, &ON_REFUSED, problems)),
        slow_start: or_default(slow_start),
        drain_timeout: drain_timeout.map(|timeout| timeout.value),
        all_down: or_default(service.choice(&schema::ALL_DOWN, &ALL_DOWN, problems)),
        panic_threshold: or_default(panic_threshold),
    }
}

fn check(table: &Table<'_, '_>, problems: &mut Problems) -> Option<HealthCheck> {
    let module = table.parsed(&schema::CHECK, problems, values::name);
    let config = table.json(&schema::CHECK_CONFIG, problems);
    let own = timing(table, problems);
    let interval = own.interval.unwrap_or(Duration::from_secs(2));
    let timing = own.apply(CheckTiming {
        interval,
        fast_interval: interval.min(Duration::from_millis(500)),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    });
    let jitter = table.integer(&schema::JITTER, 0..=50, problems);
    let tls = tls(table, problems);
    Some(HealthCheck {
        module: module?.map(Arc::from),
        config,
        timing,
        jitter: or(jitter, 10),
        port: own.port,
        tls,
        span: table.span,
    })
}

/// Reads the keys that a check and a backend's override share.
fn timing(table: &Table<'_, '_>, problems: &mut Problems) -> CheckOverride {
    let mut duration = |key, range: RangeInclusive<Duration>| {
        table.duration(key, range, problems).map(|it| it.value)
    };
    let interval = duration(&schema::INTERVAL, INTERVAL_MIN..=DAY);
    let fast_interval = duration(&schema::FAST_INTERVAL, INTERVAL_MIN..=DAY);
    let timeout = duration(&schema::TIMEOUT, INTERVAL_MIN..=TIMEOUT_MAX);
    let mut count = |key| table.integer(key, 1..=100, problems).map(|it| it.value);
    let (rise, fall) = (count(&schema::RISE), count(&schema::FALL));
    let port = table.integer(&schema::CHECK_PORT, 1..=u16::MAX, problems);
    CheckOverride {
        enabled: true,
        port: port.map(|port| port.value),
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
    }
}

/// Reads a backend's override of its service's checks.
pub(super) fn read_override(backend: &Table<'_, '_>, problems: &mut Problems) -> CheckOverride {
    let Some(table) = backend.table(&schema::BACKEND_HEALTH, problems) else {
        return CheckOverride::default();
    };
    let enabled = table.boolean(&schema::ENABLED, problems);
    CheckOverride {
        enabled: or(enabled, true),
        ..timing(&table, problems)
    }
}

fn tls(check: &Table<'_, '_>, problems: &mut Problems) -> TlsConfig {
    let Some(table) = check.table(&schema::TLS, problems) else {
        return TlsConfig::default();
    };
    let folder = problems.folder();
    let roots = table.parsed(&schema::ROOTS, problems, |text| {
        let path = values::path(text, "the path of a PEM file of certificates")?;
        Ok(folder.join(path))
    });
    let server_name = table.parsed(&schema::SERVER_NAME, problems, |text| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
        if (1..=253).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Arc::from(text))
        } else {
            Err("this is not a server name; write one such as \"api.example.com\"".to_owned())
        }
    });
    let verify = table.boolean(&schema::VERIFY, problems);
    if let Some(Located { value: false, span }) = verify {
        let text = "the check accepts any certificate; use this only for tests, or in a network that \
                    nobody else can reach";
        problems.warn(span, text);
    }
    TlsConfig {
        roots,
        server_name,
        verify: or(verify, true),
    }
}

fn ejection(service: &Table<'_, '_>, problems: &mut Problems) -> Option<Ejection> {
    let table = service.table(&schema::EJECTION, problems)?;
    let failures = table.integer(&schema::FAILURES, 1..=1_000_000, problems);
    let min_healthy = table.integer(&schema::MIN_HEALTHY, 0..=100, problems);
    let mut seconds = |key, default| {
        let read = table.duration(key, Duration::from_secs(1)..=DAY, problems);
        or(read, Duration::from_secs(default))
    };
    let time = seconds(&schema::TIME, 10);
    Some(Ejection {
        failures: or(failures, 5),
        window: seconds(&schema::WINDOW, 10),
        time,
        time_max: seconds(&schema::TIME_MAX, 300).max(time),
        min_healthy: or(min_healthy, 50),
    })
}
