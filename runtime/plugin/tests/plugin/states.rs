//! State goes on in the instances that take the place of others.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use waxwing_dataplane::policy::TickContext;
use waxwing_dataplane::{Gauges, Now, Pick, Policy};
use waxwing_plugin::{BoundModule, BuildsInUse, Host, SavedState, ServiceBinding};
use waxwing_tests::wat::Wat;

use crate::common::{host, inherit, pick, service, snapshot};

/// Picks backend 0, 1, 2 and so on; how many it has picked, at 0x6000, is its state.
const COUNTS: &str = "
    (i32.store (i32.const 0x4000) (i32.load (i32.const 0x6000)))
    (i32.store (i32.const 0x6000) (i32.add (i32.load (i32.const 0x6000)) (i32.const 1)))
    (local.get 1)";

const SAVES: &str = "kind=policy\\0aabi=1.1\\0aname=test\\0akeep=1\\0asaves=1\\0a";

const SAVE: &str = "(func (export \"waxwing_save\") (param i32) (result i64)
      (i64.const 0x600000000008))";

/// A counter with this body of `waxwing_restore`, and these further functions.
fn counter(restore: &str, more: &str) -> Wat {
    Wat {
        section: SAVES,
        pick: COUNTS,
        more: format!(
            "(func (export \"waxwing_restore\") (param i32 i32) (result i32) {restore}) {more}"
        )
        .leak(),
        ..Wat::GOOD
    }
}

const RESTORE: &str = "(i64.store (i32.const 0x6000) (i64.load (i32.const 0x5000))) (i32.const 1)";

struct Bed {
    host: Host,
    bound: BoundModule,
    services: Vec<ServiceBinding>,
}

impl Bed {
    fn new(module: &Wat, workers: u32) -> Self {
        let (host, _events) = host(&[("test", module.shipped())], None);
        let services = vec![service(&[1; 64])];
        let bound = host
            .bind("test", workers, 1, &services)
            .expect("it is valid");
        host.activate(&bound.in_use.module, false);
        Self {
            host,
            bound,
            services,
        }
    }

    /// Picks once on a worker.
    fn next(&mut self, worker: usize) -> u32 {
        match pick(&mut *self.bound.policies[worker], 64, &[1]).expect("picks")[0] {
            Pick::Backend(index) => index,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the workers turn while another thread does something.
    fn meanwhile<T: Send>(&mut self, work: impl FnOnce(&Host, &BuildsInUse) -> T + Send) -> T {
        let (host, bound) = (&self.host, &mut self.bound);
        let in_use = bound.in_use.clone();
        let start = Instant::now();
        thread::scope(|scope| {
            let work = scope.spawn(|| work(host, &in_use));
            while !work.is_finished() {
                for policy in &mut bound.policies {
                    policy.tick(TickContext {
                        now: Now::from_start(start.elapsed() + Duration::from_millis(20)),
                        snapshot: &snapshot(64),
                        gauges: &Gauges::new(64, 1),
                    });
                }
                thread::sleep(Duration::from_millis(1));
            }
            work.join().expect("it does not panic")
        })
    }

    /// Gives the service another config, or other backends, for so many workers.
    fn change(&mut self, change: impl FnOnce(&mut ServiceBinding), workers: u32) {
        let mut services = self.services.clone();
        change(&mut services[0]);
        let new = self.meanwhile(|host, before| {
            host.bind_or_fall_back("test", workers, 1, &services, Some(before))
                .expect("it serves")
        });
        self.services = services;
        let mut old = std::mem::replace(&mut self.bound, new);
        for (new, old) in self.bound.policies.iter_mut().zip(&mut old.policies) {
            inherit(&mut **new, &mut **old, 64);
        }
    }
}

fn other_config(service: &mut ServiceBinding) {
    service.config_json += " ";
}

#[test]
fn each_workers_state_goes_on_over_a_changed_config() {
    let mut bed = Bed::new(&counter(RESTORE, SAVE), 2);
    for expected in [0, 1, 2] {
        assert_eq!(bed.next(0), expected);
    }
    assert_eq!(bed.next(1), 0);
    for turn in 0..5 {
        bed.change(other_config, 2);
        assert_eq!((bed.next(0), bed.next(1)), (3 + turn, 1 + turn));
    }
    // Without the functions all is lost.
    let mut bed = Bed::new(&Wat::picking(COUNTS), 1);
    assert_eq!((bed.next(0), bed.next(0)), (0, 1));
    bed.change(other_config, 1);
    assert_eq!(bed.next(0), 0);
}

#[test]
fn an_instance_that_serves_on_is_not_asked() {
    let traps = SAVE.replace("(i64.const", &format!("{WORST_AT_WORK} (i64.const"));
    let mut bed = Bed::new(&counter(RESTORE, &traps), 1);
    assert_eq!(bed.next(0), 0);
    bed.change(|service| service.backends[0].weight = 2, 1);
    assert_eq!(bed.next(0), 1);
    // One that is asked traps, and the new one starts afresh.
    bed.change(other_config, 1);
    assert_eq!(bed.next(0), 0);
}

/// Traps in instances that serve, not on test flows.
const WORST_AT_WORK: &str =
    "(if (i64.ne (i64.load (i32.const 0x1008)) (i64.const 0)) (then unreachable))";

#[test]
fn a_state_that_is_refused_is_left_and_the_service_goes_on() {
    for restore in [
        "(i32.const 0)",
        "(i64.store (i32.const 0x6000) (i64.const 9)) (i32.const 0)",
    ] {
        let mut bed = Bed::new(&counter(restore, SAVE), 2);
        assert_eq!((bed.next(0), bed.next(0)), (0, 1));
        bed.change(other_config, 2);
        // What it did to its memory before it refused is its own affair.
        let first = if restore.contains('9') { 9 } else { 0 };
        assert_eq!((bed.next(0), bed.next(1)), (first, first));
    }
}

#[test]
fn a_failure_with_a_state_makes_the_instance_afresh() {
    for worst in ["unreachable", "(loop $l (br $l))"] {
        let restore = WORST_AT_WORK.replace("unreachable", worst) + RESTORE;
        let mut bed = Bed::new(&counter(&restore, SAVE), 2);
        assert_eq!((bed.next(0), bed.next(0)), (0, 1));
        bed.change(other_config, 2);
        assert_eq!((bed.next(0), bed.next(1)), (0, 0), "{worst}");
    }
}

#[test]
fn states_survive_a_restart_with_another_number_of_workers() {
    let module = counter(RESTORE, SAVE);
    let mut bed = Bed::new(&module, 2);
    for _ in 0..5 {
        bed.next(0);
    }
    bed.next(1);
    let states = bed.meanwhile(|host, before| host.save(before, 2));
    assert_eq!(states.len(), 2);

    let (host, _events) = host(&[("test", module.shipped())], None);
    // What a stranger wrote is not used.
    let odd = SavedState {
        service: "other".into(),
        worker: 70_000,
        state: Arc::new([1; 3]),
    };
    host.start_with("test", states.into_iter().chain([odd]).collect());
    host.bind("test", 1, 1, &[service(&[1; 64])])
        .expect("a check, which starts nothing");
    let mut bound = host
        .bind_or_fall_back("test", 3, 1, &[service(&[1; 64])], None)
        .expect("it is valid");
    let first = |policy: &mut Box<dyn Policy>| pick(&mut **policy, 64, &[1]).expect("picks")[0];
    let picks: Vec<Pick> = bound.policies.iter_mut().map(first).collect();
    assert_eq!(picks, [5, 1, 5].map(Pick::Backend));
}
