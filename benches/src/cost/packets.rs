//! Nanoseconds per packet, with ports in memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use waxwing_bench_core::{
    AddressPlan, CrowdScenario, EstablishedScenario, EstablishedTestbed, EstablishedTraffic,
    NewSessions, OpenScenario, Order, Reloads, Size, Testbed, line_round_trip, time_packets,
};
use waxwing_benches::modules;
use waxwing_dataplane::Policy;
use waxwing_plugin::Host;
use waxwing_report::{Spread, Table};
use waxwing_sdk::abi::BackendRecord;
use waxwing_sdk::testing;

use crate::Effort;
use crate::sections::{Cell, Report, Subject, interleave};

/// Sessions when another quantity grows.
const SESSIONS: u32 = 100_000;
/// Sessions that a run opens.
const OPENED: u32 = 1 << 16;
/// The most sessions that a run opens when the table's capacity grows, and those that each of two workers
/// opens.
const OPENED_MAX: u32 = 1 << 18;
const BATCH: u32 = 64;

pub(crate) fn sessions(effort: Effort, report: &mut Report) -> Result<()> {
    established_sessions(effort, report)?;
    // The tables above are freed by now; new sessions need one table at a time, of up to 900 MB.
    new_sessions(effort, report)
}

fn established_sessions(effort: Effort, report: &mut Report) -> Result<()> {
    const COUNTS: [u32; 5] = [1_000, 10_000, 100_000, 1_000_000, 8_000_000];
    let counts = COUNTS.iter().filter(|count| **count <= effort.sessions_max);
    let mut testbeds = Vec::new();
    for plan in [AddressPlan::V4, AddressPlan::V6] {
        for count in counts.clone() {
            testbeds.push((plan, established(plan, *count, Size::default())?));
        }
    }
    let mut cells = Vec::new();
    for (plan, established) in &testbeds {
        for order in Order::ALL {
            let series = format!("{}, {}", plan.name, order.name());
            let x = established.sessions;
            cells.push(forward(series, x, established, order, effort));
        }
    }
    let figures = interleave(cells, effort.runs)?;
    report.lines(
        &Subject {
            name: "sessions",
            title: "A packet of an established session, over sessions",
            x: "sessions",
            y: "ns a packet",
            note: "The table is full. Three costs grow. First, memory latency: neither a session of a \
                   large table nor its page table entry is in a cache; the passes over a batch hide most \
                   of that. Second, the sweep for expired sessions: a round takes 4 s at any size, so \
                   with 8 million sessions it visits two per microsecond, which here means per packet. \
                   Third, a rarely used session sees a new tick (100 ms) at each packet, which is then \
                   written. By Zipf's law, which is closer to a real network, more than half of the \
                   packets belong to a thousandth of the sessions, which fit in the caches. Those packets \
                   save the remaining latency and the write, but not the sweep. For millions of sessions \
                   the sweep is a large part of the growth, equal in both orders, and its reads use the \
                   same caches.",
        },
        figures,
    )
}

fn new_sessions(effort: Effort, report: &mut Report) -> Result<()> {
    const CAPACITIES: [u32; 4] = [10_000, 100_000, 1_000_000, 8_000_000];
    let opened = effort.packets.min(OPENED_MAX.into());
    let mut cells = Vec::new();
    for plan in [AddressPlan::V4, AddressPlan::V6] {
        for capacity in CAPACITIES
            .iter()
            .filter(|capacity| **capacity <= effort.sessions_max)
        {
            cells.push(Cell::new(plan.name, *capacity, move || {
                Ok(nanos(open(plan, *capacity, opened)?, opened))
            }));
        }
    }
    let figures = interleave(cells, effort.runs)?;
    report.lines(
        &Subject {
            name: "sessions-new",
            title: "A packet that opens a session, over the room for sessions",
            x: "room for sessions",
            y: "ns a packet",
            note: "A run opens 262,144 sessions in an empty table, or in several if they do not fit in \
                   one. The native fallback picks among 8 backends. A session is linked under two hashes, \
                   of its requests and of its replies. Each hash has two buckets anywhere in the index, \
                   so each bucket is a cache miss once the index exceeds the caches. The session's own \
                   line is one more miss in a table where sessions have ended; a new table hands out \
                   lines in order, which the CPU prefetches. Page faults are excluded, because the whole \
                   table is touched when it is made. The sweep is included, as above.",
        },
        figures,
    )
}

