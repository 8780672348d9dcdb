#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use waxwing_sdk::testing::{self, TestServer, TestTarget, check};

use super::*;

/// Returns the reason, without the time of a healthy one.
fn reason(found: Result<Verdict, Unhealthy>) -> String {
    match found {
        Ok(verdict) => verdict.reason().split(" in ").next().unwrap().to_string(),
        Err(unhealthy) => format!("unhealthy: {}", unhealthy.reason()),
    }
}

/// Runs the check against a server that sends this and keeps the connection open.
fn says(config: &str, answer: &[u8]) -> String {
    let server = TestServer::hangs_after(answer).unwrap();
    let target = TestTarget::from(&server).timeout(Duration::from_millis(300));
    reason(check::<Http>(config, target))
}

/// Runs the check against a server that sends this and closes the connection.
fn ends(config: &str, answer: &[u8]) -> String {
    let server = TestServer::answers(answer).unwrap();
    reason(check::<Http>(config, &server))
}

/// Returns what the server received.
fn asks(config: &str, target: impl Fn(TestTarget) -> TestTarget) -> String {
    let server = TestServer::answers("HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let found = check::<Http>(config, target(TestTarget::from(&server)));
    assert!(found.is_ok(), "{found:?}");
    String::from_utf8(server.received().unwrap()).unwrap()
}

#[test]
fn a_request_has_the_configs_values() {
    let plain = asks("{}", |target| target.server_name("web.test"));
    assert!(
        plain.starts_with("GET / HTTP/1.1\r\nhost: web.test:"),
        "{plain}"
    );
    assert!(plain.ends_with("\r\nconnection: close\r\n\r\n"), "{plain}");
    let config = r#"{"method": "HEAD", "path": "/healthz?full=1", "host": "api.example",
        "headers": {"User-Agent": "probe", "x-token": "secret"}}"#;
    assert_eq!(
        asks(config, |target| target),
        "HEAD /healthz?full=1 HTTP/1.1\r\nhost: api.example\r\nUser-Agent: probe\r\n\
         x-token: secret\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn only_a_status_of_the_set_is_healthy() {
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let moved = b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n";
    let broken = b"HTTP/1.1 500 Internal Server Error\r\n\r\n";
    let bare = b"HTTP/1.0 204\r\n\r\n";
    let not_ok = r#"{"status": [500, "502-599"]}"#;
    for (config, answer, expected) in [
        ("{}", &ok[..], "200 OK"),
        ("{}", moved, "302 Found"),
        ("{}", broken, "unhealthy: status 500, expected 200-399"),
        ("{}", bare, "204"),
        (
            r#"{"status": 200}"#,
            moved,
            "unhealthy: status 302, expected 200",
        ),
        (not_ok, broken, "500 Internal Server Error"),
        (not_ok, ok, "unhealthy: status 200, expected 500,502-599"),
    ] {
        // The same whether the server closes or not: the head is enough.
        assert_eq!(says(config, answer), expected, "{config}");
        assert_eq!(ends(config, answer), expected, "{config}");
    }
}

#[test]
fn a_body_is_searched_with_any_framing() {
    let ok = r#"{"body": "ready"}"#;
    let lacks = "unhealthy: the body lacks \"ready\"";
    for (answer, expected) in [
        ("content-length: 14\r\n\r\nstate: ready\r\n", "200 OK"),
        ("content-length: 5\r\n\r\nready", "200 OK"),
        ("content-length: 4\r\n\r\nready", lacks),
        ("content-length: 0\r\n\r\n", lacks),
        (
            "transfer-encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n",
            "200 OK",
        ),
        (
            "transfer-encoding: chunked\r\n\r\n3\r\nrea\r\n1\r\nd\r\n0\r\n\r\n",
            lacks,
        ),
        (
            "transfer-encoding: chunked\r\n\r\nready",
            "unhealthy: not a chunk size: \"ready\"",
        ),
        ("\r\nready", "200 OK"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{answer}");
        assert_eq!(ends(ok, answer.as_bytes()), expected, "{answer}");
    }
    assert_eq!(ends(ok, b"HTTP/1.1 200 OK\r\n\r\nstead"), lacks);
    // The text is enough, although more is to come.
    assert_eq!(says(ok, b"HTTP/1.1 200 OK\r\n\r\nalready"), "200 OK");
}

#[test]
fn a_text_is_found_across_pieces() {
    for before in [0, 1, 8190, 8191, 8192, 8193, 50_000] {
        let body = [&vec![b'r'; before][..], b"ready, set"].concat();
        let answer = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
        assert_eq!(ends(r#"{"body": "ready"}"#, &answer), "200 OK", "{before}");
    }
}

#[test]
fn an_endless_body_is_searched_up_to_the_limit() {
    let body = vec![b'x'; BODY_BYTES_MAX + 20_000];
    let answer = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
    let expected = "unhealthy: the first 256 KiB of the body lack \"ready\"";
    assert_eq!(ends(r#"{"body": "ready"}"#, &answer), expected);
}

#[test]
fn malformed_responses_are_the_reason() {
    let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"a: b\r\n".repeat(10_000)].concat();
    for (answer, expected) in [
        (
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            "not an HTTP/1.1 status line: \"SSH-2.0-OpenSSH_9.2\"",
        ),
        (
            b"\x15\x03\x01\x00\x02\x02\x46\n",
            "not an HTTP/1.1 status line",
        ),
        (&endless, "the head of the response has more than"),
        (b"HTTP/1.1 200 OK\r\nwhat\r\n\r\n", "not a header: \"what\""),
        (b"HTTP/1.1 200 OK\r\n", "no answer in time"),
        (b"", "no answer in time"),
    ] {
        let said = says("{}", answer);
        assert!(
            said.starts_with(&format!("unhealthy: {expected}")),
            "{said}"
        );
    }
    for (answer, expected) in [
        (&b""[..], "closed by the server without an answer"),
        (
            b"HTTP/1.1 200 OK\r\na: b\r\n",
            "closed by the server within the head of its response",
        ),
    ] {
        assert_eq!(ends("{}", answer), format!("unhealthy: {expected}"));
    }
    let early = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nrea";
    let expected = "unhealthy: closed by the server before the end of the body";
    assert_eq!(ends(r#"{"body": "ready"}"#, early), expected);
}

#[test]
fn a_closed_port_and_tls_without_the_host_are_unhealthy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let said = reason(check::<Http>(r#"{"tls": true}"#, address));
    assert!(said.contains("TLS is not available natively"), "{said}");
    drop(listener);
    assert_eq!(
        reason(check::<Http>("{}", address)),
        "unhealthy: connection refused"
    );
}

#[test]
fn config_errors_say_what_to_write() {
    let long = format!(r#"{{"body": "{}"}}"#, "x".repeat(TEXT_BYTES_MAX + 1));
    let cases = r#"
        {"method": "GET /"} => config: "GET /" is not a method; write GET
        {"path": "healthz"} => config: "healthz" is not a path
        {"status": "ok"} => config.status: "ok" is not a status; write codes from 200 to 999
        {"status": []} => config.status: no status is healthy
        {"body": ""} => config.body is empty; leave it out
        {"method": "HEAD", "body": "x"} => a response to HEAD has no body
        {"host": "a\r\nb: c"} => has a control character
        {"headers": {"connection": "x"}} => the check sets the header connection
        {"host": "a", "headers": {"Host": "b"}} => the host is given twice
        {"headers": {"a": 1}} => config.headers.a: invalid type: integer `1`
        {"paths": "/"} => config.paths: unknown field `paths`, expected one of `method`
    "#;
    let cases = format!("{cases}{long} => expected at most 1024");
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    testing::assert_config_errors(&cases, |config| check::<Http>(config, nobody).unwrap_err());
}
