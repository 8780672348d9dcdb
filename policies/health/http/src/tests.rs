#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use waxwing_sdk::testing::{TestServer, TestTarget, check};

use super::*;

/// The reason, of a healthy one without the time.
fn reason(found: Result<Verdict, Unhealthy>) -> String {
    match found {
        Ok(verdict) => verdict.reason().split(" in ").next().unwrap().to_string(),
        Err(unhealthy) => format!("unhealthy: {}", unhealthy.reason()),
    }
}

/// The same for a server that sends this and leaves the connection open.
fn says(config: &str, answer: &[u8]) -> String {
    let server = TestServer::hangs_after(answer).unwrap();
    let target = TestTarget::from(&server).timeout(Duration::from_millis(300));
    reason(check::<Http>(config, target))
}

/// The same of one that closes it.
fn ends(config: &str, answer: &[u8]) -> String {
    let server = TestServer::answers(answer).unwrap();
    reason(check::<Http>(config, &server))
}

/// What the server is asked.
fn asks(config: &str, target: impl Fn(TestTarget) -> TestTarget) -> String {
    let server = TestServer::answers("HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let found = check::<Http>(config, target(TestTarget::from(&server)));
    assert!(found.is_ok(), "{found:?}");
    String::from_utf8(server.received().unwrap()).unwrap()
}

#[test]
fn a_request_is_what_the_config_says() {
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
fn a_status_in_the_set_is_well_and_another_is_not() {
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
        // The connection's end makes no difference: the head is enough.
        assert_eq!(says(config, answer), expected, "{config}");
        assert_eq!(ends(config, answer), expected, "{config}");
    }
}

#[test]
fn a_body_is_searched_however_it_is_framed() {
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
            "unhealthy: no size of a chunk but \"ready\"",
        ),
        ("\r\nready", "200 OK"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{answer}");
        assert_eq!(ends(ok, answer.as_bytes()), expected, "{answer}");
    }
    assert_eq!(ends(ok, b"HTTP/1.1 200 OK\r\n\r\nstead"), lacks);
    // The text is enough, though more is to come.
    assert_eq!(says(ok, b"HTTP/1.1 200 OK\r\n\r\nalready"), "200 OK");
}

#[test]
fn a_text_is_found_wherever_pieces_part_it() {
    for before in [0, 1, 8190, 8191, 8192, 8193, 50_000] {
        let body = [&vec![b'r'; before][..], b"ready, set"].concat();
        let answer = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
        assert_eq!(ends(r#"{"body": "ready"}"#, &answer), "200 OK", "{before}");
    }
}

#[test]
fn a_body_without_end_is_searched_to_a_limit() {
    let body = vec![b'x'; BODY_BYTES_MAX + 20_000];
    let answer = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
    let expected = "unhealthy: the first 256 KiB of the body lack \"ready\"";
    assert_eq!(ends(r#"{"body": "ready"}"#, &answer), expected);
}

#[test]
fn what_is_no_answer_has_its_reason() {
    let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"a: b\r\n".repeat(10_000)].concat();
    for (answer, expected) in [
        (
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            "no HTTP/1.1 status line but \"SSH-2.0-OpenSSH_9.2\"",
        ),
        (b"\x15\x03\x01\x00\x02\x02\x46\n", "no HTTP/1.1 status line"),
        (&endless, "the head of the answer has more than"),
        (b"HTTP/1.1 200 OK\r\nwhat\r\n\r\n", "no header but \"what\""),
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
            "closed by the server within the head of its answer",
        ),
    ] {
        assert_eq!(ends("{}", answer), format!("unhealthy: {expected}"));
    }
    let early = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nrea";
    let expected = "unhealthy: closed by the server before the end of the body";
    assert_eq!(ends(r#"{"body": "ready"}"#, early), expected);
}

#[test]
fn a_server_that_does_not_listen_is_not_well_and_tls_is_the_hosts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let said = reason(check::<Http>(r#"{"tls": true}"#, address));
    assert!(said.contains("TLS is the host's"), "{said}");
    drop(listener);
    assert_eq!(
        reason(check::<Http>("{}", address)),
        "unhealthy: connection refused"
    );
}

#[test]
fn what_is_wrong_is_said_with_what_to_write() {
    let long = format!(r#"{{"body": "{}"}}"#, "x".repeat(TEXT_BYTES_MAX + 1));
    for (config, expected) in [
        (
            r#"{"method": "GET /"}"#,
            "config: \"GET /\" is no method; write GET",
        ),
        (r#"{"path": "healthz"}"#, "config: \"healthz\" is no path"),
        (
            r#"{"status": "ok"}"#,
            "config.status: \"ok\" is no status; write codes of 200 to 999",
        ),
        (r#"{"status": []}"#, "config.status: no status is good"),
        (r#"{"body": ""}"#, "config.body is empty; leave it out"),
        (
            r#"{"method": "HEAD", "body": "x"}"#,
            "an answer to HEAD has no body",
        ),
        (&long, "at most 1024 are searched for"),
        (r#"{"host": "a\r\nb: c"}"#, "has a control character"),
        (
            r#"{"headers": {"connection": "x"}}"#,
            "the header connection is the check's own",
        ),
        (
            r#"{"host": "a", "headers": {"Host": "b"}}"#,
            "the host is said twice",
        ),
        (
            r#"{"headers": {"a": 1}}"#,
            "config.headers.a: invalid type: integer `1`",
        ),
        (
            r#"{"paths": "/"}"#,
            "config.paths: unknown field `paths`, expected one of `method`",
        ),
    ] {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let said = reason(check::<Http>(config, nobody));
        assert!(said.contains(expected), "{config}: {said}");
    }
}
