//! Instances on different workers count together.

use std::time::Duration;

use waxwing_dataplane::policy::TickContext;
use waxwing_dataplane::{Gauges, Now, Pick, Policy};
use waxwing_plugin::{Host, ServiceBinding};
use waxwing_tests::wat::Wat;

use crate::common::{host, pick, service, snapshot};

/// Adds 1 to its only cell, and picks the backend whose index was the total. The total is at 0x7000.
fn counting(pick: &'static str) -> Wat {
    let mut wat = Wat {
        section: "kind=policy\\0aabi=1.1\\0aname=test\\0ashared=1\\0a",
        pick,
        ..Wat::GOOD
    };
    wat.set(88, 0x7000);
    wat
}

const COUNTS: &str = "
    (i64.store (i32.const 0x7008) (i64.add (i64.load (i32.const 0x7008)) (i64.const 1)))
    (i32.store (i32.const 0x4000) (i32.load (i32.const 0x7000)))
    (local.get 1)";

/// Picks the sum of the worker's number and ten times the number of workers.
const PLACE: &str = "
    (i32.store (i32.const 0x4000) (i32.add (i32.load16_u (i32.const 0x1024))
      (i32.mul (i32.const 10) (i32.load16_u (i32.const 0x1026)))))
    (local.get 1)";

fn bind(host: &Host, workers: u32, services: &[ServiceBinding]) -> Vec<Box<dyn Policy>> {
    let bound = host
        .bind("test", workers, 1, services)
        .expect("it is valid");
    host.activate(&bound.in_use.module, false);
    bound.policies
}

/// Picks once, with 64 backends.
fn next(policy: &mut Box<dyn Policy>) -> u32 {
    match pick(&mut **policy, 64, &[1]).expect("picks")[0] {
        Pick::Backend(index) => index,
        other => panic!("{other:?}"),
    }
}

/// Gives each worker a turn at this time.
fn pass(policies: &mut [Box<dyn Policy>], ms: u64) {
    for policy in policies {
        policy.tick(TickContext {
            now: Now::from_start(Duration::from_millis(ms)),
            snapshot: &snapshot(64),
            gauges: &Gauges::new(64, 1),
        });
    }
}

#[test]
fn what_workers_add_reaches_all_of_them_once() {
    let (host, _events) = host(&[("test", counting(COUNTS).shipped())], None);
    let services = [service(&[1; 64])];
    let mut workers = bind(&host, 3, &services);
    pass(&mut workers, 10);
    assert_eq!([0, 0, 1].map(|at| next(&mut workers[at])), [0, 0, 0]);
    pass(&mut workers, 15);
    assert_eq!(next(&mut workers[2]), 0, "within the same ten milliseconds");
    pass(&mut workers, 20);
    // The first had its turn before the others added theirs.
    pass(&mut workers, 30);
    assert_eq!([0, 1, 2].map(|at| next(&mut workers[at])), [4, 4, 4]);
    // The last additions of an instance count when it is dropped; a new one finds the totals.
    drop(workers.remove(0));
    let mut again = bind(&host, 1, &services);
    assert_eq!(next(&mut again[0]), 5);
    let other = ServiceBinding {
        config_json: r#"{"a":1}"#.into(),
        ..service(&[1; 64])
    };
    assert_eq!(next(&mut bind(&host, 1, &[other])[0]), 0, "another config");
    drop((workers, again));
    assert_eq!(next(&mut bind(&host, 1, &services)[0]), 0, "all had ended");
}

#[test]
fn a_policy_knows_its_worker_and_the_number_of_workers() {
    let (host, _events) = host(&[("test", counting(PLACE).shipped())], None);
    let mut workers = bind(&host, 3, &[service(&[1; 64])]);
    assert_eq!([0, 1, 2].map(|at| next(&mut workers[at])), [30, 31, 32]);
}