/// Opens `sessions` sessions in as many tables as needed. Returns the time it took.
fn open(plan: AddressPlan, capacity: u32, sessions: u64) -> Result<Duration> {
    let size = with_capacity(Size::default(), capacity);
    let each = u64::from(capacity - capacity % BATCH);
    let mut left = sessions;
    let mut time = Duration::ZERO;
    while left > 0 {
        let testbed = Testbed::new(plan, size)?;
        let mut new = NewSessions::new(&testbed, Vec::new());
        let some = left.min(each);
        time += time_packets(some, BATCH, || new.turn(BATCH));
        new.end();
        left -= some;
    }
    Ok(time)
}

pub(crate) fn services(effort: Effort, report: &mut Report) -> Result<()> {
    let size = |services| Size {
        services,
        backends: 2,
        ..Size::default()
    };
    let mut testbeds = Vec::new();
    for services in [1, 10, 100, 1_000, 10_000] {
        let size = size(services);
        testbeds.push((size, established(AddressPlan::V4, SESSIONS, size)?));
    }
    let mut cells = Vec::new();
    for (size, established) in &testbeds {
        let x = size.services;
        cells.push(forward(
            "established",
            x,
            established,
            Order::Uniform,
            effort,
        ));
        cells.push(open_new("new session", x, *size, Vec::new));
    }
    let figures = interleave(cells, effort.runs)?;
    report.lines(
        &Subject {
            name: "services",
            title: "A packet, over services",
            x: "services",
            y: "ns a packet",
            note: "Each service has two backends; all services share 100,000 sessions; the native \
                   fallback picks for new ones. An established packet reads its backend's entry and next \
                   hop and updates its counters: for 20,000 backends these exceed the near caches; for \
                   more than 1,024, an extra pass over the batch prefetches them. New sessions of many \
                   services share no call: a batch of 64 belongs to 64 services.",
        },
        figures,
    )
}

pub(crate) fn backends(effort: Effort, report: &mut Report) -> Result<()> {
    let host = modules::host(
        &["waxwing-policy-round-robin", "waxwing-policy-maglev"],
        &[],
    );
    let mut testbeds = Vec::new();
    for backends in [2, 16, 128, 1_024, 4_096] {
        let size = Size {
            backends,
            ..Size::default()
        };
        testbeds.push((size, established(AddressPlan::V4, SESSIONS, size)?));
    }
    let mut cells = Vec::new();
    for (size, established) in &testbeds {
        let x = size.backends;
        cells.push(forward(
            "established",
            x,
            established,
            Order::Uniform,
            effort,
        ));
        cells.push(open_new("new, fallback", x, *size, Vec::new));
        for policy in ["round_robin", "maglev"] {
            let records = records(x);
            if instance(&host, policy, &records).is_ok() {
                let host = &host;
                cells.push(open_new(format!("new, {policy}"), x, *size, move || {
                    instance(host, policy, &records).into_iter().collect()
                }));
            }
        }
    }
    let figures = interleave(cells, effort.runs)?;
    report.lines(
        &Subject {
            name: "backends",
            title: "A packet, over backends of one service",
            x: "backends",
            y: "ns a packet",
            note: "100,000 sessions. Established packets: as over services. The native fallback, used \
                   while no module serves, is weighted rendezvous hashing: it weighs every backend for \
                   every new session, so its cost grows. The modules' own cost does not grow; the chart \
                   of guests shows what the host writes for each backend once a millisecond.",
        },
        figures,
    )
}

