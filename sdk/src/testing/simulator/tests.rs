#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::super::backends;
use super::*;
use crate::{Backends, ClosedSession, ConfigError, Flow, NoConfig, SessionEnd};

/// Picks by the flow's hash and counts its notifications.
#[derive(Default)]
struct ByHash {
    ends: [u64; 3],
    bytes_per_ms: u64,
}

impl Policy for ByHash {
    type Config = NoConfig;
    const WANTS_CLOSED: bool = true;
    const TICK_MS: u32 = 50;
    const COUNTERS: &'static [&'static str] = &["closed", "refused", "ticks", "bytes_per_ms"];

    fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self::default())
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        backends.by_hash(flow.hash()).into()
    }

    fn closed(&mut self, closed: &ClosedSession<'_>, _: &Backends<'_>) {
        match closed.end() {
            Some(SessionEnd::Closed) => self.ends[0] += 1,
            Some(SessionEnd::Refused) => self.ends[1] += 1,
            _ => {}
        }
        self.bytes_per_ms = closed.bytes() / closed.duration_ms();
    }

    fn tick(&mut self, _: &Backends<'_>) {
        self.ends[2] += 1;
    }

    fn counters(&self, values: &mut [u64]) {
        values[..3].copy_from_slice(&self.ends);
        values[3] = self.bytes_per_ms;
    }
}

fn simulator(weights: &[u32]) -> Simulator<ByHash> {
    Simulator::start("{}", &backends(weights), 5).unwrap()
}

#[test]
fn sessions_arrive_at_the_rate_and_end_after_their_lifetime() {
    let mut simulator = simulator(&[1]);
    simulator.sessions_per_s = 300;
    simulator.durations = Durations::Fixed(100);
    simulator.run(1000);
    // Sessions of the last 100 ms are alive.
    assert_eq!(simulator.stats(0).sessions, 300);
    assert_eq!(simulator.stats(0).load_max, 30);
    assert_eq!(simulator.counters(), [270, 0, 20, 1000]);
    assert_eq!(simulator.stats(0).session_ms, 270 * 100);
    assert_eq!(simulator.backends_mut()[0].active, 30);
    let live = simulator.live_mut()[0];
    assert_eq!((live.half_open, live.closing, live.sessions), (0, 270, 300));
}

#[test]
fn sessions_are_counted_by_phase() {
    let mut simulator = simulator(&[1]);
    simulator.sessions_per_s = 100;
    simulator.durations = Durations::Fixed(300);
    simulator.closing_ms = 500;
    simulator.backends_mut()[0].latency_us = 200_000;
    simulator.run(5000);
    let (active, live) = (simulator.backends_mut()[0].active, simulator.live_mut()[0]);
    assert_eq!((active, live.half_open, live.closing), (30, 20, 50));
    assert_eq!((&simulator.loads()[..], live.sessions), (&[50][..], 500));
    let rates = (
        simulator.backends_mut()[0].sessions_per_s,
        live.failure_samples,
    );
    assert_eq!(rates, (60, 358), "five seconds count");
    simulator.backends_mut()[0].failures_ppm = 1_000_000;
    simulator.run(1000);
    let (active, live) = (simulator.backends_mut()[0].active, simulator.live_mut()[0]);
    assert_eq!((active, live.half_open, live.closing), (0, 20, 50));
    assert_eq!((live.failures, live.refusals), (80, 80));
    simulator.sessions_per_s = 0;
    simulator.run(1000);
    let (active, live) = (simulator.backends_mut()[0].active, simulator.live_mut()[0]);
    assert_eq!((active, live.half_open, live.closing), (0, 0, 0));
}

#[test]
fn durations_have_their_means() {
    let mixed = Durations::Mixed {
        short_ms: 10,
        long_ms: 1000,
        long_percent: 5,
    };
    for (durations, mean) in [
        (Durations::Fixed(70), 70),
        (Durations::Exponential(500), 500),
        (mixed, 59),
    ] {
        let mut random = Random::new(1);
        let sum: u64 = (0..100_000).map(|_| durations.draw(&mut random)).sum();
        let error = (sum / 100_000).abs_diff(mean);
        assert!(error * 20 <= mean, "{durations:?}: off by {error} ms");
    }
}

#[test]
fn latency_and_failures_affect_sessions() {
    let mut simulator = simulator(&[1, 1]);
    simulator.sessions_per_s = 2000;
    simulator.durations = Durations::Fixed(10);
    simulator.backends_mut()[0].latency_us = 40_000;
    simulator.backends_mut()[1].failures_ppm = 250_000;
    simulator.run(10_000);
    simulator.sessions_per_s = 0;
    simulator.run(100);
    let (slow, failing) = (simulator.stats(0), simulator.stats(1));
    assert_eq!(slow.refused, 0);
    let part = failing.sessions / failing.refused;
    assert!((3..=4).contains(&part), "{failing:?}");
    // A refused session ends at once.
    assert!(
        slow.session_ms > 5 * failing.session_ms,
        "{slow:?} {failing:?}"
    );
    assert_eq!(simulator.counters()[1], failing.refused as u64);
}

#[test]
fn sessions_of_remaining_backends_survive_a_change() {
    let mut simulator = simulator(&[1, 1, 1]);
    simulator.run(1000);
    let (stay, go) = (simulator.backends_mut()[2], simulator.backends_mut()[0]);
    assert!(go.active > 0);
    simulator.set_backends(&[stay]).unwrap();
    assert_eq!(simulator.backends_mut()[0].active, stay.active);
    simulator.run(2000);
    assert_eq!(simulator.backends_mut()[0].active, 100);
    let before = usize::try_from(stay.active).unwrap();
    assert_eq!(simulator.stats(2).sessions, before + 200);
    simulator.set_backends(&[]).unwrap();
    simulator.reset();
    simulator.run(1000);
    assert_eq!(
        (simulator.unserved(), simulator.stats(2)),
        (100, BackendStats::default())
    );
}

#[test]
fn a_hash_policy_has_no_disruption_on_failover() {
    let mut simulator = simulator(&[1, 2, 3]);
    simulator.run(3000);
    assert_eq!(simulator.disruption(), Ok(0.0));
    // A fourth backend of weight 1 takes a seventh of the others' sessions.
    simulator.set_backends(&backends(&[1, 2, 3, 1])).unwrap();
    let moved = simulator.disruption().unwrap();
    assert!((0.05..0.25).contains(&moved), "{moved} moved");
}
