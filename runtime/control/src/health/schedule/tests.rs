#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::IpAddr;

use waxwing_dataplane::Ports;
use waxwing_packet::{Address, Protocol};

use super::*;

const START: Duration = Duration::from_secs(1000);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A check with a fast interval of half a second.
#[derive(Clone, Copy)]
struct Every {
    nth: usize,
    interval: Duration,
    jitter: u32,
}

impl ScheduledJob for Every {
    fn key(&self) -> CheckKey {
        let address = Address::from(IpAddr::from([10, 2, 0, 1]));
        let service = (address, Ports::one(80), Protocol::Tcp);
        ((service, address, 8080), self.nth)
    }

    fn timing(&self) -> CheckTiming {
        CheckTiming {
            interval: self.interval,
            fast_interval: ms(500),
            timeout: ms(1000),
            rise: 2,
            fall: 3,
        }
    }

    fn jitter(&self) -> u32 {
        self.jitter
    }
}

/// Returns a check that is due every two seconds, without jitter.
fn job(nth: usize) -> Arc<Every> {
    every(nth, ms(2000))
}

fn every(nth: usize, interval: Duration) -> Arc<Every> {
    Arc::new(Every {
        nth,
        interval,
        jitter: 0,
    })
}

/// Returns a schedule that adopted these jobs at the start.
fn schedule(jobs: &[Arc<Every>]) -> Schedule<Every> {
    let mut schedule = Schedule::new(1);
    schedule.adopt(jobs, START);
    schedule
}

/// Takes all checks due at a time, in order. Returns which, and when each became due.
fn take_all(schedule: &mut Schedule<Every>, now: Duration) -> Vec<(usize, Duration)> {
    let due = std::iter::from_fn(|| schedule.take_due(now));
    due.map(|due| (due.job.nth, due.at - START)).collect()
}

#[test]
fn new_checks_are_due_one_after_another() {
    let mut schedule = schedule(&[job(1), job(2), job(3)]);
    assert_eq!(schedule.next_due(), Some(START));
    assert_eq!(take_all(&mut schedule, START), [(1, ms(0))]);
    let others = take_all(&mut schedule, START + ms(2));
    assert_eq!(others, [(2, ms(1)), (3, ms(2))]);
}

#[test]
fn many_new_checks_are_all_due_within_their_interval() {
    let jobs: Vec<_> = (0..10_000).map(job).collect();
    let mut schedule = schedule(&jobs);
    let half = take_all(&mut schedule, START + ms(1000)).len();
    assert!((4_990..=5_010).contains(&half), "{half} in half the time");
    let rest = take_all(&mut schedule, START + ms(2000)).len();
    assert_eq!(half + rest, 10_000);
}

#[test]
fn a_check_is_not_due_while_it_runs() {
    let mut schedule = schedule(&[job(1)]);
    let due = schedule.take_due(START).unwrap();
    assert_eq!(schedule.next_due(), None);
    assert!(schedule.take_due(START + ms(60_000)).is_none());
    schedule.done(due.id, false, START + ms(200));
    assert!(schedule.next_due().is_some());
}

#[test]
fn the_next_run_is_due_an_interval_after_the_last_was_due() {
    // How late it started, how long it took, whether the next is wanted soon; when that is due.
    let rows = [
        (0, 0, false, 2000),
        (0, 900, false, 2000),
        (300, 900, false, 2000),
        (0, 0, true, 500),
        (0, 400, true, 500),
        // Longer than its interval: due at once, and only once.
        (0, 2500, false, 2500),
        (9000, 100, false, 9100),
        (0, 900, true, 900),
    ];
    for (late, took, soon, next) in rows {
        let mut schedule = schedule(&[job(1)]);
        let due = schedule.take_due(START + ms(late)).unwrap();
        assert_eq!(due.at, START);
        let ended = START + ms(late + took);
        schedule.done(due.id, soon, ended);
        let row = (late, took, soon);
        assert_eq!(schedule.next_due(), Some(START + ms(next)), "{row:?}");
        let due = schedule.take_due(START + ms(next)).unwrap();
        schedule.done(due.id, false, START + ms(next));
        let after = Some(START + ms(next + 2000));
        assert_eq!(
            schedule.next_due(),
            after,
            "lost runs are not made up for: {row:?}"
        );
    }
}

