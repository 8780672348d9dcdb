//! Nanoseconds a packet, in memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use waxwing_bed::{
    Established, Hits, Openers, Opening, Order, Plan, Size, Team, World, of_packets,
};
use waxwing_benches::modules;
use waxwing_dataplane::Policy;
use waxwing_plugin::Host;
use waxwing_sdk::abi::BackendRecord;
use waxwing_sdk::testing;

use crate::Effort;
use crate::book::{Book, Cell, Subject, in_turns};

/// Sessions where something else grows.
const SESSIONS: u32 = 100_000;
/// Sessions that a run opens.
const OPENED: u32 = 1 << 16;
/// And at most, where the table's room grows; and each of two workers.
const OPENED_MAX: u32 = 1 << 18;
const BATCH: u32 = 64;

pub(crate) fn sessions(effort: Effort, book: &mut Book) -> Result<()> {
    established_sessions(effort, book)?;
    // The tables of these are gone by now: one at a time is made for new sessions, of up to 900 MB.
    new_sessions(effort, book)
}

fn established_sessions(effort: Effort, book: &mut Book) -> Result<()> {
    const COUNTS: [u32; 5] = [1_000, 10_000, 100_000, 1_000_000, 8_000_000];
    let counts = COUNTS.iter().filter(|count| **count <= effort.sessions_max);
    let mut stands = Vec::new();
    for plan in [Plan::V4, Plan::V6] {
        for count in counts.clone() {
            stands.push((plan, established(plan, *count, Size::default())?));
        }
    }
    let mut cells = Vec::new();
    for (plan, established) in &stands {
        for order in Order::ALL {
            let series = format!("{}, {}", plan.name, order.name());
            let x = established.sessions;
            cells.push(hits(series, x, established, order, effort));
        }
    }
    let figures = in_turns(cells, effort.runs)?;
    book.lines(
        &Subject {
            name: "sessions",
            title: "A packet of an established session, over sessions",
            x: "sessions",
            y: "ns a packet",
            note: "The table is full. What grows is, first, the wait for memory: a session of a large table is in \
                   no cache, and neither is the page table's entry for it; the passes over a batch hide most of \
                   that. Second, the sweep for sessions whose time is over: one round takes 4 s whatever the size, \
                   so of 8 million it looks at two for each microsecond, which is here each packet. Third, a \
                   session that is met rarely is met in a new tick (100 ms) each time, which is then written. With \
                   Zipf's law, which is more like a real network, more than half of the packets are of a thousandth \
                   of the sessions, which the caches can hold. That spares those packets what the passes leave of \
                   the wait, and the write, but not the sweep: of millions it is a large part of what grows, it \
                   takes the same in both orders, and what it reads passes through the same caches.",
        },
        figures,
    )
}

fn new_sessions(effort: Effort, book: &mut Book) -> Result<()> {
    const ROOMS: [u32; 4] = [10_000, 100_000, 1_000_000, 8_000_000];
    let opened = effort.packets.min(OPENED_MAX.into());
    let mut cells = Vec::new();
    for plan in [Plan::V4, Plan::V6] {
        for room in ROOMS.iter().filter(|room| **room <= effort.sessions_max) {
            cells.push(Cell::new(plan.name, *room, move || {
                Ok(nanos(open(plan, *room, opened)?, opened))
            }));
        }
    }
    let figures = in_turns(cells, effort.runs)?;
    book.lines(
        &Subject {
            name: "sessions-new",
            title: "A packet that opens a session, over the room for sessions",
            x: "room for sessions",
            y: "ns a packet",
            note: "A table that is empty to begin with, in which a run opens 262,144 sessions (in one after the \
                   other, where they have less room). The native fallback chooses among 8 backends. A session is \
                   linked under two hashes, of its requests and of its replies, and each has two buckets to look \
                   at: they lie anywhere in the index, so each is a miss once that is in no cache. Its line is one \
                   more where sessions have come and gone; in a new table lines are given out one after the other, \
                   which the processor sees, and fetches ahead. Page faults are not in it, for all of a table is \
                   touched when it is made. The sweep is, as above.",
        },
        figures,
    )
}

/// Has so many clients open a session each, in as many tables as that takes.
fn open(plan: Plan, room: u32, sessions: u64) -> Result<Duration> {
    let size = with_room(Size::default(), room);
    let each = u64::from(room - room % BATCH);
    let mut left = sessions;
    let mut time = Duration::ZERO;
    while left > 0 {
        let world = World::new(plan, size)?;
        let mut opening = Opening::new(&world, Vec::new());
        let some = left.min(each);
        time += of_packets(some, BATCH, || opening.turn(BATCH));
        opening.end();
        left -= some;
    }
    Ok(time)
}

pub(crate) fn services(effort: Effort, book: &mut Book) -> Result<()> {
    let size = |services| Size {
        services,
        backends: 2,
        ..Size::default()
    };
    let mut stands = Vec::new();
    for services in [1, 10, 100, 1_000, 10_000] {
        let size = size(services);
        stands.push((size, established(Plan::V4, SESSIONS, size)?));
    }
    let mut cells = Vec::new();
    for (size, established) in &stands {
        let x = size.services;
        cells.push(hits("established", x, established, Order::Uniform, effort));
        cells.push(openings("new session", x, *size, Vec::new));
    }
    let figures = in_turns(cells, effort.runs)?;
    book.lines(
        &Subject {
            name: "services",
            title: "A packet, over services",
            x: "services",
            y: "ns a packet",
            note: "Two backends each, 100,000 sessions over all of them; the native fallback chooses for new ones. An established \
                   packet reads its backend's entry and next hop and counts for it: of 20,000 these are in no near cache any \
                   more; where there are more than 1,024, a round of its own over the batch fetches them ahead. New sessions of many services share no call: a batch of \
                   64 is of 64 services.",
        },
        figures,
    )
}

