#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use waxwing_sdk::testing::{self, TestServer, TestTarget};

use super::*;

const SHA2: &str = "caching_sha2_password";
const NATIVE: &str = "mysql_native_password";

/// Returns the result for these packets, and what the server received.
fn check(packets: &[Vec<u8>]) -> (Result<Verdict, Unhealthy>, Vec<u8>) {
    let server = TestServer::answers(packets.concat()).unwrap();
    let found = testing::check::<Mysql>("{}", &server);
    (found, server.received().unwrap())
}

fn packet(number: u8, body: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[a, b, c, number], body].concat()
}

/// Returns a greeting.
fn greeting(version: &str, plugin: &str) -> Vec<u8> {
    let mut body = vec![10];
    body.extend(version.bytes());
    body.push(0);
    // Connection id, challenge, a zero byte, capabilities, character set, status, capabilities.
    body.extend([7, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    body.extend([0xff, 0xff, 0xff, 2, 0, 0xff, 0xdf, 21]);
    body.extend([0; 10]);
    body.extend(b"123456789012\0");
    body.extend(plugin.bytes());
    body.push(0);
    packet(0, &body)
}

fn error(number: u8, code: u16, text: &str) -> Vec<u8> {
    packet(
        number,
        &[&[0xff], &code.to_le_bytes()[..], text.as_bytes()].concat(),
    )
}

const DENIED: &str = "#28000Access denied for user 'waxwing'@'10.0.0.1' (using password: NO)";

/// Returns the sequence numbers and bodies of the packets that the client sent.
fn packets(mut sent: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut packets = Vec::new();
    while let Some(([len, 0, 0, number], rest)) = sent.split_first_chunk() {
        let (body, rest) = rest.split_at(usize::from(*len));
        packets.push((*number, body.to_vec()));
        sent = rest;
    }
    packets
}

#[test]
fn a_server_that_denies_access_is_healthy() {
    let (found, sent) = check(&[greeting("8.0.36", SHA2), error(2, 1045, DENIED)]);
    let reason =
        "MySQL 8.0.36: Access denied for user 'waxwing'@'10.0.0.1' (using password: NO) (1045)";
    assert_eq!(found, Ok(Verdict::healthy(reason)));
    let sent = packets(&sent);
    assert_eq!(sent.len(), 1);
    let (number, response) = &sent[0];
    assert_eq!(*number, 1);
    assert_eq!(response[..9], [1, 0x82, 8, 0, 0, 0, 0, 1, 45]);
    assert_eq!(response[32..], *b"waxwing\0\x01\0caching_sha2_password\0");
}

#[test]
fn after_a_successful_login_the_check_quits() {
    let (found, sent) = check(&[
        greeting("5.5.5-10.11.6-MariaDB-0+deb12u1", NATIVE),
        packet(2, &[0, 0, 0, 2, 0, 0, 0]),
    ]);
    assert_eq!(found, Ok(Verdict::healthy("MariaDB 10.11.6")));
    let sent = packets(&sent);
    assert!(sent[0].1.ends_with(b"waxwing\0\0mysql_native_password\0"));
    assert_eq!(sent[1..], [(0, vec![1])]);
}

#[test]
fn the_handshake_is_completed() {
    let switch = |plugin: &str| [&[0xfe], plugin.as_bytes(), b"\0challenge of 20 bytes\0"].concat();
    for (packets_after, answers) in [
        (
            vec![packet(2, &switch(NATIVE)), error(4, 1045, DENIED)],
            vec![(3, vec![])],
        ),
        (
            vec![packet(2, &switch(SHA2)), error(4, 1045, DENIED)],
            vec![(3, vec![0])],
        ),
        (
            vec![packet(2, &[0xfe]), error(4, 1251, "old")],
            vec![(3, vec![0])],
        ),
        (
            vec![packet(2, &[1, 3]), packet(3, &[0])],
            vec![(0, vec![1])],
        ),
        (
            vec![packet(2, &[1, 4]), error(4, 1045, DENIED)],
            vec![(3, vec![0])],
        ),
    ] {
        let (found, sent) = check(&[vec![greeting("8.4.0", SHA2)], packets_after].concat());
        assert!(found.is_ok(), "{found:?}");
        assert_eq!(packets(&sent)[1..], answers);
    }
    let endless: Vec<_> = (0..9).map(|n| packet(2 + 2 * n, &switch(SHA2))).collect();
    let found = check(&[vec![greeting("8.4.0", SHA2)], endless].concat()).0;
    assert_eq!(found.unwrap_err().reason(), "the handshake does not end");
}

#[test]
fn a_server_that_accepts_no_connections_is_unhealthy() {
    let hello = || greeting("8.0.36", SHA2);
    for (packets, expected) in [
        (
            vec![error(0, 1040, "Too many connections")],
            "server error: Too many connections (1040)",
        ),
        (
            vec![error(0, 1040, "#08004Too many connections")],
            "server error: Too many connections (1040)",
        ),
        (
            vec![error(0, 1129, "Host '10.0.0.1' is blocked")],
            "is blocked (1129)",
        ),
        (
            vec![error(0, 1130, "Host '10.0.0.1' is not allowed")],
            "is not allowed (1130)",
        ),
        (
            vec![hello(), error(2, 1053, "#08S01Server shutdown in progress")],
            "MySQL 8.0.36: Server shutdown in progress (1053)",
        ),
        (
            vec![hello(), error(2, 1226, "#42000User has exceeded")],
            "User has exceeded (1226)",
        ),
        (vec![packet(0, &[0xff])], "server error:  (0)"),
    ] {
        let unhealthy = check(&packets).0.unwrap_err();
        assert!(unhealthy.reason().contains(expected), "{unhealthy}");
    }
}

#[test]
fn malformed_answers_are_unhealthy() {
    let hello = greeting("8.0.36", SHA2);
    for (answer, expected) in [
        (vec![], "closed by the server without an answer"),
        (vec![5, 0], "closed by the server after 2 bytes"),
        (
            hello[..hello.len() / 2].to_vec(),
            "closed by the server after",
        ),
        (hello.clone(), "closed by the server after"),
        (
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            "not a MySQL answer: \"HTTP\"",
        ),
        (packet(1, &[10]), "not a MySQL answer:"),
        (packet(0, &[]), "not a MySQL greeting: \"\""),
        (packet(0, &[10]), "not a MySQL greeting:"),
        (packet(0, b"\x0a8.0.36\0\x01\x02"), "not a MySQL greeting:"),
        (
            packet(
                0,
                b"\x09 3.20 and more of that, as long as it has to be to be long",
            ),
            "not a MySQL greeting:",
        ),
        (
            [hello.clone(), packet(2, &[])].concat(),
            "not a MySQL answer: \"\"",
        ),
        (
            [hello, packet(2, &[7])].concat(),
            r#"not a MySQL answer: "\x07""#,
        ),
    ] {
        let unhealthy = check(&[answer]).0.unwrap_err();
        assert!(unhealthy.reason().contains(expected), "{unhealthy}");
    }
    let silent = TestServer::hangs_after(greeting("8.0.36", SHA2)).unwrap();
    let target = TestTarget::from(&silent).timeout(Duration::from_millis(100));
    let unhealthy = testing::check::<Mysql>("{}", target).unwrap_err();
    assert_eq!(unhealthy.reason(), "no answer in time");
}

#[test]
fn corrupted_answers_do_not_panic() {
    let whole = [greeting("8.0.36", SHA2), error(2, 1045, DENIED)].concat();
    for answer in testing::corrupted(&whole, 1).take(500) {
        let _ = check(&[answer]);
    }
    for body in testing::corrupted(&greeting("8.0.36", SHA2)[4..], 2).take(5000) {
        let _ = Greeting::parse(&body);
        let _ = ServerError::parse(&body);
    }
}

#[test]
fn config_errors_say_what_to_write() {
    let cases = r#"
        {"user": ""} => config.user: expected 1 to 255 bytes
        {"user": "a\u0000"} => without a zero byte
        {"password": "x"} => unknown field `password`
    "#;
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    testing::assert_config_errors(cases, |config| {
        testing::check::<Mysql>(config, target).unwrap_err()
    });
}
