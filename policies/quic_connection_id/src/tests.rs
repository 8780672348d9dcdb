#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use waxwing_sdk::abi::{BackendRecord, PROTOCOL_UDP};
use waxwing_sdk::testing::{self, Driver, TestFlow};

use super::*;

/// Returns backends of weight 1 with these tags.
fn backends(tags: &[u32]) -> Vec<BackendRecord> {
    let mut backends = testing::backends(&vec![1; tags.len()]);
    for (backend, tag) in backends.iter_mut().zip(tags) {
        backend.tag = *tag;
    }
    backends
}

fn driver(config: &str, tags: &[u32]) -> Driver<QuicConnectionId> {
    Driver::start(config, &backends(tags), 1).unwrap()
}

/// Returns flows of fifty clients with this payload.
fn clients(payload: &[u8]) -> Vec<TestFlow> {
    let over_udp = |mut flow: TestFlow| {
        flow.record.protocol = PROTOCOL_UDP;
        flow.with_payload(payload)
    };
    testing::flows(1).map(over_udp).take(50).collect()
}

/// Returns a connection id as a server makes it: a first byte, the server id, a nonce.
fn connection_id(server_id: &[u8], nonce: u64) -> Vec<u8> {
    [&[0x0c], server_id, &nonce.to_be_bytes()].concat()
}

/// Returns a 1-RTT packet: fixed bit, key phase and packet number under header protection.
fn short(connection_id: &[u8]) -> Vec<u8> {
    [&[0x4b], connection_id, b"protected payload"].concat()
}

/// Returns a long-header packet of this type.
fn long(packet_type: u8, version: u32, connection_id: &[u8]) -> Vec<u8> {
    let length = u8::try_from(connection_id.len()).unwrap();
    [
        &[0xc0 | packet_type << 4][..],
        &version.to_be_bytes(),
        &[length],
        connection_id,
        &[8, 1, 2, 3, 4, 5, 6, 7, 8],
        b"payload",
    ]
    .concat()
}

const TAGS: [u32; 4] = [0x0102_0304, 7, 0xffff_ffff, 0];

#[test]
fn a_connection_survives_a_change_of_the_clients_address() {
    let mut driver = driver("{}", &TAGS);
    for (at, tag) in TAGS.iter().enumerate().take(3) {
        // The handshake: the client's Initial is hashed by flow, later packets have the server's
        // id.
        let handshake = long(2, VERSION_1, &connection_id(&tag.to_be_bytes(), 1));
        assert_eq!(driver.pick(&clients(&handshake)), [Pick::Keep(at); 50]);
        // Later, from fifty other addresses, under another connection id of the same server.
        let migrated = short(&connection_id(&tag.to_be_bytes(), 2));
        assert_eq!(driver.pick(&clients(&migrated)), [Pick::Keep(at); 50]);
    }
    assert_eq!(driver.counters(), [300, 0, 0]);
}

const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

#[test]
fn a_new_connection_is_hashed_by_flow_and_cannot_choose_its_server() {
    let mut driver = driver("{}", &TAGS);
    let of_server_7 = connection_id(&7_u32.to_be_bytes(), 1);
    let by_flow = driver.pick(&clients(&[]));
    assert!(testing::counts(&by_flow, 4).iter().all(|n| *n > 0));
    for (what, payload) in [
        ("Initial", long(0, VERSION_1, &of_server_7)),
        ("0-RTT", long(1, VERSION_1, &of_server_7)),
        ("Initial of version 2", long(1, VERSION_2, &of_server_7)),
        ("0-RTT of version 2", long(2, VERSION_2, &of_server_7)),
        ("a version of its own", long(2, 0x0a0a_0a0a, &of_server_7)),
        (
            "an id that says it has none",
            short(&[0xec, 0, 0, 0, 7, 1, 2, 3]),
        ),
        ("a short packet", short(&[])[..1].to_vec()),
        (
            "an id that is cut off",
            long(2, VERSION_1, &of_server_7)[..9].to_vec(),
        ),
        (
            "an id that is too long",
            long(2, VERSION_1, &[&[1], &[0; 3][..], &[7; 20]].concat()),
        ),
        ("an id that is too short", long(2, VERSION_1, &[1, 0, 0, 0])),
        ("a version that is cut off", vec![0xc0, 0, 0]),
    ] {
        let unknown = driver.counters()[2];
        assert_eq!(driver.pick(&clients(&payload)), by_flow, "{what}");
        assert_eq!(driver.counters()[2], unknown, "{what}");
    }
    let handshake = long(3, VERSION_2, &of_server_7);
    assert_eq!(driver.pick(&clients(&handshake)), [Pick::Keep(1); 50]);
}

