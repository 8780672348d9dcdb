//! What a module does wrong costs its batch the fallback, and tells the operator what it was.

use std::time::{Duration, Instant};

use crate::common::{PICK_NINE, SERVICE, Wat, host, pick, service};
use waxwing_dataplane::policy::{Closed, End};
use waxwing_dataplane::{Pick, PolicyFault};
use waxwing_plugin::{Event, Recovery};

/// Good until the eighth call, by a counter at address 16: vetting makes six.
macro_rules! good_until_the_eighth_call {
    ($then:literal) => {
        concat!(
            "(i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
             (if (i32.ge_u (i32.load (i32.const 16)) (i32.const 8)) (then ",
            $then,
            ")) (local.get 1)"
        )
    };
}

fn refused(wat: &Wat) -> String {
    let (host, _events) = host(&[("test", wat.shipped())], None);
    match host.bind("test", 1, 1, &[service(&[1, 1])]) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_good_module_picks() {
    let (host, _events) = host(&[("test", Wat::default().shipped())], None);
    let mut bound = host
        .bind("test", 2, 1, &[service(&[1, 1, 1])])
        .expect("it is good");
    host.put_to_work(&bound.module, false);
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
fn a_backend_that_drains_is_never_picked() {
    let (host, _events) = host(&[("test", Wat::default().shipped())], None);
    let mut bound = host
        .bind("test", 1, 1, &[service(&[1, 0])])
        .expect("it is good");
    let picks = pick(&mut *bound.policies[0], 2, &[0, 1]).expect("picks");
    assert_eq!(picks, [Pick::Backend(0), Pick::Fallback]);
    assert!(bound.module.counters.unavailable_picks() > 0);
}

#[test]
fn a_module_that_fails_at_work_is_disabled_and_reported() {
    let cases = [
        (
            good_until_the_eighth_call!("(loop $l (br $l))"),
            PolicyFault::Overrun,
            "time budget",
        ),
        (
            good_until_the_eighth_call!("unreachable"),
            PolicyFault::Trap,
            "instruction executed: on purpose",
        ),
        (
            good_until_the_eighth_call!("(i32.store (i32.const 0x4000) (i32.const 9))"),
            PolicyFault::BadAnswer,
            "chose backend 9 of 2",
        ),
        (
            good_until_the_eighth_call!("(return (i32.const 5))"),
            PolicyFault::BadAnswer,
            "answered 5",
        ),
    ];
    for (body, fault, expected) in cases {
        let wat = Wat {
            pick: body,
            more: "(data (i32.const 0x6000) \"on\\npurpose\")
                   (func (export \"waxwing_error\") (result i64) (i64.const 0x60000000000a))",
            ..Wat::default()
        };
        let (host, events) = host(&[("test", wat.shipped())], None);
        let mut bound = host
            .bind("test", 1, 1, &[service(&[1, 1])])
            .expect("it passes vetting");
        host.put_to_work(&bound.module, false);
        let policy = &mut *bound.policies[0];
        let start = Instant::now();
        let found = (0..10).find_map(|_| pick(policy, 2, &[1]).err());
        assert_eq!(found, Some(fault), "{expected}");
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "it was cut in time"
        );
        assert_eq!(pick(policy, 2, &[1]), Err(PolicyFault::Disabled));
        let Ok(Event::Fault(report)) = events.try_recv() else {
            panic!("a report")
        };
        assert!(
            report.text.contains(expected),
            "{:?} lacks {expected:?}",
            report.text
        );
        assert_eq!((report.fault, &*report.service), (fault, "web"));
        assert_eq!(host.recover(&report), Recovery::Rebuild);
        assert_eq!(host.recover(&report), Recovery::Rebuild);
        assert_eq!(
            host.recover(&report),
            Recovery::Exhausted,
            "nothing to go back to"
        );
        let status = &host.status()[0];
        assert!(
            status
                .refused
                .as_ref()
                .is_some_and(|r| r.reason.contains("quarantined"))
        );
    }
}

#[test]
fn a_module_that_fails_on_test_flows_is_refused() {
    assert!(
        refused(&Wat::picking("(loop $l (br $l)) (local.get 1)")).contains("fails on test flows")
    );
    assert!(refused(&Wat::picking("unreachable")).contains("trapped"));
    assert!(refused(&Wat::picking(PICK_NINE)).contains("chose backend 9 of 2"));
    assert!(refused(&Wat::picking("(i32.const 0)")).contains("answered 0 for 1 flows"));
}

#[test]
fn a_module_that_fails_at_set_up_is_refused() {
    let init = |init| Wat {
        init,
        ..Wat::default()
    };
    let cases: &[(Wat, &str)] = &[
        (
            Wat {
                init: "(i32.const 0)",
                more: "(data (i32.const 0x6000) \"no `zone`\")
                       (func (export \"waxwing_error\") (result i64) (i64.const 0x600000000009))",
                ..Wat::default()
            },
            "refuses service web: no `zone`",
        ),
        (init("(i32.const 0)"), "it does not say why"),
        (init("unreachable"), "waxwing_init: trapped"),
        (
            init("(i32.const 0xfffff0)"),
            "the header at 0xfffff0 lies outside",
        ),
        (init("(i32.const 0x1004)"), "not a multiple of 8"),
        (
            Wat {
                reserve: "(i32.const 0x10000)",
                ..Wat::default()
            },
            "waxwing_reserve gave 0x10000",
        ),
        (
            Wat {
                reserve: "(i32.const -1)",
                ..Wat::default()
            },
            "outside of memory",
        ),
        (Wat::field(0, 2), "abi_major is 2"),
        (
            Wat::field(40, 0x2004),
            "backends at 0x2004 is not a multiple",
        ),
        (Wat::field(44, 1), "backends_capacity is 1"),
        (
            Wat::field(48, 0xfff8),
            "flows at 0xfff8 to 0x10ff8 lies outside",
        ),
        (Wat::field(48, 0x3fc0), "flows and picks overlap"),
        (Wat::field(64, 8), "payload_stride is 8"),
        (Wat::field(72, 63), "closed_capacity is 63"),
        (
            Wat {
                more: "(func $s unreachable) (start $s)",
                ..Wat::default()
            },
            "cannot be instantiated: trapped",
        ),
    ];
    for (wat, expected) in cases {
        let found = refused(wat);
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
}

/// Counts ended sessions at address 32, and their backends at 36; picks say whether 100 of
/// backend 1 were told.
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
fn ended_sessions_are_told_in_batches() {
    let mut wat = CLOSED;
    wat.set(72, 64);
    let (host, _events) = host(&[("test", wat.shipped())], None);
    let mut bound = host
        .bind("test", 1, 1, &[service(&[1, 1])])
        .expect("it is good");
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

#[test]
fn memory_and_recursion_are_bounded() {
    let grows = "(if (i32.ne (memory.grow (i32.const 20000)) (i32.const -1)) (then unreachable))
                 (i32.const 0x1000)";
    let memory = "(memory (export \"memory\") 1)";
    let wat = Wat {
        init: grows,
        memory,
        ..Wat::default()
    };
    let (host, _events) = host(&[("test", wat.shipped())], None);
    host.bind("test", 1, 1, &[service(&[1])])
        .expect("growing fails and the module goes on");
    let deep = Wat {
        more: "(func $f (call $f)) (start $f)",
        ..Wat::default()
    };
    assert!(refused(&deep).contains("stack"));
}
