//! What the host does with the answers of a valid module. Invalid modules are in `hostile.rs`.

use std::time::{Duration, Instant};

use crate::common::{SERVICE, host, host_with, pick, service, snapshot};
use waxwing_dataplane::policy::{Closed, End, TickContext};
use waxwing_dataplane::{Gauges, Now, Pick, Policy, PolicyFault};
use waxwing_plugin::{HostEvent, HostOptions, Recovery};
use waxwing_tests::wat::Wat;

#[test]
fn a_valid_module_picks() {
    let (host, _events) = host(&[("test", Wat::default().shipped())], None);
    let mut bound = host
        .bind("test", 2, 1, &[service(&[1, 1, 1])])
        .expect("it is valid");
    host.activate(&bound.in_use.module, false);
    assert_eq!(bound.policies.len(), 2);
    let picks = pick(&mut *bound.policies[1], 3, &[0, 1, 2, 3]).expect("picks");
    assert_eq!(picks, [0, 1, 2, 0].map(Pick::Backend));
    bound.policies[1].closed(
        SERVICE,
        &[Closed {
            backend: 0,
            duration_ms: 1,
            bytes: 100,
            end: End::Closed,
        }; 100],
    );
    assert_eq!(host.status()[0].serving.as_ref().map(|s| s.faults), Some(0));
}

#[test]
fn a_pick_of_an_unavailable_backend_goes_to_the_fallback() {
    let drained = service(&[1, 0]);
    let mut down = service(&[1, 1]);
    down.backends[1].healthy = false;
    for service in [drained, down] {
        let (host, _events) = host(&[("test", Wat::default().shipped())], None);
        let mut bound = host.bind("test", 1, 1, &[service]).expect("it is valid");
        let picks = pick(&mut *bound.policies[0], 2, &[0, 1]).expect("picks");
        assert_eq!(picks, [Pick::Backend(0), Pick::Fallback]);
        assert!(bound.in_use.module.counters.unavailable_picks() > 0);
    }
}

#[test]
fn a_failing_module_without_a_replacement_is_left_to_the_fallback() {
    let counted = "(i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
                   (if (i32.ge_u (i32.load (i32.const 16)) (i32.const 8)) (then unreachable))
                   (local.get 1)";
    let (host, events) = host(&[("test", Wat::picking(counted).shipped())], None);
    let mut bound = host
        .bind("test", 1, 1, &[service(&[1, 1])])
        .expect("it passes vetting");
    host.activate(&bound.in_use.module, false);
    let found = (0..10).find_map(|_| pick(&mut *bound.policies[0], 2, &[1]).err());
    assert_eq!(found, Some(PolicyFault::Trap));
    let Ok(HostEvent::Fault(report)) = events.try_recv() else {
        panic!("a report")
    };
    assert_eq!(&*report.service, "web");
    let recoveries = [0; 3].map(|_| host.recover(&report));
    use Recovery::{Exhausted, Rebuild};
    assert_eq!(recoveries, [Rebuild, Rebuild, Exhausted]);
}

