#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use waxwing_sdk::ConfigError;
use waxwing_sdk::abi::PROTOCOL_UDP;
use waxwing_sdk::testing::{self, Driver, TestFlow};

use super::*;

/// Makes a driver with two backends for each of the tags 0, 1 and 2.
fn driver(config: &str) -> Result<Driver<DnsName>, ConfigError> {
    let mut backends = testing::backends(&[1; 6]);
    for (backend, tag) in backends.iter_mut().zip([0, 0, 1, 1, 2, 2]) {
        backend.tag = tag;
    }
    Driver::start(config, &backends, 1)
}

/// A header that announces one question.
const QUERY: [u8; 12] = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// Returns a query for the A record of a name.
fn query(name: &str) -> Vec<u8> {
    let mut payload = QUERY.to_vec();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        payload.push(u8::try_from(label.len()).unwrap());
        payload.extend(label.as_bytes());
    }
    payload.extend([0, 0, 1, 0, 1]);
    payload
}

/// Returns the nth flow, over UDP, with this payload.
fn flow(n: usize, payload: &[u8]) -> TestFlow {
    let mut flow = testing::flows(1).nth(n).unwrap().with_payload(payload);
    flow.record.protocol = PROTOCOL_UDP;
    flow
}

/// Returns the pick for twenty flows with this payload; `None` if the picks differ.
fn pick(driver: &mut Driver<DnsName>, payload: &[u8]) -> Option<Pick> {
    let flows: Vec<_> = (0..20).map(|n| flow(n, payload)).collect();
    let picks = driver.pick(&flows);
    picks
        .iter()
        .all(|pick| *pick == picks[0])
        .then_some(picks[0])
}

fn tag(driver: &mut Driver<DnsName>, name: &str) -> usize {
    match pick(driver, &query(name)) {
        Some(Pick::Backend(index)) => index / 2,
        other => panic!("{name}: {other:?}"),
    }
}

const CONFIG: &str = r#"{"suffixes": {"example.com": 1, "Internal.example.com.": 2, "org": 2},
    "default": 0}"#;

#[test]
fn the_longest_suffix_of_whole_labels_wins() {
    let mut driver = driver(CONFIG).unwrap();
    for (name, expected) in [
        ("example.com", 1),
        ("www.example.com", 1),
        ("WWW.eXample.COM", 1),
        ("a.b.c.d.e.f.g.h.i.j.k.example.com", 1),
        ("internal.example.com", 2),
        ("db.internal.example.com", 2),
        ("notexample.com", 0),
        ("example.com.net", 0),
        ("com", 0),
        ("org", 2),
        ("", 0),
    ] {
        assert_eq!(tag(&mut driver, name), expected, "{name:?}");
    }
    assert_eq!(driver.counters(), [140, 80, 0]);
}

#[test]
fn a_name_stays_on_one_backend_in_any_case_and_names_spread() {
    let mut driver = driver("{}").unwrap();
    let mut picks = Vec::new();
    for n in 0..600 {
        let name = format!("host-{n}.example.net");
        let lower = pick(&mut driver, &query(&name));
        // Resolvers vary the case of a query as a nonce.
        assert_eq!(lower, pick(&mut driver, &query(&name.to_uppercase())));
        picks.push(lower.unwrap());
    }
    let over = testing::overload(&testing::counts(&picks, 6), &[1; 6]);
    assert!(over < 0.35, "the fullest is {over} over the mean");
}

#[test]
fn names_of_a_tag_without_backends_go_to_any_backend() {
    let mut driver = driver(r#"{"suffixes": {"com": 7}}"#).unwrap();
    assert!(pick(&mut driver, &query("example.com")).is_some());
    driver.set_backends(&testing::backends(&[0])).unwrap();
    assert_eq!(
        pick(&mut driver, &query("example.com")),
        Some(Pick::Fallback)
    );
}

#[test]
fn payloads_that_are_not_queries_are_picked_or_dropped() {
    let mut response = query("example.com");
    response[2] |= 0x80;
    let mut two_questions = query("example.com");
    two_questions[5] = 2;
    let malformed = [
        &[][..],
        &QUERY[..11],
        &QUERY,
        &response,
        &two_questions,
        // A pointer to itself, a pointer after a label, a reserved label type.
        &[&QUERY[..], &[0xc0, 12]].concat(),
        &[&QUERY[..], &[1, b'a', 0xc0, 12]].concat(),
        &[&QUERY[..], &[0x40, 0]].concat(),
        // A label shorter than its length, and a name without a root.
        &[&QUERY[..], &[5, b'a']].concat(),
        &[&QUERY[..], &[1, b'a']].concat(),
    ];
    let mut drops = driver(r#"{"malformed": "drop"}"#).unwrap();
    let mut picks = driver("{}").unwrap();
    for payload in malformed {
        assert_eq!(pick(&mut drops, payload), Some(Pick::Drop), "{payload:x?}");
        assert_eq!(pick(&mut picks, payload), None, "{payload:x?}: by the flow");
    }
    assert_eq!(drops.counters(), [0, 0, 20 * malformed.len() as u64]);
}

#[test]
fn a_truncated_name_matches_no_suffix_and_hashes_by_its_start() {
    let mut driver = driver(CONFIG).unwrap();
    for label in [1, 2, 50, 63] {
        let long = format!(
            "{}.example.com",
            vec!["x".repeat(label); 200 / (label + 1)].join(".")
        );
        let payload = query(&long);
        assert!(payload.len() > 128);
        assert_eq!(tag(&mut driver, &long), 0, "labels of {label}");
        // Truncated at every byte, and garbage from every byte on: no panic.
        for at in 12..128 {
            driver.pick(&[flow(0, &payload[..at])]);
            let garbage: Vec<u8> = (0..128)
                .map(|n| if n < at { payload[n] } else { 0x3f })
                .collect();
            driver.pick(&[flow(0, &garbage)]);
        }
    }
    assert!(pick(&mut driver, &[&QUERY[..], &[1; 116]].concat()).is_some());
}

#[test]
fn tcp_connections_are_hashed_by_flow() {
    let mut driver = driver(r#"{"default": 2, "malformed": "drop"}"#).unwrap();
    let picks = driver.pick_all(testing::flows(1).take(400));
    assert!(testing::counts(&picks, 6)[4..].iter().all(|n| *n > 150));
}

#[test]
fn config_errors_say_what_to_write() {
    let long = format!(r#"{{"suffixes": {{"{}.com": 1}}}}"#, "x".repeat(64));
    let cases = r#"
        {"suffixes": {"*.example.com": 1}} => write no *
        {"suffixes": {".example.com": 1}} => like example.com
        {"suffixes": {"": 1}} => like example.com
        {"suffixes": {"münchen.de": 1}} => xn--
        {"suffixes": {"a.b.c.d.e.f.g.h.i": 1}} => 9 labels; at most 8
        {"suffixes": {"a.com": 1, "A.com.": 1}} => two spellings
        {"malformed": "ignore"} => expected `pick` or `drop`
        {"suffix": {}} => unknown field `suffix`
    "#;
    let cases = format!("{cases}{long} => 1 to 63 bytes");
    testing::assert_config_errors(&cases, |config| driver(config).err().unwrap());
}
