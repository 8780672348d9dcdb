#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use alloc::string::ToString;
use alloc::vec;

use super::*;

fn info() -> ModuleInfo {
    ModuleInfo {
        kind: Kind::Policy,
        abi_major: 1,
        abi_minor: 1,
        name: "by-token".to_string(),
        version: "0.2.0".to_string(),
        sdk: "waxwing-sdk 0.1.0".to_string(),
        payload: 24,
        tick_ms: 250,
        counters: vec!["spilled".to_string(), "kept_2".to_string()],
        gauges: vec!["clients".to_string()],
        keep: true,
        shared: 16,
        saves: true,
    }
}

#[test]
fn records_round_trip_through_bytes() {
    let host = HostFields {
        generation: 1,
        now_ms: u64::MAX,
        seed: 3,
        ..Default::default()
    };
    let header = Header {
        size: 96,
        host,
        closed_capacity: 7,
        ..Default::default()
    };
    let bytes = header.to_le_bytes();
    assert_eq!(Header::from_le_bytes(&bytes), header);
    assert_eq!(
        bytes[HOST_FIELDS_OFFSET..HOST_FIELDS_OFFSET + 32],
        host.to_le_bytes()
    );
    let backend = BackendRecord {
        key: 5,
        signals: [1, 2, 3, 4],
        ..Default::default()
    };
    assert_eq!(
        BackendRecord::from_le_bytes(&backend.to_le_bytes()),
        backend
    );
    assert_eq!(backend.to_le_bytes()[44..48], [1, 0, 0, 0]);
    let flow = FlowRecord {
        source: [9; 16],
        source_port: 0x1234,
        ..Default::default()
    };
    assert_eq!(FlowRecord::from_le_bytes(&flow.to_le_bytes()), flow);
    assert_eq!(flow.to_le_bytes()[40..42], [0x34, 0x12]);
}

#[test]
fn a_section_round_trips_through_text() {
    assert_eq!(ModuleInfo::parse(info().encode().as_bytes()), Ok(info()));
}

#[test]
fn parse_errors_say_what_is_expected() {
    let cases: [(&[u8], &str); 15] = [
        (b"", "no line `kind="),
        (b"kind=\x1b[2J\n", "control character '\\u{1b}'"),
        (b"kind=policy\r\n", "control character '\\r'"),
        (b"kind=cheese\n", "expected `policy`"),
        (b"kind=policy\nabi=one\n", "not a version"),
        (b"kind=policy\nabi=2.0\n", "made for ABI 2.0"),
        (
            b"kind=policy\nabi=1.2\n",
            "made for ABI 1.2; this host serves 1.0 to 1.1",
        ),
        (
            b"kind=policy\nabi=1.0\nname=x\npayload=129\n",
            "from 0 to 128",
        ),
        (
            b"kind=policy\nabi=1.0\nname=x\ntick=9\n",
            "from 10 to 60000, or 0",
        ),
        (
            b"kind=policy\nabi=1.0\nname=x\ncounters=a,a\n",
            "different names",
        ),
        (b"kind=policy\nabi=1.0\nname=x\ncounters=A\n", "of a-z"),
        (
            b"kind=policy\nabi=1.1\nname=x\ncounters=a\ngauges=a\n",
            "gauges=a; expected at most 16",
        ),
        (b"kind=policy\nabi=1.0\nname=x\nkeep=2\n", "expected 0 or 1"),
        (
            b"kind=policy\nabi=1.1\nname=x\nshared=65537\n",
            "from 0 to 65536",
        ),
        (b"\xff\xfe", "not UTF-8"),
    ];
    for (section, expected) in cases {
        let error = ModuleInfo::parse(section).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}
