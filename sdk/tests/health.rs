//! Native health checks against servers that answer, refuse, hang and break the connection.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use waxwing_sdk::testing::{self, TestTarget, check};
use waxwing_sdk::{
    ConfigError, HealthCheck, NoConfig, Target, Unhealthy, Verdict, export_health_check,
};

/// Sends a line and expects five bytes.
struct Five {
    greeting: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    greeting: String,
}

impl HealthCheck for Five {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.greeting.is_empty() {
            return Err("config.greeting is empty; write what the server expects".into());
        }
        Ok(Self {
            greeting: config.greeting,
        })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let mut conn = target.connect()?;
        conn.write_all(self.greeting.as_bytes())?;
        let mut answer = [0; 5];
        conn.read_exact(&mut answer)?;
        Ok(Verdict::healthy(String::from_utf8_lossy(&answer)).weight(50))
    }
}

export_health_check!(Five);

/// A server for one client. It reads the greeting and then runs `serve`.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut received = [0; 2];
        client.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"hi");
        serve(client);
    });
    address
}

fn five(target: impl Into<TestTarget>) -> Result<Verdict, Unhealthy> {
    check::<Five>(r#"{"greeting": "hi"}"#, target)
}

#[test]
fn an_answer_in_pieces_is_read_whole() {
    let address = server(|mut client| {
        for piece in ["a", "bc", "de", "f"] {
            client.write_all(piece.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(five(address), Ok(Verdict::healthy("abcde").weight(50)));
}

#[test]
fn connection_errors_have_plain_messages() {
    let closes = server(drop);
    let breaks_off = server(|mut client| client.write_all(b"abc").unwrap());
    let hangs = server(|_client| thread::park());
    let refuses = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (address, expected) in [
        (closes, "closed by the server without an answer"),
        (breaks_off, "closed by the server after 3 bytes"),
        (hangs, "no answer in time"),
        (refuses, "connection refused"),
    ] {
        let target = TestTarget::new(address).timeout(Duration::from_millis(200));
        assert_eq!(five(target), Err(expected.into()));
    }
}

#[test]
fn config_errors_name_the_place_and_what_is_expected() {
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let missing = check::<Five>("", nobody).unwrap_err();
    let expected = "config: missing field `greeting`";
    assert!(missing.reason().contains(expected), "{missing}");
    let cases = r#"
        {"greeting": 1} => config.greeting: invalid type: integer `1`, expected a string
        {"greeting": "", "x": 1} => config.x: unknown field `x`, expected `greeting`
        {"greeting": ""} => write what the server expects
    "#;
    testing::assert_config_errors(cases, |config| check::<Five>(config, nobody).unwrap_err());
}

/// Sends a datagram, reads the answer, and uses all parts of its target.
struct Echo;

impl HealthCheck for Echo {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let datagrams = target.connect_udp()?;
        let start = target.now();
        datagrams.send(b"echo")?;
        let mut answer = [0; 100];
        let len = datagrams.recv(&mut answer)?;
        target.sleep(Duration::from_millis(20));
        assert!(target.now() >= start + Duration::from_millis(20));
        target.log(format_args!("{} answers {len} bytes", target.backend()));
        let place = target.signal_index("len").ok_or("no signal named `len`")?;
        let len = u32::try_from(len).unwrap();
        Ok(Verdict::draining(target.server_name()).signal(place, len))
    }
}

#[test]
fn datagrams_reach_the_target_and_return() {
    for address in [
        "127.0.0.1:0".parse().unwrap(),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    ] {
        let socket = UdpSocket::bind(address).unwrap();
        let target = TestTarget::new(socket.local_addr().unwrap())
            .signals(&["load", "len"])
            .server_name("echo.test");
        let server = thread::spawn(move || {
            let mut question = [0; 100];
            let (len, from) = socket.recv_from(&mut question).unwrap();
            assert_eq!(&question[..len], b"echo");
            socket.send_to(b"echo echo", from).unwrap();
        });
        let expected = Verdict::draining("echo.test").signal(1, 9);
        assert_eq!(check::<Echo>("", target), Ok(expected));
        server.join().unwrap();
    }
}

#[test]
fn a_closed_udp_port_refuses_and_a_silent_one_times_out() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (address, expected) in [
        (silent.local_addr().unwrap(), "no answer in time"),
        (closed, "connection refused"),
    ] {
        let target = TestTarget::new(address).timeout(Duration::from_millis(200));
        assert_eq!(check::<Echo>("", target), Err(expected.into()));
    }
}

/// Uses TLS, which only the host has.
struct Secure;

impl HealthCheck for Secure {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        target.connect()?.tls(&["h2"])?;
        Ok(Verdict::healthy("secure"))
    }
}

#[test]
fn tls_is_unavailable_natively() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = check::<Secure>("", listener.local_addr().unwrap()).unwrap_err();
    assert!(
        error.reason().starts_with("TLS is not available natively"),
        "{error}"
    );
}