pub(crate) fn workers(effort: Effort, report: &mut Report) -> Result<()> {
    const SESSIONS: [u32; 2] = [1_000, 1_000_000];
    let size = Size {
        workers: 2,
        ..Size::default()
    };
    let mut testbeds = Vec::new();
    for sessions in SESSIONS {
        testbeds.push(established(AddressPlan::V4, sessions, size)?);
    }
    let mut cells = Vec::new();
    for established in &testbeds {
        for scenario in EstablishedScenario::ALL {
            cells.push(Cell::new(scenario.name, established.sessions, move || {
                let time = scenario.run(established, effort.packets);
                Ok(nanos(time, effort.packets))
            }));
        }
    }
    // A table with few sessions would be full at once.
    let capacity = SESSIONS[1];
    for scenario in OpenScenario::ALL {
        cells.push(Cell::new(scenario.name, capacity, move || {
            let testbed = Testbed::new(AddressPlan::V4, with_capacity(size, capacity))?;
            Ok(nanos(scenario.run(&testbed, OPENED_MAX), OPENED_MAX.into()))
        }));
    }
    let figures = interleave(cells, effort.runs)?;
    report.bars(
        &Subject {
            name: "workers",
            title: "A packet at each of one or two workers",
            x: "sessions",
            y: "ns a packet",
            note: "Two workers that need the time of one have twice its throughput. `two_apart`: each \
                   worker forwards the requests of half of the sessions; the time beyond `one` is the \
                   cost of sharing a table. `two_both_ways`: one worker forwards all requests, the other \
                   all replies; the time beyond `one_both_ways` is the cost of sessions that both use. \
                   `two_opening`: each worker opens sessions of its own clients in one empty table with \
                   room for 1 M, and the native fallback picks; the time beyond `one_opening` is the cost \
                   of state that both write: the locks of tuples, the index, the pool of free slots, the \
                   session counts.",
        },
        figures,
    )
}

/// One worker beside 7 and 15 others, with the time of what they share: a cache line's round trip.
pub(crate) fn crowd(effort: Effort, report: &mut Report) -> Result<()> {
    const OTHERS: [usize; 3] = [0, 7, 15];
    /// Sessions that each worker opens.
    const OPENED: u32 = 1 << 14;
    const CAPACITY: u32 = 1 << 20;
    let size = Size {
        workers: 16,
        ..Size::default()
    };
    let established = established(AddressPlan::V4, SESSIONS, size)?;
    let mut cells = Vec::new();
    for others in OTHERS {
        let crowd = CrowdScenario { others };
        let x = u32::try_from(others)?;
        let (established, packets) = (&established, effort.packets / 16);
        cells.push(Cell::new("established", x, move || {
            Ok(nanos(crowd.forward(established, packets), packets))
        }));
        cells.push(Cell::new("new session", x, move || {
            let testbed = Testbed::new(AddressPlan::V4, with_capacity(size, CAPACITY))?;
            Ok(nanos(crowd.open(&testbed, OPENED), OPENED.into()))
        }));
        cells.push(Cell::new("a line's round trip", x, || {
            Ok(nanos(line_round_trip(), 1))
        }));
    }
    let figures = interleave(cells, effort.runs)?;
    report.bars(
        &Subject {
            name: "crowd",
            title: "A packet at one worker beside others",
            x: "other workers",
            y: "ns a packet",
            note: "Between two batches of the measured worker each of the others handles one, in turn on \
                   the second processor. So what workers share is nearly always in the other processor's \
                   cache, as with as many processors. The round trip of a cache line between the two is \
                   measured beside each figure: it depends on where the machine's host places them.",
        },
        figures,
    )
}