/// Writes two lines in its first pick, and a third and a trap when it serves the second time.
const LOGGING: Wat = Wat {
    pick: "(i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
           (i64.store (i32.const 24) (i64.const 0x600000000009))
           (if (i64.ne (i64.load (i32.const 0x1008)) (i64.const 0))
             (then (if (i32.eq (i32.load (i32.const 16)) (i32.const 2)) (then
               (i64.store (i32.const 24) (i64.const 0x600900000006))
               unreachable))))
           (i32.store (i32.const 0x4000) (i32.const 0))
           (local.get 1)",
    more: "(data (i32.const 0x6000) \"one\\ntw\\1bo\\nthree\\n\")
           (func (export \"waxwing_log\") (result i64)
             (i64.load (i32.const 24))
             (i64.store (i32.const 24) (i64.const 0)))",
    ..Wat::GOOD
};

#[test]
fn what_a_policy_writes_is_kept_also_before_a_trap() {
    let (host, _events) = host(&[("test", LOGGING.shipped())], None);
    let mut bound = host
        .bind("test", 2, 1, &[service(&[1])])
        .expect("it is valid");
    host.activate(&bound.in_use.module, false);
    let log = || -> Vec<(u64, u32, String)> {
        let log = host.status().remove(0).log.into_iter();
        log.map(|line| (line.number, line.worker, line.text))
            .collect()
    };
    assert_eq!(log(), [], "lines on test flows are no one's");
    let policy = &mut *bound.policies[1];
    pick(policy, 1, &[1]).expect("picks");
    let tick = |policy: &mut dyn Policy, ms| {
        policy.tick(TickContext {
            now: Now::from_start(Duration::from_millis(ms)),
            snapshot: &snapshot(1),
            gauges: &Gauges::new(1, 1),
        });
    };
    tick(policy, 10);
    let first = [(1, 1, "one".to_owned()), (2, 1, "tw o".to_owned())];
    assert_eq!(log(), first);
    tick(policy, 400);
    assert_eq!(log(), first, "lines are taken once");
    assert_eq!(pick(policy, 1, &[1]), Err(PolicyFault::Trap));
    assert_eq!(log().last(), Some(&(3, 1, "three".to_owned())));
    drop(bound);
    assert_eq!(log().len(), 3);
}

/// Counts ended sessions at address 32, and sums their backends at 36. Each pick reports whether
/// 100 ended sessions of backend 1 were counted.
const CLOSED: Wat = Wat {
    pick: "(i32.store (i32.const 0x4000) (i32.and
             (i32.eq (i32.load (i32.const 32)) (i32.const 100))
             (i32.eq (i32.load (i32.const 36)) (i32.const 2))))
           (local.get 1)",
    more: "(func (export \"waxwing_closed\") (param i32 i32)
             (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (local.get 1)))
             (i32.store (i32.const 36)
               (i32.add (i32.load (i32.const 36)) (i32.load (i32.const 0x4810)))))",
    ..Wat::GOOD
};

#[test]
fn ended_sessions_are_reported_in_batches() {
    let mut wat = CLOSED;
    wat.set(72, 64);
    let (host, _events) = host(&[("test", wat.shipped())], None);
    let mut bound = host
        .bind("test", 1, 1, &[service(&[1, 1])])
        .expect("it is valid");
    let policy = &mut *bound.policies[0];
    assert_eq!(pick(policy, 2, &[0]), Ok(vec![Pick::Backend(0)]));
    policy.closed(
        SERVICE,
        &[Closed {
            backend: 1,
            duration_ms: 1,
            bytes: 100,
            end: End::Closed,
        }; 100],
    );
    assert_eq!(pick(policy, 2, &[0]), Ok(vec![Pick::Backend(1)]));
}

/// Each call ends long before its budget does; all of them together would take the worker.
#[test]
fn a_module_that_has_used_its_share_of_the_worker_is_left_to_the_fallback() {
    let spins = "(local $n i32)
                 (loop $again
                   (local.set $n (i32.add (local.get $n) (i32.const 1)))
                   (br_if $again (i32.lt_u (local.get $n) (i32.const 30000))))
                 (local.get 1)";
    for (share_percent, is_limited) in [(1, true), (0, false)] {
        let options = HostOptions {
            share_percent,
            ..HostOptions::default()
        };
        let (host, events) = host_with(options, &[("test", Wat::picking(spins).shipped())], None);
        let mut bound = host
            .bind("test", 1, 1, &[service(&[1, 1])])
            .expect("it passes vetting");
        let start = Instant::now();
        let mut left = 0;
        while left == 0 && start.elapsed() < Duration::from_secs(if is_limited { 30 } else { 1 }) {
            let picks = pick(&mut *bound.policies[0], 2, &[1, 2, 3]).expect("no fault");
            left = bound.in_use.module.counters.over_share_flows();
            assert_eq!(left > 0, picks == [Pick::Fallback; 3]);
        }
        assert_eq!(left, if is_limited { 3 } else { 0 });
        assert!(events.try_recv().is_err(), "it is no fault");
    }
}
