//! The cost of a policy's instances and calls, over its backends.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::Result;
use waxwing_benches::modules::{self, EMPTY, SEED, SERVICE, binding};
use waxwing_dataplane::policy::{PAYLOAD_MAX, PickContext};
use waxwing_dataplane::{BackendId, Gauges, NewFlow, Now, Pick, Policy};
use waxwing_packet::{Address, Protocol};
use waxwing_plugin::Host;
use waxwing_sdk::abi::BackendRecord;
use waxwing_sdk::testing;

use crate::Effort;
use crate::sections::{Cell, Report, Subject, interleave};

const BACKENDS: [u32; 5] = [2, 16, 128, 1_024, 4_096];
/// Instances per run.
const INSTANCES: u32 = 8;
/// Calls per run.
const CALLS: u32 = 2_000;

pub(crate) fn guests(effort: Effort, report: &mut Report) -> Result<()> {
    let host = modules::host(
        &["waxwing-policy-round-robin", "waxwing-policy-maglev"],
        &[("empty", EMPTY)],
    );
    let mut cells = Vec::new();
    for backends in BACKENDS {
        let records: Vec<BackendRecord> = (0..backends).map(|id| testing::backend(id, 1)).collect();
        for policy in ["empty", "round_robin", "maglev"] {
            if modules::instance(&host, policy, "{}", &records).is_none() {
                continue;
            }
            let (host, records) = (&host, records.clone());
            cells.push(Cell::new(policy, backends, move || {
                // The cell before filled the caches with its own data.
                instantiate(host, policy, &records);
                let times = (0..INSTANCES).map(|_| instantiate(host, policy, &records));
                Ok(micros(times.sum()) / f64::from(INSTANCES))
            }));
        }
    }
    let figures = interleave(cells, effort.runs)?;
    report.lines(
        &Subject {
            name: "guests-instances",
            title: "A new instance of a policy for one service, over its backends",
            x: "backends",
            y: "µs",
            note: "The cost of one worker's new instance after a change of the service's backends, on the \
                   control thread: the instance, its memory, the records of all backends, and what the \
                   policy computes from them (for Maglev, a table). Each follows an equal one; with cold \
                   caches it takes some µs longer. The workers keep forwarding meanwhile.",
        },
        figures,
    )?;
    calls(&host, effort, report)
}

fn calls(host: &Host, effort: Effort, report: &mut Report) -> Result<()> {
    let guests: Vec<(u32, RefCell<Guest>)> = BACKENDS
        .iter()
        .filter_map(|backends| Some((*backends, RefCell::new(Guest::new(host, *backends)?))))
        .collect();
    let mut cells = Vec::new();
    for (backends, guest) in &guests {
        for (series, step) in [
            ("the first call of a millisecond", Duration::from_millis(1)),
            ("a later one", Duration::ZERO),
        ] {
            cells.push(Cell::new(series, *backends, move || {
                Ok(micros(guest.borrow_mut().calls(step)) / f64::from(CALLS))
            }));
        }
    }
    let figures = interleave(cells, effort.runs)?;
    report.lines(
        &Subject {
            name: "guests-calls",
            title: "A call of a policy that answers without work, over its service's backends",
            x: "backends",
            y: "µs a call",
            note: "The host writes each backend's live numbers (sessions, latency, failures, signals: 9 \
                   words) into the guest's memory before the first call of a millisecond; for few \
                   backends, before each call. The difference of the two lines is the cost of that, paid \
                   at most once a millisecond per service and worker.",
        },
        figures,
    )
}

/// Makes and drops an instance. Returns the time it took to make.
fn instantiate(host: &Host, policy: &str, records: &[BackendRecord]) -> Duration {
    let services = [binding("{}", records)];
    let begun = Instant::now();
    let bound = host.bind(policy, 1, SEED, &services);
    let time = begun.elapsed();
    drop(bound);
    time
}

/// An instance of the empty module for one service.
struct Guest {
    policy: Box<dyn Policy>,
    ids: Vec<BackendId>,
    gauges: Gauges,
    now: Duration,
}

impl Guest {
    fn new(host: &Host, backends: u32) -> Option<Self> {
        let records: Vec<BackendRecord> = (0..backends).map(|id| testing::backend(id, 1)).collect();
        Some(Self {
            policy: modules::instance(host, "empty", "{}", &records)?,
            ids: (0..backends).map(BackendId).collect(),
            gauges: Gauges::new(records.len(), 1),
            now: Duration::from_secs(1),
        })
    }

    /// Makes [`CALLS`] calls with one flow each, `step` apart. Returns the time they took.
    fn calls(&mut self, step: Duration) -> Duration {
        let flow = NewFlow {
            source: Address::v4([100, 64, 0, 1]),
            source_port: 4000,
            destination: Address::v4([203, 0, 113, 10]),
            destination_port: 80,
            protocol: Protocol::Tcp,
            hash: 0,
            mid_stream: false,
            payload_len: 0,
            payload: [0; PAYLOAD_MAX],
        };
        let mut picks = [Pick::Fallback];
        let begun = Instant::now();
        for _ in 0..CALLS {
            self.now += step;
            let context = PickContext {
                now: Now::from_start(self.now),
                backends: &self.ids,
                gauges: &self.gauges,
            };
            let outcome = self.policy.pick(SERVICE, context, &[flow], &mut picks);
            assert!(outcome.is_ok(), "the call succeeds");
        }
        begun.elapsed()
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
