//! What `waxwing top` shows: the numbers of a status, and their rates since the one before.
//!
//! Invariant: pure, so that each number can be tested.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use waxwing_control::admin::status::{BackendStatus, ModuleStatus, ServiceStatus, Status};

use crate::render::state;

/// By what the backends of a service are sorted, the largest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Order {
    #[default]
    Config,
    New,
    Active,
    Bits,
    Connect,
    Failed,
}

impl Order {
    const ALL: [Self; 6] = [
        Self::Config,
        Self::New,
        Self::Active,
        Self::Bits,
        Self::Connect,
        Self::Failed,
    ];

    /// Returns the one after this, in a circle.
    pub(super) fn next(self) -> Self {
        let mut all = Self::ALL.iter().copied().cycle();
        all.find(|it| *it == self);
        all.next().unwrap_or_default()
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::New => "new",
            Self::Active => "active",
            Self::Bits => "bits",
            Self::Connect => "connect",
            Self::Failed => "failed",
        }
    }
}

/// Two statuses, and the time between them.
pub(super) struct Samples {
    pub(super) before: Option<(Status, Duration)>,
    pub(super) now: Status,
}

/// What is shown.
#[derive(Default)]
pub(super) struct Page {
    /// One line each: the program, its sessions.
    pub(super) head: [String; 2],
    pub(super) problems: Vec<String>,
    pub(super) rows: Vec<Row>,
    /// Dropped packets a second by reason, the most first; none that is zero.
    pub(super) drops: Vec<(String, f64)>,
    pub(super) modules: Vec<String>,
}

/// A service, or a backend of the service above it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Row {
    pub(super) service: String,
    /// By what commands name it; `None`: the service itself.
    pub(super) backend: Option<String>,
    pub(super) title: String,
    pub(super) state: String,
    /// Whether the state is one that nobody needs to look at.
    pub(super) is_well: bool,
    /// Its part of the weights, and of the new sessions, from 0 to 1; `None` if there are none.
    pub(super) weight: Option<f64>,
    pub(super) share: Option<f64>,
    pub(super) rates: Rates,
    pub(super) active: u64,
    /// Microseconds from SYN to SYN-ACK; 0: not measured.
    pub(super) connect_us: u32,
}

/// What happened a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rates {
    /// New sessions.
    pub(super) new: f64,
    /// Refused and unanswered sessions.
    pub(super) failed: f64,
    pub(super) packets: f64,
    pub(super) bits: f64,
}

/// The counters that rates are made of.
#[derive(Clone, Copy, Default)]
struct Counts {
    sessions: u64,
    failed: u64,
    packets: u64,
    bytes: u64,
}

impl Counts {
    fn of(backend: &BackendStatus) -> Self {
        let BackendStatus { forward, reply, .. } = backend;
        Self {
            sessions: backend.sessions,
            failed: backend.refused + backend.unanswered,
            packets: forward.packets + reply.packets,
            bytes: forward.bytes + reply.bytes,
        }
    }

    fn rates(self, before: Self, seconds: f64) -> Rates {
        let rate = |now: u64, before: u64| rate(now, before, seconds);
        Rates {
            new: rate(self.sessions, before.sessions),
            failed: rate(self.failed, before.failed),
            packets: rate(self.packets, before.packets),
            bits: 8.0 * rate(self.bytes, before.bytes),
        }
    }
}

/// Returns by how much a counter rose a second; 0 if it started again.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(now: u64, before: u64, seconds: f64) -> f64 {
    now.saturating_sub(before) as f64 / seconds
}

impl Samples {
    /// Returns the page, with the services whose name contains `filter`, or with a backend whose name does.
    pub(super) fn page(&self, order: Order, filter: &str) -> Page {
        let Status {
            services,
            problems,
            modules,
            ..
        } = &self.now;
        let before = self.before.as_ref();
        let counts = before.map(|(before, _)| counts(before)).unwrap_or_default();
        let seconds = before.map_or(f64::INFINITY, |(_, span)| span.as_secs_f64());
        let passes = |service: &&ServiceStatus| {
            let mut backends = service.backends.iter();
            service.name.contains(filter) || backends.any(|it| title(it).contains(filter))
        };
        let services = services.iter().filter(passes);
        let rows = services.flat_map(|service| rows(service, &counts, seconds, order));
        Page {
            head: head(&self.now),
            problems: problems.clone(),
            rows: rows.collect(),
            drops: self.drops(seconds),
            modules: modules.iter().map(module).collect(),
        }
    }

