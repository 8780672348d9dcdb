#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use waxwing_sdk::testing::{self, TestServer, TestTarget};

use super::*;

const PAGE: &str = "# HELP queue Requests that wait.\n# TYPE queue gauge\n\
    queue{model=\"a\"} 3.4\nqueue{model=\"b\"} 5.1\nqueue_max 9\nbusy 0.42\nnone NaN\nbad x\n\
    much +Inf\nless -7\n";

fn answer(page: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}",
        page.len()
    )
}

fn ask(config: &str, answer: &[u8]) -> Result<Verdict, Unhealthy> {
    let server = TestServer::answers(answer).unwrap();
    testing::check::<Metrics>(
        config,
        TestTarget::from(&server).signals(&["queue", "load"]),
    )
}

/// Returns the signals that a config sets from the page.
fn signals(config: &str) -> [Option<u32>; 4] {
    ask(config, answer(PAGE).as_bytes()).unwrap().signals()
}

#[test]
fn a_metric_becomes_the_configured_signal() {
    for (config, signal, expected) in [
        (r#"{"metric": "queue_max"}"#, 0, Some(9)),
        (r#"{"metric": "queue_max", "signal": 3}"#, 3, Some(9)),
        (r#"{"metric": "queue_max", "signal": "load"}"#, 1, Some(9)),
        (r#"{"metric": "queue{model=\"b\"}"}"#, 0, Some(5)),
        (r#"{"metric": "queue"}"#, 0, Some(9)),
        (r#"{"metric": "queue", "several": "max"}"#, 0, Some(5)),
        (r#"{"metric": "busy", "scale": 100}"#, 0, Some(42)),
        (r#"{"metric": "much"}"#, 0, Some(u32::MAX)),
        (r#"{"metric": "less"}"#, 0, Some(0)),
        (r#"{"metric": "absent", "missing": "ignore"}"#, 0, None),
    ] {
        let mut all = [None; 4];
        all[signal] = expected;
        assert_eq!(signals(config), all, "{config}");
    }
}

#[test]
fn the_request_has_the_configs_path_and_headers() {
    let server = TestServer::answers(answer(PAGE)).unwrap();
    let config =
        r#"{"metric": "busy", "path": "/m?x=1", "headers": {"authorization": "Bearer k"}}"#;
    let target = TestTarget::from(&server).server_name("s1.example");
    testing::check::<Metrics>(config, target).unwrap();
    let request = String::from_utf8(server.received().unwrap()).unwrap();
    assert!(
        request.starts_with("GET /m?x=1 HTTP/1.1\r\nhost: s1.example:"),
        "{request}"
    );
    assert!(
        request.contains("\r\nauthorization: Bearer k\r\n"),
        "{request}"
    );
}

#[test]
fn a_page_without_the_number_is_unhealthy() {
    let page = answer(PAGE);
    let cut = &page[..page.len() - 60];
    let queue = r#"{"metric": "queue"}"#;
    for (config, answer, expected) in [
        (
            r#"{"metric": "absent"}"#,
            page.as_str(),
            "the page has no absent",
        ),
        (
            r#"{"metric": "none"}"#,
            &page,
            "none is NaN, which cannot be a signal",
        ),
        (
            r#"{"metric": "bad"}"#,
            &page,
            "not a number in the line \"bad x\"",
        ),
        (
            r#"{"metric": "busy", "signal": "q"}"#,
            &page,
            r#"the service's signals are ["queue", "load"]"#,
        ),
        (
            r#"{"metric": "much", "scale": 0}"#,
            &page,
            "which cannot be a signal",
        ),
        (
            queue,
            "HTTP/1.1 503 No\r\n\r\n",
            "/metrics returned status 503, expected 200",
        ),
        (queue, cut, "before the end of the body"),
        (queue, "", "closed by the server without an answer"),
        (queue, "+PONG\r\n", "not an HTTP/1.1 status line"),
    ] {
        let unhealthy = ask(config, answer.as_bytes()).unwrap_err();
        assert!(unhealthy.reason().contains(expected), "{unhealthy}");
    }
    let server = TestServer::hangs_after(cut).unwrap();
    let target = TestTarget::from(&server).timeout(Duration::from_millis(100));
    let unhealthy = testing::check::<Metrics>(queue, target).unwrap_err();
    assert_eq!(unhealthy.reason(), "no answer in time");
}

#[test]
fn a_page_may_be_long_but_a_line_may_not() {
    let many: String = (0..20_000)
        .map(|n| format!("other{{n=\"{n}\"}} {n}\n"))
        .collect();
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{many}\r\n6\r\nqueue \r\n2\r\n7\n\r\n0\r\n\r\n",
        many.len()
    );
    let found = ask(r#"{"metric": "queue"}"#, chunked.as_bytes()).unwrap();
    assert_eq!(found.signals()[0], Some(7));
    let long = answer(&"x".repeat(20_000));
    let unhealthy = ask(r#"{"metric": "queue"}"#, long.as_bytes()).unwrap_err();
    assert!(
        unhealthy.reason().contains("more than 16384 bytes"),
        "{unhealthy}"
    );
}

#[test]
fn config_errors_say_what_to_write() {
    let cases = r#"
        {} => missing field `metric`
        {"metric": "a b"} => config.metric: expected a metric's name
        {"metric": "a", "signal": 4} => the signals 0 to 3
        {"metric": "a", "signal": -1} => a signal's name, or 0 to 3
        {"metric": "a", "path": "m"} => config.path: "m" is not a path
        {"metric": "a", "headers": {"a b": "c"}} => config.headers: 
        {"metric": "a", "several": "mean"} => expected `sum` or `max`
        {"metric": "a", "missing": "ok"} => expected `unhealthy` or `ignore`
        {"metric": "a", "sginal": 1} => unknown field `sginal`
    "#;
    testing::assert_config_errors(cases, |config| ask(config, b"").unwrap_err());
}