pub(crate) fn backends(effort: Effort, book: &mut Book) -> Result<()> {
    let host = modules::host(
        &["waxwing-policy-round-robin", "waxwing-policy-maglev"],
        &[],
    );
    let mut stands = Vec::new();
    for backends in [2, 16, 128, 1_024, 4_096] {
        let size = Size {
            backends,
            ..Size::default()
        };
        stands.push((size, established(Plan::V4, SESSIONS, size)?));
    }
    let mut cells = Vec::new();
    for (size, established) in &stands {
        let x = size.backends;
        cells.push(hits("established", x, established, Order::Uniform, effort));
        cells.push(openings("new, fallback", x, *size, Vec::new));
        for policy in ["round_robin", "maglev"] {
            let records = records(x);
            if instance(&host, policy, &records).is_ok() {
                let host = &host;
                cells.push(openings(format!("new, {policy}"), x, *size, move || {
                    instance(host, policy, &records).into_iter().collect()
                }));
            }
        }
    }
    let figures = in_turns(cells, effort.runs)?;
    book.lines(
        &Subject {
            name: "backends",
            title: "A packet, over backends of one service",
            x: "backends",
            y: "ns a packet",
            note: "100,000 sessions. Established packets: as over services. The native fallback is weighted rendezvous \
                   hashing: it weighs every backend for every new session, so it grows with them; it is what serves while no \
                   module does. The modules' own work does not grow; what the host writes for them of each backend once a \
                   millisecond is in the chart of guests.",
        },
        figures,
    )
}

pub(crate) fn workers(effort: Effort, book: &mut Book) -> Result<()> {
    const SESSIONS: [u32; 2] = [1_000, 1_000_000];
    let size = Size {
        workers: 2,
        ..Size::default()
    };
    let mut stands = Vec::new();
    for sessions in SESSIONS {
        stands.push(established(Plan::V4, sessions, size)?);
    }
    let mut cells = Vec::new();
    for established in &stands {
        for team in Team::ALL {
            cells.push(Cell::new(team.name, established.sessions, move || {
                let time = team.run(established, effort.packets);
                Ok(nanos(time, effort.packets))
            }));
        }
    }
    // In a table of few sessions they would be done at once.
    let room = SESSIONS[1];
    for team in Openers::ALL {
        cells.push(Cell::new(team.name, room, move || {
            let world = World::new(Plan::V4, with_room(size, room))?;
            Ok(nanos(team.run(&world, OPENED_MAX), OPENED_MAX.into()))
        }));
    }
    let figures = in_turns(cells, effort.runs)?;
    book.bars(
        &Subject {
            name: "workers",
            title: "A packet at each of one or two workers",
            x: "sessions",
            y: "ns a packet",
            note: "Two workers at the time of one have twice its throughput. `two_apart`: each has the requests of half of the \
                   sessions, so what it takes above `one` is the price of one table for both. `two_both_ways`: one has all \
                   requests, the other all replies, so what it takes above `one_both_ways` is the price of a session that is seen \
                   from both. `two_opening`: each opens sessions of clients of its own in one table that is empty to begin with \
                   and has room for 1 M, and the native fallback chooses; what it takes above `one_opening` is the price of what \
                   both write: the locks of tuples, the index, the pool of free slots, the counts of sessions.",
        },
        figures,
    )
}

fn established(plan: Plan, sessions: u32, size: Size) -> Result<Established> {
    Ok(Established::new(plan, with_room(size, sessions))?)
}

/// As large, with a table of this room.
fn with_room(size: Size, sessions: u32) -> Size {
    Size {
        sessions_max: sessions,
        ..size
    }
}

fn hits<'a>(
    series: impl Into<String>,
    x: u32,
    established: &'a Established,
    order: Order,
    effort: Effort,
) -> Cell<'a> {
    Cell::new(series, x, move || {
        let mut hits = Hits::new(established, 0, order);
        let all = 0..established.sessions;
        let time = of_packets(effort.packets, BATCH, || hits.requests(all.clone()));
        hits.end();
        Ok(nanos(time, effort.packets))
    })
}

fn openings<'a>(
    series: impl Into<String>,
    x: u32,
    size: Size,
    policies: impl Fn() -> Vec<Box<dyn Policy>> + 'a,
) -> Cell<'a> {
    let size = with_room(size, OPENED);
    Cell::new(series, x, move || {
        let world = World::new(Plan::V4, size)?;
        let mut opening = Opening::new(&world, policies());
        let time = of_packets(OPENED.into(), BATCH, || opening.turn(BATCH));
        opening.end();
        Ok(nanos(time, OPENED.into()))
    })
}

fn records(backends: u32) -> Vec<BackendRecord> {
    (0..backends).map(|id| testing::backend(id, 1)).collect()
}

fn instance(host: &Host, policy: &str, records: &[BackendRecord]) -> Result<Box<dyn Policy>> {
    modules::instance(host, policy, "{}", records).with_context(|| format!("no {policy}"))
}

/// For each of so many.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn nanos(time: Duration, of: u64) -> f64 {
    time.as_secs_f64() * 1e9 / of as f64
}