    fn drops(&self, seconds: f64) -> Vec<(String, f64)> {
        let Some((before, _)) = &self.before else {
            return Vec::new();
        };
        let (before, now) = (drops(before), drops(&self.now));
        let rates = now.into_iter().map(|(reason, now)| {
            let before = before.get(reason).copied().unwrap_or(0);
            (reason.to_owned(), rate(now, before, seconds))
        });
        let mut rates: Vec<_> = rates.filter(|(_, rate)| *rate > 0.0).collect();
        rates.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        rates
    }
}

/// Returns dropped packets by reason, over all workers.
fn drops(status: &Status) -> BTreeMap<&str, u64> {
    let mut sums = BTreeMap::new();
    for (reason, count) in status.workers.iter().flat_map(|worker| &worker.drops) {
        *sums.entry(&**reason).or_default() += count;
    }
    sums
}

type ByBackend<'a> = HashMap<(&'a str, String), Counts>;

fn counts(status: &Status) -> ByBackend<'_> {
    let services = status.services.iter();
    let backends = services.flat_map(|service| {
        let backends = service.backends.iter();
        backends.map(|it| ((&*service.name, title(it)), Counts::of(it)))
    });
    backends.collect()
}

/// Returns the name by which commands find a backend.
fn title(backend: &BackendStatus) -> String {
    if let Some(name) = &backend.name {
        return name.clone();
    }
    let address = &backend.address;
    match backend.port {
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address.clone(),
    }
}

/// Returns the service's row, and those of its backends.
fn rows(service: &ServiceStatus, before: &ByBackend<'_>, seconds: f64, order: Order) -> Vec<Row> {
    let weights: f64 = service.backends.iter().map(|it| f64::from(it.weight)).sum();
    let row = |backend: &BackendStatus| {
        let title = title(backend);
        let key = (&*service.name, title.clone());
        let now = Counts::of(backend);
        // One that is new since has no rate yet.
        let before = before.get(&key).copied().unwrap_or(now);
        Row {
            service: service.name.clone(),
            backend: Some(title.clone()),
            title,
            state: state(backend),
            is_well: backend.health.as_ref().is_none_or(|it| it.state.is_up()),
            weight: (weights > 0.0).then(|| f64::from(backend.weight) / weights),
            share: None,
            rates: now.rates(before, seconds),
            active: backend.active.into(),
            connect_us: backend.latency_us,
        }
    };
    let mut backends: Vec<Row> = service.backends.iter().map(row).collect();
    let mut all = Rates::default();
    for Row { rates, .. } in &backends {
        all.new += rates.new;
        all.failed += rates.failed;
        all.packets += rates.packets;
        all.bits += rates.bits;
    }
    for row in &mut backends {
        row.share = (all.new > 0.0).then(|| row.rates.new / all.new);
    }
    sort(&mut backends, order);
    let well = backends.iter().filter(|row| row.is_well).count();
    let (protocol, vip, port) = (&service.protocol, &service.vip, &service.port);
    let head = Row {
        service: service.name.clone(),
        title: format!(
            "{} {protocol} {vip} {port}, {}",
            service.name, service.policy
        ),
        state: format!("{well} of {}", backends.len()),
        is_well: well > 0,
        rates: all,
        active: service.active,
        ..Row::default()
    };
    [vec![head], backends].concat()
}

fn sort(rows: &mut [Row], order: Order) {
    #[expect(clippy::cast_precision_loss, reason = "only their order matters")]
    let key = |row: &Row| match order {
        Order::Config => 0.0,
        Order::New => row.rates.new,
        Order::Active => row.active as f64,
        Order::Bits => row.rates.bits,
        Order::Connect => row.connect_us.into(),
        Order::Failed => row.rates.failed,
    };
    rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
}

