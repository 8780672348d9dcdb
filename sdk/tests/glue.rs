//! The way from records to a policy and back.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::IpAddr;

use serde::Deserialize;
use waxwing_sdk::abi::{BACKEND_HEALTHY, FLOW_MID_STREAM};
use waxwing_sdk::testing::{self, Driver};
use waxwing_sdk::{
    Backend, Backends, Closed, Flow, NoConfig, Pick, Policy, Protocol, export_policy,
};

/// Goes to the backend that the first payload byte names, and notes what it is told.
struct ByFirstByte {
    refuse_three: bool,
    closed_ms: u64,
    ticks: usize,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Config {
    start: Start,
    refuse_three: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Start {
    ticks: u8,
}

impl Policy for ByFirstByte {
    type Config = Config;
    const PAYLOAD: usize = 4;
    const CLOSED: bool = true;

    fn new(config: Config, _: &Backends<'_>) -> Result<Self, String> {
        let ticks = usize::from(config.start.ticks);
        Ok(Self {
            refuse_three: config.refuse_three,
            closed_ms: 0,
            ticks,
        })
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        match flow.payload() {
            [b'd', ..] => Pick::Drop,
            [b'c', ..] => Pick::Backend(usize::try_from(self.closed_ms).unwrap()),
            [b't', ..] => Pick::Backend(self.ticks),
            [b'a', rest @ ..] if rest.len() == 3 => {
                backends.available().min_by_key(Backend::active).into()
            }
            _ => Pick::Fallback,
        }
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        if self.refuse_three && backends.len() == 3 {
            return Err("three is too many".to_string());
        }
        Ok(())
    }

    fn closed(&mut self, closed: &Closed<'_>, _: &Backends<'_>) {
        self.closed_ms += closed.duration_ms();
    }

    fn tick(&mut self, _: &Backends<'_>) {
        self.ticks += 1;
    }
}

export_policy!(ByFirstByte);

fn driver(config: &str) -> Driver<ByFirstByte> {
    Driver::start(config, &testing::backends(&[1, 1, 1]), 1).unwrap()
}

fn flow(payload: &str) -> testing::TestFlow {
    testing::flows(1)
        .next()
        .unwrap()
        .with_payload(payload.as_bytes())
}

#[test]
fn payload_is_cut_to_what_was_asked_for_and_never_left_over() {
    let mut driver = driver("");
    assert_eq!(driver.pick(&[flow("drop me")]), [Pick::Drop]);
    // The buffer still holds the last flow's bytes; this flow has none.
    assert_eq!(driver.pick(&[flow("")]), [Pick::Fallback]);
}

#[test]
fn picks_of_one_batch_see_one_another() {
    let mut driver = driver("{}");
    let picks = driver.pick(&[flow("aaaaaa"), flow("aaaa"), flow("aaaa"), flow("aaaa")]);
    assert_eq!(picks, [0, 1, 2, 0].map(Pick::Backend));
    assert_eq!(driver.backends_mut()[0].active, 2);
}

#[test]
fn draining_unhealthy_and_weightless_backends_are_not_available() {
    let mut driver = driver("{}");
    driver.backends_mut()[0].weight = 0;
    driver.backends_mut()[1].flags &= !BACKEND_HEALTHY;
    assert_eq!(
        driver.pick(&[flow("aaaa"), flow("aaaa")]),
        [2, 2].map(Pick::Backend)
    );
    driver.backends_mut()[2].flags = 0;
    assert_eq!(driver.pick(&[flow("aaaa")]), [Pick::Fallback]);
}

#[test]
fn closed_sessions_and_ticks_arrive() {
    let mut driver = driver(r#"{"start": {"ticks": 1}}"#);
    driver.close(0, 2);
    assert_eq!(driver.pick(&[flow("c")]), [Pick::Backend(2)]);
    driver.tick(100);
    assert_eq!(driver.pick(&[flow("t")]), [Pick::Backend(2)]);
    assert_eq!(driver.host().now_ms, 100);
}

#[test]
#[should_panic(expected = "the policy picked backend 7 of 3")]
fn an_index_out_of_range_says_so() {
    let mut driver = driver("{}");
    driver.close(0, 7);
    driver.pick(&[flow("c")]);
}

#[test]
fn a_wrong_config_names_the_field_and_what_is_expected() {
    let cases = [
        (
            r#"{"startt": 1}"#,
            "unknown field `startt`, expected `start` or `refuse_three`",
        ),
        (
            r#"{"start": {"ticks": "x"}}"#,
            "policy_config.start.ticks: invalid type: string",
        ),
        (r#"{"start": {"ticks": 256}}"#, "expected u8"),
        ("{} {}", "policy_config: trailing characters"),
        ("{", "policy_config: EOF"),
    ];
    for (config, expected) in cases {
        let error = Driver::<ByFirstByte>::start(config, &[], 1).err().unwrap();
        assert!(
            error.contains(expected),
            "{config}: {error:?} lacks {expected:?}"
        );
    }
}

#[test]
fn a_policy_may_refuse_a_change_of_backends_and_then_picks_nothing() {
    let mut driver = driver(r#"{"refuse_three": true}"#);
    driver.set_backends(&testing::backends(&[1, 1])).unwrap();
    let error = driver
        .set_backends(&testing::backends(&[1, 1, 1]))
        .unwrap_err();
    assert_eq!(error, "three is too many");
    assert_eq!(driver.pick(&[flow("aaaa")]), [Pick::Fallback]);
    assert!(driver.set_backends(&testing::backends(&[1])).is_err());
}

/// Checks what it sees of a flow.
struct Looks;

impl Policy for Looks {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, String> {
        Ok(Self)
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        assert_eq!(flow.destination().to_string(), "203.0.113.10:80");
        assert_eq!(flow.protocol(), Protocol::Tcp);
        assert!(flow.is_mid_stream());
        assert!(flow.payload().is_empty());
        match flow.source().ip() {
            IpAddr::V4(ip) => assert_eq!(ip.octets(), [192, 0, 2, 1]),
            IpAddr::V6(ip) => assert_eq!(ip.to_string(), "2001:db8::1"),
        }
        Pick::Drop
    }
}

#[test]
fn a_flow_shows_its_addresses() {
    let mut driver = Driver::<Looks>::start("{}", &[], 1).unwrap();
    let flows = ["192.0.2.1", "2001:db8::1"].map(|address| {
        let mut flow = flow("ignored").from_address(address.parse().unwrap());
        flow.record.flags = FLOW_MID_STREAM;
        flow
    });
    assert_eq!(driver.pick(&flows), [Pick::Drop; 2]);
    assert!(Driver::<Looks>::start(r#"{"x": 1}"#, &[], 1).is_err());
}

/// Weighted rendezvous.
struct Rendezvous;

impl Policy for Rendezvous {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, String> {
        Ok(Self)
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        backends.by_hash(flow.hash()).into()
    }
}

#[test]
fn by_hash_follows_weights_and_moves_only_what_it_must() {
    let weights = [1, 2, 3, 4];
    let before = testing::backends(&weights);
    let mut driver = Driver::<Rendezvous>::start("{}", &before, 1).unwrap();
    let old = driver.pick_all(testing::flows(3).take(100_000));
    assert!(testing::overload(&testing::counts(&old, 4), &weights) < 0.02);

    let mut after = testing::backends(&[1, 2, 3, 0]);
    after.reverse();
    driver.set_backends(&after).unwrap();
    let new = driver.pick_all(testing::flows(3).take(100_000));
    assert_eq!(testing::disruption((&old, &before), (&new, &after)), 0.0);
    assert_eq!(testing::counts(&new, 4)[0], 0);
}
