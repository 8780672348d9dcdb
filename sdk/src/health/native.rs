//! Access to the target in native tests, over `std::net`.
//!
//! Invariant: no call waits longer than the target's timeout. (The host applies the timeout to the
//! whole run.)

use std::eprintln;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::messages;

pub(super) struct Stream(TcpStream);

impl Stream {
    pub(super) fn connect(address: SocketAddr, timeout: Duration) -> Result<Self> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&address, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            stream.set_nodelay(true)?;
            Ok(Self(stream))
        };
        connect().map_err(with_message)
    }

    pub(super) fn tls(self, _: &[&str]) -> Result<Self> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "TLS is not available natively, because the host provides it; test this check in Waxwing",
        ))
    }

    pub(super) fn recv(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer).map_err(with_message)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes).map_err(with_message)
    }
}

/// A UDP socket that receives only from the target.
pub(super) struct Socket(UdpSocket);

impl Socket {
    pub(super) fn connect(address: SocketAddr, timeout: Duration) -> Result<Self> {
        let connect = || {
            let any: SocketAddr = if address.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket.set_read_timeout(Some(timeout))?;
            Ok(Self(socket))
        };
        connect().map_err(with_message)
    }

    pub(super) fn recv(&self, buffer: &mut [u8]) -> Result<usize> {
        self.0.recv(buffer).map_err(with_message)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize> {
        self.0.send(bytes).map_err(with_message)
    }
}

pub(super) fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

pub(super) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

pub(super) fn log(line: &str) {
    eprintln!("{line}");
}

/// Gives an error the text that the host gives it.
fn with_message(error: Error) -> Error {
    match messages::for_kind(error.kind()) {
        Some(message) => Error::new(error.kind(), message),
        None => error,
    }
}