#[test]
fn checks_are_taken_in_the_order_they_became_due() {
    let jobs = [every(1, ms(3000)), every(2, ms(1000)), every(3, ms(2000))];
    let mut schedule = schedule(&jobs);
    let due: Vec<_> = std::iter::from_fn(|| schedule.take_due(START + ms(2))).collect();
    for due in &due {
        schedule.done(due.id, false, START + ms(3));
    }
    let expected = [(2, ms(1001)), (3, ms(2002)), (1, ms(3000))];
    assert_eq!(take_all(&mut schedule, START + ms(60_000)), expected);
}

#[test]
fn jitter_varies_an_interval_to_both_sides_within_its_limit() {
    for seed in 0..50 {
        let mut schedule = Schedule::new(seed);
        let jittery = Every {
            jitter: 10,
            ..*job(1)
        };
        schedule.adopt(&[Arc::new(jittery)], START);
        let mut times = vec![];
        for _ in 0..200 {
            let at = schedule.next_due().unwrap();
            let due = schedule.take_due(at).unwrap();
            schedule.done(due.id, false, at);
            times.push(schedule.next_due().unwrap() - at);
        }
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        let within = *least >= ms(1800) && *most <= ms(2200);
        assert!(within, "seed {seed}: {least:?} to {most:?}");
        let wide = *least < ms(1850) && *most > ms(2150);
        assert!(wide, "seed {seed}: {least:?} to {most:?}");
    }
}

#[test]
fn a_reload_keeps_the_times_of_known_checks_and_makes_new_ones_due() {
    let mut schedule = schedule(&[job(1), job(2)]);
    let due = schedule.take_due(START).unwrap();
    schedule.done(due.id, false, START);
    let running = schedule.take_due(START + ms(1)).unwrap();
    let reload = START + ms(700);
    schedule.adopt(&[job(3), job(2), job(1)], reload);
    assert_eq!(take_all(&mut schedule, reload), [(3, ms(700))]);
    schedule.done(running.id, false, START + ms(800));
    let known = take_all(&mut schedule, START + ms(60_000));
    assert_eq!(known, [(1, ms(2000)), (2, ms(2001))]);
}

#[test]
fn a_removed_check_is_never_due_even_if_it_was_running() {
    let mut schedule = schedule(&[job(1), job(2)]);
    let running = schedule.take_due(START).unwrap();
    schedule.adopt(&[], START);
    schedule.done(running.id, false, START + ms(5));
    assert_eq!(schedule.next_due(), None);
    // It is added again while its old run is under way: that run's end does not count.
    schedule.adopt(&[job(1)], START + ms(10));
    let again = schedule.take_due(START + ms(10)).unwrap();
    schedule.done(running.id, false, START + ms(20));
    assert_eq!(schedule.next_due(), None, "it runs");
    schedule.done(again.id, false, START + ms(30));
    assert_eq!(schedule.next_due(), Some(START + ms(2010)));
}

#[test]
fn a_shorter_interval_applies_at_once() {
    let hours = Duration::from_secs(3600);
    let mut schedule = schedule(&[every(1, hours), every(2, hours)]);
    let due: Vec<_> = std::iter::from_fn(|| schedule.take_due(START + ms(1))).collect();
    for due in &due {
        schedule.done(due.id, false, START + ms(2));
    }
    let reload = START + ms(60_000);
    schedule.adopt(&[every(1, ms(2000)), every(2, hours)], reload);
    assert_eq!(take_all(&mut schedule, reload), [(1, ms(60_000))]);
    let other = Some(START + ms(1) + hours);
    assert_eq!(schedule.next_due(), other, "the other keeps its time");
}

#[test]
fn a_job_is_the_one_of_the_last_reload() {
    let mut schedule = schedule(&[job(1)]);
    schedule.adopt(&[every(1, ms(1500))], START);
    let due = schedule.take_due(START).unwrap();
    assert_eq!(due.job.interval, ms(1500));
    schedule.adopt(&[every(1, ms(1200))], START);
    schedule.done(due.id, false, START);
    assert_eq!(schedule.next_due(), Some(START + ms(1200)));
}

#[test]
fn a_postponed_check_is_due_again_and_late_since_its_own_time() {
    let mut schedule = schedule(&[job(1), job(2)]);
    let due = schedule.take_due(START).unwrap();
    schedule.postpone(due.id, START + ms(50));
    assert_eq!(take_all(&mut schedule, START + ms(49)), [(2, ms(1))]);
    let due = schedule.take_due(START + ms(50)).unwrap();
    assert_eq!(due.at, START, "it is 50 ms late");
    schedule.done(due.id, false, START + ms(60));
    assert_eq!(schedule.next_due(), Some(START + ms(2000)));
}
