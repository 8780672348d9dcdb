#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use waxwing_sdk::testing::{self, TestServer, TestTarget};

use super::*;

/// Returns the result for a server's answer, and what the server received.
fn check(config: &str, answer: &[u8]) -> (Result<Verdict, Unhealthy>, Vec<u8>) {
    let server = TestServer::answers(answer).unwrap();
    let found = testing::check::<Postgres>(config, &server);
    (found, server.received().unwrap())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &with_length(body)[..]].concat()
}

/// Returns an error message of a server.
fn error(code: &str, text: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{text}\0Fpostmaster.c\0L2341\0\0");
    message(b'E', fields.as_bytes())
}

#[test]
fn a_startup_message_names_the_user_and_the_database() {
    let (_, sent) = check("{}", b"");
    let expected = b"\0\0\0\x2f\0\x03\0\0user\0waxwing\0application_name\0waxwing\0\0";
    assert_eq!(
        sent.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
    let (_, sent) = check(r#"{"user": "u", "database": "d"}"#, b"");
    assert!(
        sent.windows(19)
            .any(|part| part == b"user\0u\0database\0d\0a"),
        "{}",
        sent.escape_ascii()
    );
}

#[test]
fn a_server_that_asks_for_authentication_is_healthy() {
    let sasl = [&10_u32.to_be_bytes(), &b"SCRAM-SHA-256\0\0"[..]].concat();
    for request in [&sasl[..], &[0, 0, 0, 5, 1, 2, 3, 4], &[0, 0, 0, 3]] {
        let (found, sent) = check("{}", &message(b'R', request));
        assert_eq!(found, Ok(Verdict::healthy("asks for authentication")));
        assert_ne!(
            sent.last_chunk(),
            Some(&TERMINATE),
            "the server waits for a password"
        );
    }
}

#[test]
fn after_a_login_without_password_the_check_ends_the_session() {
    let welcome = message(b'R', &[0; 4]);
    let (found, sent) = check("{}", &[&welcome, &b"S\0\0\0\x09a\0b\0"[..]].concat());
    assert_eq!(
        found,
        Ok(Verdict::healthy("accepts the user without a password"))
    );
    assert_eq!(sent.last_chunk(), Some(&TERMINATE));
}

#[test]
fn only_errors_about_the_user_or_database_are_healthy() {
    for (code, text, is_alive) in [
        ("28000", "role \"waxwing\" does not exist", true),
        (
            "28P01",
            "password authentication failed for user \"waxwing\"",
            true,
        ),
        ("28000", "no pg_hba.conf entry for host \"10.0.0.1\"", true),
        ("3D000", "database \"waxwing\" does not exist", true),
        ("57P03", "the database system is starting up", false),
        ("57P03", "the database system is shutting down", false),
        (
            "57P01",
            "terminating connection due to administrator command",
            false,
        ),
        ("53300", "sorry, too many clients already", false),
        ("08P01", "unsupported startup parameter", false),
    ] {
        let found = check("{}", &error(code, text)).0;
        let expected = format!("server error: {text} ({code})");
        match found {
            Ok(verdict) => assert!(is_alive && verdict.reason() == expected, "{verdict:?}"),
            Err(unhealthy) => assert!(!is_alive && unhealthy.reason() == expected, "{unhealthy}"),
        }
    }
}

#[test]
fn malformed_answers_are_unhealthy() {
    let long = message(b'R', &[0; 9000]);
    let cases: [(&[u8], &str); 9] = [
        (b"", "closed by the server without an answer"),
        (b"R\0\0", "closed by the server after 3 bytes"),
        (b"R\0\0\0\x08\0", "closed by the server after 6 bytes"),
        (b"R\0\0\0\x03", "not a PostgreSQL answer:"),
        (b"R\0\0\0\x04", "not a PostgreSQL answer:"),
        (&long, "not a PostgreSQL answer:"),
        (b"HTTP/1.1 400", "not a PostgreSQL answer: \"H\""),
        (b"E\0\0\0\x04", "server error: "),
        (
            b"Ecould not fork new process for connection: busy\n\0",
            "server error: could not fork new process for connection: busy",
        ),
    ];
    for (answer, expected) in cases {
        let unhealthy = check("{}", answer).0.unwrap_err();
        assert!(unhealthy.reason().contains(expected), "{unhealthy}");
    }
    let silent = TestServer::hangs_after("R").unwrap();
    let target = TestTarget::from(&silent).timeout(Duration::from_millis(100));
    let unhealthy = testing::check::<Postgres>("{}", target).unwrap_err();
    assert_eq!(unhealthy.reason(), "no answer in time");
}

#[test]
fn tls_is_requested_before_anything_else() {
    let tls = r#"{"tls": true}"#;
    let (found, sent) = check(tls, b"N");
    assert!(
        found
            .unwrap_err()
            .reason()
            .starts_with("the server offers no TLS")
    );
    assert_eq!(sent, [0, 0, 0, 8, 4, 210, 22, 47]);
    let (found, _) = check(tls, b"Eoops");
    assert_eq!(
        found.unwrap_err().reason(),
        "not a PostgreSQL answer: \"E\""
    );
    // This is as far as a native check gets.
    let (found, _) = check(tls, b"S");
    assert!(
        found
            .unwrap_err()
            .reason()
            .starts_with("TLS is not available natively")
    );
}

#[test]
fn corrupted_answers_do_not_panic() {
    let welcome = message(b'R', &[0; 4]);
    let refusal = error("57P03", "the database system is starting up");
    for answer in testing::corrupted(&welcome, 1)
        .take(200)
        .chain(testing::corrupted(&refusal, 2).take(200))
    {
        let _ = check("{}", &answer);
    }
}

#[test]
fn config_errors_say_what_to_write() {
    let long = format!(r#"{{"user": "{}"}}"#, "x".repeat(256));
    let cases = r#"
        {"user": ""} => config.user: expected a name
        {"database": "a\u0000b"} => config.database: expected at most 255
        {"password": "x"} => unknown field `password`
    "#;
    let cases = format!("{cases}{long} => config.user: expected at most 255");
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    testing::assert_config_errors(&cases, |config| {
        testing::check::<Postgres>(config, nobody).unwrap_err()
    });
}
