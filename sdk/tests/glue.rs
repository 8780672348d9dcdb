//! The path from records to a policy and back.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::IpAddr;

use serde::Deserialize;
use waxwing_sdk::abi::{BACKEND_HEALTHY, FLOW_MID_STREAM};
use waxwing_sdk::testing::{self, Driver};
use waxwing_sdk::{
    Backend, Backends, ClosedSession, ConfigError, Flow, NoConfig, Pick, Policy, Protocol,
    export_policy,
};

/// Picks the backend that the first payload byte names, and records its notifications.
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
    const PAYLOAD_BYTES: usize = 4;
    const WANTS_CLOSED: bool = true;

    fn new(config: Config, _: &Backends<'_>) -> Result<Self, ConfigError> {
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
                backends.available().min_by_key(Backend::load).into()
            }
            _ => Pick::Fallback,
        }
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        if self.refuse_three && backends.len() == 3 {
            return Err("three is too many".into());
        }
        Ok(())
    }

    fn closed(&mut self, closed: &ClosedSession<'_>, _: &Backends<'_>) {
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
fn payload_is_truncated_and_never_that_of_another_flow() {
    let mut driver = driver("");
    assert_eq!(driver.pick(&[flow("drop me")]), [Pick::Drop]);
    // The buffer still holds the previous flow's bytes; this flow has none.
    assert_eq!(driver.pick(&[flow("")]), [Pick::Fallback]);
}

#[test]
fn picks_count_earlier_picks_of_the_batch() {
    let mut driver = driver("{}");
    let picks = driver.pick(&[flow("aaaaaa"), flow("aaaa"), flow("aaaa"), flow("aaaa")]);
    assert_eq!(picks, [0, 1, 2, 0].map(Pick::Backend));
    assert_eq!(driver.loads(), [2, 1, 1]);
}

#[test]
fn draining_unhealthy_and_zero_weight_backends_are_unavailable() {
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
fn a_policy_gets_closed_sessions_and_ticks() {
    let mut driver = driver(r#"{"start": {"ticks": 1}}"#);
    driver.backends_mut()[0].active = 1;
    driver.close(0, 2);
    assert_eq!(driver.pick(&[flow("c")]), [Pick::Backend(2)]);
    driver.tick(100);
    assert_eq!(driver.pick(&[flow("t")]), [Pick::Backend(2)]);
    assert_eq!(driver.host_mut().now_ms, 100);
}

#[test]
#[should_panic(expected = "the policy picked backend 7 of 3")]
fn an_index_out_of_range_panics() {
    let mut driver = driver("{}");
    driver.backends_mut()[0].active = 1;
    driver.close(0, 7);
    driver.pick(&[flow("c")]);
}

#[test]
fn config_errors_name_the_field_and_what_is_expected() {
    let cases = r#"
        {"startt": 1} => unknown field `startt`, expected `start` or `refuse_three`
        {"start": {"ticks": "x"}} => policy_config.start.ticks: invalid type: string
        {"start": {"ticks": 256}} => expected u8
        {} {} => policy_config: trailing characters
        { => policy_config: EOF
    "#;
    testing::assert_config_errors(cases, |config| {
        Driver::<ByFirstByte>::start(config, &[], 1).err().unwrap()
    });
}

#[test]
fn a_policy_keeps_its_state_unless_it_refuses_changed_backends() {
    let mut driver = driver(r#"{"refuse_three": true}"#);
    driver.tick(100);
    driver.set_backends(&testing::backends(&[1, 1])).unwrap();
    assert_eq!(driver.pick(&[flow("t")]), [Pick::Backend(1)], "kept");
    driver.set_backends(&testing::backends(&[1, 1, 1])).unwrap();
    assert_eq!(
        driver.pick(&[flow("t")]),
        [Pick::Backend(0)],
        "a new policy"
    );
    assert_eq!(driver.host_mut().now_ms, 100);
}

#[test]
fn a_policy_that_does_not_take_over_changed_backends_is_made_anew() {
    /// Picks the first available backend of when it was made.
    struct First(Option<usize>);

    impl Policy for First {
        type Config = NoConfig;

        fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
            if backends.len() > 3 {
                return Err("four is too many".into());
            }
            let first = backends.available().next();
            Ok(Self(first.map(|backend| backend.index())))
        }

        fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
            self.0.map_or(Pick::Fallback, Pick::Backend)
        }
    }

    let mut driver = Driver::<First>::start("{}", &testing::backends(&[1, 1]), 1).unwrap();
    assert_eq!(driver.pick(&[flow("")]), [Pick::Backend(0)]);
    driver.set_backends(&testing::backends(&[0, 1])).unwrap();
    assert_eq!(driver.pick(&[flow("")]), [Pick::Backend(1)]);
    let error = driver
        .set_backends(&testing::backends(&[1; 4]))
        .unwrap_err();
    assert_eq!(error.reason(), "four is too many");
    assert_eq!(driver.pick(&[flow("")]), [Pick::Backend(1)], "it serves on");
}

/// Checks the flow's fields.
struct ChecksFlow;

impl Policy for ChecksFlow {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
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
fn a_flow_has_its_records_values() {
    let mut driver = Driver::<ChecksFlow>::start("{}", &[], 1).unwrap();
    let flows = ["192.0.2.1", "2001:db8::1"].map(|address| {
        let mut flow = flow("ignored").from_address(address.parse().unwrap());
        flow.record.flags = FLOW_MID_STREAM;
        flow
    });
    assert_eq!(driver.pick(&flows), [Pick::Drop; 2]);
    assert!(Driver::<ChecksFlow>::start(r#"{"x": 1}"#, &[], 1).is_err());
}

/// Weighted rendezvous.
struct Rendezvous;

impl Policy for Rendezvous {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        backends.by_hash(flow.hash()).into()
    }
}

#[test]
fn by_hash_follows_weights_and_moves_only_flows_of_the_removed_backend() {
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
