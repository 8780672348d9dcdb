#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{SocketAddr, TcpListener, UdpSocket};

use waxwing_sdk::testing::{self, TestServer, serve_datagrams};

use super::*;

/// A change to a correct answer.
type Change = fn(Vec<u8>) -> Vec<u8>;

fn check(config: &str, address: SocketAddr) -> Result<Verdict, Unhealthy> {
    testing::check::<Dns>(config, address)
}

/// Returns a record with this type and data, whose name is a pointer to the question's.
fn record(kind: u8, data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).unwrap();
    [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 1, 0, 0, len], data].concat()
}

/// Returns the answer to a query: a CNAME and two addresses.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[7] = 3;
    // Names in all forms: a label before a pointer, and the root alone.
    answer.extend(record(5, b"\x03www\xc0\x0c"));
    answer.extend(record(1, &[192, 0, 2, 1]));
    answer.extend([1, b'x', 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 2]);
    answer
}

fn over_udp(config: &str, change: Change) -> Result<Verdict, Unhealthy> {
    check(
        config,
        serve_datagrams(move |query| vec![change(answer(query))]).unwrap(),
    )
}

/// As `over_udp`, over TCP: the server waits for the query.
fn over_tcp(config: &str, change: Change) -> Result<Verdict, Unhealthy> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept()?;
        let mut query = vec![0; 512];
        let count = client.read(&mut query)?;
        let message = change(answer(&query[2..count]));
        let len = u16::try_from(message.len()).unwrap().to_be_bytes();
        client.write_all(&len)?;
        client.write_all(&message)
    });
    check(&config.replacen('{', r#"{"tcp": true, "#, 1), address)
}

#[test]
fn an_answer_with_the_code_and_the_records_is_healthy() {
    let same: Change = |answer| answer;
    let refused: Change = |mut answer| {
        answer[3] |= 5;
        answer[7] = 0;
        answer
    };
    let bare_formerr: Change = |answer| {
        let id = &answer[..2];
        [id, &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]].concat()
    };
    let truncated: Change = |mut answer| {
        answer[2] |= 2;
        answer.truncate(answer.len() - 5);
        answer
    };
    let upper: Change = |mut answer| {
        answer[13..16].make_ascii_uppercase();
        answer
    };
    for (config, change, expected) in [
        (r#"{"name": "www.example"}"#, same, "NOERROR, 2 records"),
        (
            r#"{"name": "www.example.", "answers": 2}"#,
            same,
            "NOERROR, 2 records",
        ),
        (
            r#"{"name": "www.example", "type": "CNAME"}"#,
            same,
            "NOERROR, 1 record",
        ),
        (
            r#"{"name": "www.example", "type": "TYPE255"}"#,
            same,
            "NOERROR, 3 records",
        ),
        (r#"{"type": "A"}"#, same, "NOERROR, 2 records"),
        (r#"{"answers": 0}"#, same, "NOERROR, 0 records"),
        (r#"{"rcode": "any"}"#, same, "NOERROR, 0 records"),
        (r#"{"rcode": "any"}"#, refused, "REFUSED, 0 records"),
        (r#"{"rcode": "refused"}"#, refused, "REFUSED, 0 records"),
        (
            r#"{"rcode": "FORMERR"}"#,
            bare_formerr,
            "FORMERR, 0 records",
        ),
        (r#"{"name": "www.example"}"#, truncated, "NOERROR, 1 record"),
        (r#"{"name": "www.example"}"#, upper, "NOERROR, 2 records"),
    ] {
        for found in [over_udp(config, change), over_tcp(config, change)] {
            let expected = Verdict::healthy(format!("answered {expected}"));
            assert_eq!(found, Ok(expected), "{config}");
        }
    }
}

#[test]
fn unexpected_codes_and_too_few_records_are_unhealthy() {
    let same: Change = |answer| answer;
    let servfail: Change = |mut answer| {
        answer[3] |= 2;
        answer
    };
    let truncated: Change = |mut answer| {
        answer.truncate(answer.len() - 5);
        answer
    };
    let looping: Change = |mut answer| {
        answer.extend([0xc0, 0xff]);
        answer[7] = 4;
        answer
    };
    let reserved: Change = |mut answer| {
        let at = answer.len() - 17;
        answer[at] = 0x40;
        answer
    };
    let name = r#"{"name": "www.example"}"#;
    for (config, change, expected) in [
        (
            r#"{"recursion": false}"#,
            same,
            "answered NOERROR, 0 records, expected at least 1",
        ),
        (
            r#"{"name": "a", "answers": 3}"#,
            same,
            "answered NOERROR, 2 records, expected at least 3",
        ),
        (
            name,
            servfail,
            "answered SERVFAIL, 2 records, expected NOERROR",
        ),
        (name, truncated, "malformed"),
        (name, looping, "malformed"),
        (name, reserved, "malformed"),
        (name, |answer| answer[..9].to_vec(), "malformed"),
        (name, |_| Vec::new(), "malformed"),
        (name, |answer| answer[..20].to_vec(), "malformed"),
    ] {
        for found in [over_udp(config, change), over_tcp(config, change)] {
            let unhealthy = found.unwrap_err();
            assert!(unhealthy.reason().contains(expected), "{unhealthy}");
        }
    }
    let truncated_by_server: Change = |mut answer| {
        answer[2] |= 2;
        answer.truncate(30);
        answer
    };
    let unhealthy = over_udp(name, truncated_by_server).unwrap_err();
    assert!(
        unhealthy.reason().ends_with("set config.tcp = true"),
        "{unhealthy}"
    );
}

/// Changes that make the answer one to another query.
const STRAYS: [Change; 6] = [
    |mut answer| {
        answer[0] ^= 1;
        answer
    },
    |mut answer| {
        answer[2] &= 0x7f;
        answer
    },
    |mut answer| {
        answer[14] ^= 1;
        answer
    },
    // Another type, the same letter in the other case.
    |mut answer| {
        answer[26] ^= 0x20;
        answer
    },
    |mut answer| {
        answer[5] = 2;
        answer
    },
    |mut answer| {
        answer[5] = 0;
        answer
    },
];

#[test]
fn answers_to_other_queries_are_skipped() {
    let name = r#"{"name": "www.example"}"#;
    let server = serve_datagrams(|query| {
        let strays = STRAYS.iter().map(|change| change(answer(query)));
        strays.chain([answer(query)]).collect()
    });
    assert!(check(name, server.unwrap()).is_ok());
    let only_strays = |query: &[u8]| STRAYS.map(|change| change(answer(query))).to_vec();
    let silent = check(name, serve_datagrams(only_strays).unwrap()).unwrap_err();
    assert_eq!(silent.reason(), "no answer in time");
    for change in STRAYS {
        let other = over_tcp(name, change).unwrap_err();
        assert_eq!(other.reason(), OTHER_QUERY);
    }
    let endless = serve_datagrams(|query| vec![STRAYS[0](answer(query)); 100]);
    assert_eq!(
        check(name, endless.unwrap()).unwrap_err().reason(),
        OTHER_QUERY
    );
}

#[test]
fn connection_errors_are_the_reason() {
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        check("{}", closed).unwrap_err().reason(),
        "connection refused"
    );
    let tcp = r#"{"tcp": true}"#;
    for (answer, expected) in [
        (&b""[..], "closed by the server without an answer"),
        (b"\0", "closed by the server after 1 byte"),
        (b"\xff\xffhalf", "closed by the server after 6 bytes"),
        (b"\0\0", "malformed"),
    ] {
        let server = TestServer::answers(answer).unwrap();
        let unhealthy = testing::check::<Dns>(tcp, &server).unwrap_err();
        assert!(unhealthy.reason().contains(expected), "{unhealthy}");
    }
}

#[test]
fn corrupted_answers_do_not_panic() {
    let query = Query::new("www.example", 1, true).unwrap().bytes(7);
    let mut found = [0; 3];
    for message in testing::corrupted(&answer(&query), 1).take(50_000) {
        found[match Answer::parse(&message, &query) {
            Ok(Some(_)) => 0,
            Ok(None) => 1,
            Err(_) => 2,
        }] += 1;
    }
    assert!(found.iter().all(|count| *count > 100), "{found:?}");
}

#[test]
fn config_errors_say_what_to_write() {
    let cases = r#"
        {"name": ""} => config.name: expected labels
        {"name": "a..b"} => or . for the root
        {"name": "münchen.de"} => xn--
        {"type": "AA"} => config.type: "AA" is unknown
        {"rcode": "OK"} => config.rcode: "OK" is unknown; write any, or one of NOERROR
        {"tls": true} => unknown field `tls`
    "#;
    testing::assert_config_errors(cases, |config| {
        check(config, ([127, 0, 0, 1], 1).into()).unwrap_err()
    });
}