fn head(status: &Status) -> [String; 2] {
    let sum = |of: fn(&ServiceStatus) -> u64| status.services.iter().map(of).sum::<u64>();
    let (sessions, config) = (&status.sessions, &status.config);
    let up = humantime::format_duration(Duration::from_secs(status.uptime_s));
    [
        format!(
            "waxwing {}, pid {}, up {up}, generation {}",
            status.version, status.pid, config.generation
        ),
        format!(
            "{} of {} sessions: {} active, {} half-open, {} closing",
            sessions.used,
            sessions.max,
            sum(|it| it.active),
            sum(|it| it.half_open),
            sum(|it| it.closing),
        ),
    ]
}

/// Returns a module's line.
fn module(module: &ModuleStatus) -> String {
    let mut text = module.name.clone();
    if let Some(build) = &module.serving {
        text += &format!(" {} {}", build.version, build.hash);
    }
    if let Some(canary) = &module.canary {
        let seconds = canary.left_ms / 1000;
        text += &format!(", canary {} for {seconds} s more", canary.build.hash);
    }
    if module.faults > 0 {
        text += &format!(", {} faults", module.faults);
    }
    match &module.refused {
        Some(refused) => text + &format!(", refused: {}", refused.reason),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use waxwing_control::admin::status::{TrafficStatus, WorkerStatus};

    use super::*;

    fn backend(name: &str, sessions: u64, weight: u32) -> BackendStatus {
        BackendStatus {
            name: Some(name.to_owned()),
            sessions,
            weight,
            forward: TrafficStatus {
                packets: sessions * 10,
                bytes: sessions * 1000,
            },
            ..BackendStatus::default()
        }
    }

    fn status(sessions: [u64; 3], dropped: u64) -> Status {
        let names = ["web-1", "web-2", "web-3"];
        let backends = names.iter().zip(sessions).zip([1, 1, 2]);
        Status {
            services: vec![ServiceStatus {
                name: "web".into(),
                backends: backends
                    .map(|((name, n), weight)| backend(name, n, weight))
                    .collect(),
                ..ServiceStatus::default()
            }],
            workers: vec![
                WorkerStatus {
                    drops: BTreeMap::from([("policy".into(), dropped), ("martian".into(), 7)]),
                    ..WorkerStatus::default()
                };
                2
            ],
            ..Status::default()
        }
    }

    fn samples() -> Samples {
        Samples {
            before: Some((status([100, 0, 50], 5), Duration::from_secs(2))),
            now: status([110, 30, 50], 15),
        }
    }

    #[test]
    fn rates_and_shares_are_those_since_the_status_before() {
        let page = samples().page(Order::Config, "");
        let rates: Vec<f64> = page.rows.iter().map(|row| row.rates.new).collect();
        assert_eq!(rates, [20.0, 5.0, 15.0, 0.0]);
        let shares: Vec<_> = page
            .rows
            .iter()
            .map(|row| (row.weight, row.share))
            .collect();
        let expected = [
            (None, None),
            (Some(0.25), Some(0.25)),
            (Some(0.25), Some(0.75)),
            (Some(0.5), Some(0.0)),
        ];
        assert_eq!(shares, expected);
        let Rates { packets, bits, .. } = page.rows[2].rates;
        assert_eq!((packets, bits), (150.0, 120_000.0));
        assert_eq!(page.drops, [("policy".to_owned(), 10.0)]);
    }

    #[test]
    fn the_first_page_and_a_new_backend_have_no_rates() {
        let mut first = samples();
        first.before = None;
        let page = first.page(Order::Config, "");
        assert!(page.rows.iter().all(|row| row.rates == Rates::default()));
        assert!(page.drops.is_empty());
        let mut grown = samples();
        let (before, _) = grown.before.as_mut().expect("it has one");
        before.services[0].backends.pop();
        let page = grown.page(Order::Config, "");
        assert_eq!(page.rows[3].rates, Rates::default());
    }

    #[test]
    fn backends_are_sorted_below_their_service_and_filtered_with_it() {
        let titles = |order, filter| {
            let rows = samples().page(order, filter).rows.into_iter();
            rows.filter_map(|row| row.backend).collect::<Vec<_>>()
        };
        assert_eq!(titles(Order::New, ""), ["web-2", "web-1", "web-3"]);
        assert_eq!(titles(Order::Config, "web-3").len(), 3);
        assert!(titles(Order::Config, "dns").is_empty());
        let mut order = Order::default();
        for expected in Order::ALL {
            assert_eq!(order, expected);
            order = order.next();
        }
        assert_eq!(order, Order::Config);
    }
}
