//! What happens to a policy's state when backends change.

use std::sync::mpsc::Receiver;

use waxwing_dataplane::{Pick, Policy, PolicyFault, ServiceId};
use waxwing_plugin::{Host, HostEvent, ServiceBinding};
use waxwing_tests::wat::Wat;

use crate::common::{host, inherit, pick, service};

/// Picks the backend whose index is the number of picks so far, plus what is at 36.
const COUNTS: Wat = Wat {
    section: "kind=policy\\0aabi=1.0\\0aname=test\\0akeep=1\\0a",
    pick: "(i32.store (i32.const 0x4000)
             (i32.add (i32.load (i32.const 32)) (i32.load (i32.const 36))))
           (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1)))
           (local.get 1)",
    ..Wat::GOOD
};

/// Returns `waxwing_backends_changed` with this body.
fn changed(body: &str) -> &'static str {
    let export = "(export \"waxwing_backends_changed\")";
    format!("(func {export} (param i32) (result i32) {body})").leak()
}

/// As [`changed`], for calls after the first, which accepts.
fn later(body: &str) -> &'static str {
    changed(&format!(
        "(if (result i32) (i32.load (i32.const 40)) (then {body})
           (else (i32.store (i32.const 40) (i32.const 1)) (i32.const 1)))"
    ))
}

struct Run {
    host: Host,
    events: Receiver<HostEvent>,
}

impl Run {
    fn of(wat: Wat) -> Self {
        let (host, events) = host(&[("test", wat.shipped())], None);
        Self { host, events }
    }

    fn bind(&self, services: &[ServiceBinding]) -> Box<dyn Policy> {
        let bound = self.host.bind("test", 1, 1, services).expect("it is valid");
        bound.policies.into_iter().next().expect("one")
    }
}

fn next(policy: &mut Box<dyn Policy>, backends: u32) -> Result<Pick, PolicyFault> {
    pick(&mut **policy, backends, &[0]).map(|picks| picks[0])
}

/// Changes a service with nine backends, after two picks. Returns the next pick, and the faults.
fn pick_after(wat: Wat, weights: &[u32], config: &str) -> (Pick, Vec<HostEvent>) {
    let run = Run::of(wat);
    let mut old = run.bind(&[service(&[1; 9])]);
    assert_eq!(next(&mut old, 9), Ok(Pick::Backend(0)));
    assert_eq!(next(&mut old, 9), Ok(Pick::Backend(1)));
    let mut after = service(weights);
    after.config_json = config.into();
    let mut new = run.bind(&[after]);
    let count = u32::try_from(weights.len()).expect("few");
    inherit(&mut *new, &mut *old, count);
    let picked = next(&mut new, count).expect("a pick");
    let old_serves = next(&mut old, 9) != Err(PolicyFault::Disabled);
    assert_eq!(
        old_serves,
        picked == Pick::Backend(0),
        "a guest has one owner"
    );
    (picked, run.events.try_iter().collect())
}

#[test]
fn state_goes_on_over_changes_of_backends() {
    let accepts = Wat {
        more: changed("(i32.const 1)"),
        ..COUNTS
    };
    let unchanged = Wat {
        more: later("(unreachable)"),
        ..COUNTS
    };
    for (what, wat, weights) in [
        ("without the call", COUNTS, vec![2; 9]),
        ("a module that accepts", accepts, vec![2; 9]),
        ("no change", unchanged, vec![1; 9]),
        ("more backends", accepts, vec![1; 60]),
        ("as many as it has room for", roomy(), vec![1; 64]),
    ] {
        let (picked, faults) = pick_after(wat, &weights, "{}");
        assert_eq!(picked, Pick::Backend(2), "{what}");
        assert!(faults.is_empty(), "{what}: {faults:?}");
    }
}

#[test]
fn a_new_instance_serves_where_the_abi_says_so() {
    let without_keep = Wat {
        section: "kind=policy\\0aabi=1.0\\0aname=test\\0a",
        more: changed("(i32.const 1)"),
        ..COUNTS
    };
    let refuses = Wat {
        more: later("(i32.const 0)"),
        ..COUNTS
    };
    for (what, wat, weights, config) in [
        ("it refuses", refuses, vec![2; 9], "{}"),
        ("another config", COUNTS, vec![1; 9], r#"{"a":1}"#),
        ("more backends than room", roomy(), vec![1; 65], "{}"),
        ("not to be kept", without_keep, vec![2; 9], "{}"),
    ] {
        let (picked, faults) = pick_after(wat, &weights, config);
        assert_eq!(picked, Pick::Backend(0), "{what}");
        assert!(faults.is_empty(), "{what}: {faults:?}");
    }
}

#[test]
fn a_call_that_traps_is_a_fault_that_needs_no_recovery() {
    let traps = Wat {
        more: later("(unreachable)"),
        ..COUNTS
    };
    let (picked, faults) = pick_after(traps, &[2; 9], "{}");
    assert_eq!(picked, Pick::Backend(0));
    let [HostEvent::Fault(report)] = &faults[..] else {
        panic!("not one fault: {faults:?}");
    };
    assert!(
        report.replaced && report.text.contains("trapped"),
        "{report:?}"
    );
}

/// Has room for as many backends as it is asked for.
fn roomy() -> Wat {
    let mut wat = Wat {
        init: "(i32.store offset=44 (i32.const 0x1000) (local.get 1)) (i32.const 0x1000)",
        ..COUNTS
    };
    wat.set(40, 0x8000);
    wat
}

#[test]
fn a_changed_backend_is_told_with_its_live_numbers() {
    // The next pick is the weight and the sessions of backend 5, at offsets 16 and 20 of its record.
    let run = Run::of(Wat {
        more: changed(
            "(i32.store (i32.const 36)
               (i32.add (i32.load (i32.const 0x2150)) (i32.load (i32.const 0x2154))))
             (i32.store (i32.const 32) (i32.const 0)) (i32.const 1)",
        ),
        ..COUNTS
    });
    let mut old = run.bind(&[service(&[1; 9])]);
    let mut new = run.bind(&[service(&[2; 9])]);
    inherit(&mut *new, &mut *old, 9);
    assert_eq!(next(&mut new, 9), Ok(Pick::Backend(7)));
}

#[test]
fn of_many_services_only_the_changed_ones_are_told() {
    // Picks the number of calls.
    let mut wat = Wat {
        pick: "(i32.store (i32.const 0x4000) (i32.load (i32.const 36))) (local.get 1)",
        more: changed(
            "(i32.store (i32.const 36) (i32.add (i32.load (i32.const 36)) (i32.const 1)))
             (i32.const 1)",
        ),
        ..COUNTS
    };
    wat.set(40, 0x8000);
    wat.set(44, 128);
    let run = Run::of(wat);
    let services = |weight: u32, changed: usize| -> Vec<ServiceBinding> {
        let one = |id: u32| ServiceBinding {
            service: ServiceId(id),
            ..service(
                &[if (id as usize) < 3 + changed {
                    weight
                } else {
                    1
                }; 63],
            )
        };
        (3..43).map(one).collect()
    };
    for (changed, expected) in [(1, 41), (32, 0), (33, 40)] {
        let mut old = run.bind(&services(1, 0));
        let mut new = run.bind(&services(2, changed));
        inherit(&mut *new, &mut *old, 63);
        // 40 services were set up; a new instance starts with 40 calls as well.
        let picked = next(&mut new, 63);
        match changed {
            32 => assert!(picked.is_err(), "72 of 63 backends: {picked:?}"),
            _ => assert_eq!(picked, Ok(Pick::Backend(expected)), "{changed} changed"),
        }
    }
}
