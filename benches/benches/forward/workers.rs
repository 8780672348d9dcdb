//! Two workers on one table against one: `workers/WHAT/SESSIONS`, the time of a packet at each worker.
//!
//! | what | |
//! |---|---|
//! | `one` | one worker has the requests of all sessions |
//! | `two_apart` | two workers have the requests of half of them each |
//! | `one_both_ways` | one worker has the requests and the replies |
//! | `two_both_ways` | one worker has the requests, the other the replies to them: each session is seen from both |
//!
//! `two_apart` above `one` is what sharing the table takes, `two_both_ways` above `one_both_ways` what
//! sharing the sessions themselves does.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use criterion::Criterion;
use waxwing_bed::{Order, Plan};

use crate::stand::{self, Established, FULL, Hits};

const SESSIONS: [u32; 2] = [1_000, 1_000_000];

pub(crate) fn workers(criterion: &mut Criterion) {
    let mut group = stand::group(criterion, "workers");
    for sessions in SESSIONS {
        let mut established = None;
        for (name, work) in WORK {
            group.bench_function(format!("{name}/{sessions}"), |b| {
                let established =
                    established.get_or_insert_with(|| Established::new(Plan::V4, sessions));
                b.iter_custom(|packets| run(established, work, packets));
            });
        }
    }
    group.finish();
}

/// What each worker does in a turn.
type Work = &'static [fn(&mut Hits<'_>, u32, u64) -> Duration];

const WORK: [(&str, Work); 4] = [
    ("one", &[|hits, sessions, _| hits.requests(0..sessions)]),
    (
        "two_apart",
        &[
            |hits, sessions, _| hits.requests(0..sessions / 2),
            |hits, sessions, _| hits.requests(sessions / 2..sessions),
        ],
    ),
    (
        "one_both_ways",
        &[|hits, sessions, turn| match turn % 2 {
            0 => hits.requests(0..sessions),
            _ => hits.replies(0..sessions),
        }],
    ),
    (
        "two_both_ways",
        &[
            |hits, sessions, _| hits.requests(0..sessions),
            |hits, sessions, _| hits.replies(0..sessions),
        ],
    ),
];

/// Each worker on a thread of its own; the mean of their times for so many packets each.
fn run(established: &Established, work: Work, packets: u64) -> Duration {
    let barrier = Barrier::new(work.len());
    let times: Vec<Duration> = thread::scope(|scope| {
        let workers: Vec<_> = work
            .iter()
            .enumerate()
            .map(|(number, turn)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut hits = Hits::new(established, number, Order::Uniform);
                    barrier.wait();
                    let mut turns = 0;
                    stand::of_packets(packets, FULL, || {
                        turns += 1;
                        turn(&mut hits, established.sessions, turns)
                    })
                })
            })
            .collect();
        let join = |worker: thread::ScopedJoinHandle<'_, _>| worker.join().expect("no panic");
        workers.into_iter().map(join).collect()
    });
    times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap_or(1)
}