/// A worker's batches while reloads of many services and backends follow each other.
pub(crate) fn reloads(effort: Effort, report: &mut Report) -> Result<()> {
    /// Services and backends each.
    const SIZES: [(&str, u32, u32); 4] = [
        ("1 service", 1, 8),
        ("1,000 services", 1_000, 2),
        ("10,000 services", 10_000, 2),
        ("1,000 services of 1,000 backends", 1_000, 1_000),
    ];
    let batches = usize::try_from(effort.packets / u64::from(BATCH))?;
    let mut table = Table::new([
        "",
        "reloads in a run",
        "median batch, µs",
        "p99.9, µs",
        "p99.9 without reloads, µs",
    ]);
    for (name, services, backends) in SIZES {
        let size = Size {
            services,
            backends,
            ..Size::default()
        };
        let established = established(AddressPlan::V4, SESSIONS, size)?;
        let mut columns = [const { Vec::new() }; 4];
        for _ in 0..effort.runs {
            for reloads in [true, false] {
                let scenario = Reloads {
                    established: &established,
                    reloads,
                };
                let (times, taken) = scenario.run(batches);
                let micros = |thousandths| times.quantile(thousandths).as_secs_f64() * 1e6;
                if reloads {
                    columns[0].push(f64::from(u32::try_from(taken)?));
                    columns[1].push(micros(500));
                    columns[2].push(micros(999));
                } else {
                    columns[3].push(micros(999));
                }
            }
        }
        let cells = columns.map(|values| Spread::of(&values).to_string());
        table.row([name.to_owned()].into_iter().chain(cells));
    }
    report.say("## A batch while reloads follow each other");
    report.table(&table);
    report.say(
        "Batches of 64 packets of 100,000 established sessions at one worker, while another thread makes \
         a snapshot of all services and backends, gives it to the worker, frees the old one, and begins \
         again. (What a reload does before that, reading and checking the config, is in the section \
         above: it shares nothing with workers.)",
    );
    Ok(())
}

fn established(plan: AddressPlan, sessions: u32, size: Size) -> Result<EstablishedTestbed> {
    Ok(EstablishedTestbed::new(
        plan,
        with_capacity(size, sessions),
    )?)
}

/// The same size with a table for `sessions` sessions.
fn with_capacity(size: Size, sessions: u32) -> Size {
    Size {
        sessions_max: sessions,
        ..size
    }
}

/// A cell that forwards requests of established sessions.
fn forward<'a>(
    series: impl Into<String>,
    x: u32,
    established: &'a EstablishedTestbed,
    order: Order,
    effort: Effort,
) -> Cell<'a> {
    Cell::new(series, x, move || {
        let mut traffic = EstablishedTraffic::new(established, 0, order);
        let all = 0..established.sessions;
        let time = time_packets(effort.packets, BATCH, || traffic.requests(all.clone()));
        traffic.end();
        Ok(nanos(time, effort.packets))
    })
}

/// A cell that opens sessions; `policies` pick, or the native fallback if there is none.
fn open_new<'a>(
    series: impl Into<String>,
    x: u32,
    size: Size,
    policies: impl Fn() -> Vec<Box<dyn Policy>> + 'a,
) -> Cell<'a> {
    let size = with_capacity(size, OPENED);
    Cell::new(series, x, move || {
        let testbed = Testbed::new(AddressPlan::V4, size)?;
        let mut new = NewSessions::new(&testbed, policies());
        let time = time_packets(OPENED.into(), BATCH, || new.turn(BATCH));
        new.end();
        Ok(nanos(time, OPENED.into()))
    })
}

fn records(backends: u32) -> Vec<BackendRecord> {
    (0..backends).map(|id| testing::backend(id, 1)).collect()
}

fn instance(host: &Host, policy: &str, records: &[BackendRecord]) -> Result<Box<dyn Policy>> {
    modules::instance(host, policy, "{}", records)
        .with_context(|| format!("{policy} rejects the backends"))
}

/// Nanoseconds per packet.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn nanos(time: Duration, packets: u64) -> f64 {
    time.as_secs_f64() * 1e9 / packets as f64
}
