#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{SocketAddr, UdpSocket};

use waxwing_sdk::testing::{self, serve_datagrams};

use super::*;

fn check(config: &str, address: SocketAddr) -> Result<Verdict, Unhealthy> {
    testing::check::<Udp>(config, address)
}

/// Returns a port that was free a moment ago.
fn closed_port() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

/// Starts a server that returns each datagram in brackets.
fn echo() -> SocketAddr {
    serve_datagrams(|query| vec![[b"<", query, b">"].concat()]).unwrap()
}

#[test]
fn an_answer_with_the_expected_bytes_is_healthy() {
    for config in [
        r#"{"send": "ok"}"#,
        r#"{"send": ""}"#,
        r#"{"send": "ok", "expect": "ok"}"#,
        r#"{"send": "ok", "expect": ""}"#,
        r#"{"send": "ok", "expect": "<o", "at": "start"}"#,
        r#"{"send": "ok", "expect": "<ok>", "at": "whole"}"#,
        r#"{"send_hex": "00 fF 0d0a", "expect_hex": "3c00ff0d0a3e", "at": "whole"}"#,
    ] {
        check(config, echo()).unwrap();
    }
    let found = check(r#"{"send": "ok", "expect": "k"}"#, echo()).unwrap();
    assert_eq!(found.reason(), r#"answered "<ok>""#);
}

#[test]
fn an_answer_without_the_expected_bytes_is_unhealthy() {
    let cases = r#"
        {"send": "no", "expect": "ok"} => answered "<no>", expected "ok"
        {"send": "ok", "expect": "ok", "at": "start"} => expected "ok"
        {"send": "ok", "expect": "<ok", "at": "whole"} => expected "<ok"
        {"send": "ok", "expect": "<ok> and much more"} => expected
        {"send": "ok", "expect_hex": "ff"} => expected "\xff"
    "#;
    testing::assert_config_errors(cases, |config| check(config, echo()).unwrap_err());
}

#[test]
fn silence_follows_the_config_and_a_closed_port_is_never_healthy() {
    let silent = || serve_datagrams(|_| Vec::new()).unwrap();
    let unhealthy = check(r#"{"send": "x"}"#, silent()).unwrap_err();
    assert_eq!(unhealthy.reason(), "no answer in time");
    let healthy = r#"{"send": "x", "silence": "healthy"}"#;
    assert_eq!(
        check(healthy, silent()),
        Ok(Verdict::healthy("the port is not closed"))
    );
    for config in [r#"{"send": "x"}"#, healthy] {
        let unhealthy = check(config, closed_port()).unwrap_err();
        assert_eq!(unhealthy.reason(), "connection refused", "{config}");
    }
}

#[test]
fn the_largest_datagram_fits() {
    let large = serve_datagrams(|query| {
        let padding = vec![b'z'; DATAGRAM_BYTES_MAX - query.len()];
        vec![[&padding, query].concat()]
    });
    check(r#"{"send": "end", "expect": "zend"}"#, large.unwrap()).unwrap();
}

#[test]
fn config_errors_say_what_to_write() {
    let long = format!(r#"{{"send": "{}"}}"#, "x".repeat(65_508));
    let cases = r#"
        {} => config.send = "status"
        {"send": "a", "send_hex": "00"} => not both
        {"send_hex": "0"} => config.send_hex: expected pairs
        {"send_hex": "0x00"} => expected pairs
        {"send": "a", "expect_hex": "zz"} => config.expect_hex: expected pairs
        {"send": "a", "expect": "b", "silence": "healthy"} => leave out one
        {"send": "a", "at": "end"} => expected one of `anywhere`, `start`, `whole`
        {"send": "a", "silence": "ok"} => expected `unhealthy` or `healthy`
        {"sent": "a"} => unknown field `sent`
    "#;
    let cases = format!("{cases}{long} => 65508 bytes; a datagram has at most 65507");
    testing::assert_config_errors(&cases, |config| check(config, closed_port()).unwrap_err());
}