#[test]
fn an_unknown_server_id_is_hashed_by_flow_and_counted() {
    let mut driver = driver("{}", &TAGS);
    let by_flow = driver.pick(&clients(&[]));
    for id in [8_u32, 0] {
        let packet = short(&connection_id(&id.to_be_bytes(), 1));
        assert_eq!(driver.pick(&clients(&packet)), by_flow);
    }
    assert_eq!(driver.counters(), [0, 50, 100]);
}

#[test]
fn a_draining_server_keeps_its_connections_and_gets_no_new_ones() {
    let mut backends = backends(&TAGS);
    backends[1] = BackendRecord {
        tag: 7,
        ..testing::backend(1, 0)
    };
    let mut driver = Driver::<QuicConnectionId>::start("{}", &backends, 1).unwrap();
    let packet = short(&connection_id(&7_u32.to_be_bytes(), 1));
    assert_eq!(driver.pick(&clients(&packet)), [Pick::Keep(1); 50]);
    assert_eq!(testing::counts(&driver.pick(&clients(&[])), 4)[1], 0);
    backends[1].flags = 0;
    driver.set_backends(&backends).unwrap();
    assert_eq!(testing::counts(&driver.pick(&clients(&packet)), 4)[1], 0);
}

#[test]
fn server_ids_may_have_another_offset_and_be_listed() {
    let config = r#"{"server_id_offset": 3, "server_id_length": 2,
        "server_ids": {"00aF": 7, "beef": 7, "0001": 9}}"#;
    let mut driver = driver(config, &[9, 7]);
    for (id, at) in [([0, 0xaf], 1), ([0xbe, 0xef], 1), ([0, 1], 0)] {
        let packet = short(&[&[1, 2, 3], &id[..], &[4; 8]].concat());
        assert_eq!(driver.pick(&clients(&packet)), [Pick::Keep(at); 50]);
    }
    // Without a first byte every bit belongs to the server id.
    let config = r#"{"server_id_offset": 0, "server_id_length": 1}"#;
    let mut driver = self::driver(config, &[255, 1]);
    let picks = driver.pick(&clients(&short(&[255, 1])));
    assert_eq!(picks, [Pick::Keep(0); 50]);
}

#[test]
fn config_errors_say_what_to_write() {
    for (config, tags, expected) in [
        (r#"{"server_id_length": 16}"#, &[1][..], "expected 1 to 15"),
        (r#"{"server_id_length": 0}"#, &[1], "expected 1 to 15"),
        (r#"{"server_id_offset": 17}"#, &[1], "expected up to 16"),
        (
            r#"{"server_ids": {"0a": 1}}"#,
            &[1],
            "expected 8 hexadecimal digits",
        ),
        (
            r#"{"server_ids": {"+0000001": 1}}"#,
            &[1],
            "expected 8 hexadecimal digits",
        ),
        (
            r#"{"server_id_length": 1, "server_ids": {"0a": 1, "0A": 2}}"#,
            &[1, 2],
            "one id in two spellings: \"0a\"",
        ),
        (
            r#"{"server_id_length": 1}"#,
            &[256],
            "expected tags up to 255",
        ),
        ("{}", &[5, 0, 5], "two backends have tag 5"),
        (r#"{"offset": 1}"#, &[1], "unknown field `offset`"),
    ] {
        let error = Driver::<QuicConnectionId>::start(config, &backends(tags), 1)
            .err()
            .unwrap();
        assert!(error.reason().contains(expected), "{config}: {error}");
    }
    // Any number of backends may have no tag; a long id fits every tag.
    assert!(Driver::<QuicConnectionId>::start("{}", &backends(&[0, 0]), 1).is_ok());
    let config = r#"{"server_id_length": 15}"#;
    assert!(Driver::<QuicConnectionId>::start(config, &backends(&[u32::MAX]), 1).is_ok());
}
