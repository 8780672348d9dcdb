//! A connection of a check: TCP, TLS over TCP, or UDP.
//!
//! Invariant: it leads only to the target, and is closed when it is dropped. TCP closes by a reset: after
//! the verdict nothing is to be delivered, and TIME-WAIT would use up the ports to connect from.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::client::TlsStream;
use waxwing_packet::Protocol;
use waxwing_sdk::abi::health::errors;

use super::tls::{self, CheckTls};

/// The IPv4 and UDP headers of a datagram, in bytes; counted so that an empty datagram is not free.
const DATAGRAM_HEADERS: usize = 28;

const NO_FILE: &str = "no open file left for the check; raise the balancer's limit (`ulimit -n`, \
                       systemd: LimitNOFILE=)";

/// Why an import failed: an error code for the module, and a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ImportError {
    pub(super) code: i32,
    pub(super) text: String,
    /// Whether the balancer itself ran out of a resource, so the failure says nothing about the
    /// backend.
    pub(super) is_local: bool,
}

impl From<io::Error> for ImportError {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(error) = inner {
            return Self::new(errors::TLS, tls::describe(error));
        }
        match error.raw_os_error().and_then(shortage) {
            Some(text) => Self::local(text),
            None => Self::of_kind(&error),
        }
    }
}

impl ImportError {
    pub(super) fn new(code: i32, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            code,
            text,
            is_local: false,
        }
    }

    /// Checks have used up the open files that they may use.
    pub(super) fn out_of_files() -> Self {
        Self::local(NO_FILE)
    }

    fn local(text: &str) -> Self {
        Self {
            is_local: true,
            ..Self::new(errors::OTHER, text)
        }
    }

    fn of_kind(error: &io::Error) -> Self {
        let (code, text) = match error.kind() {
            ErrorKind::ConnectionRefused => (errors::REFUSED, "connection refused"),
            ErrorKind::HostUnreachable => (errors::UNREACHABLE, "host unreachable"),
            ErrorKind::NetworkUnreachable => (errors::UNREACHABLE, "network unreachable"),
            ErrorKind::ConnectionReset => (errors::RESET, "connection reset by the server"),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => {
                (errors::RESET, "connection closed by the server")
            }
            ErrorKind::TimedOut => (errors::TIMED_OUT, "the server does not answer"),
            _ => return Self::new(errors::OTHER, error.to_string()),
        };
        Self::new(code, text)
    }
}

/// Returns the resource that the balancer ran out of. No behaviour of a server causes these errors.
fn shortage(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EMFILE => NO_FILE,
        libc::ENFILE => "no open file left on this machine for the check (sysctl fs.file-max)",
        // `bind` and `connect` return the last two if all ports are in use.
        libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EAGAIN => {
            "no address or port left to connect from (sysctl net.ipv4.ip_local_port_range)"
        }
        libc::ENOBUFS | libc::ENOMEM => "no memory left in the kernel for the check's connection",
        _ => return None,
    })
}

/// An open connection.
pub(super) enum Connection {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Udp(UdpSocket),
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, protocol: Protocol) -> Result<Self, ImportError> {
        match protocol {
            Protocol::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                stream.set_zero_linger()?;
                Ok(Self::Tcp(stream))
            }
            Protocol::Udp => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(address).await?;
                Ok(Self::Udp(socket))
            }
        }
    }

    /// Performs a TLS handshake over a TCP connection.
    pub(super) async fn secure(
        self,
        tls: &CheckTls,
        address: SocketAddr,
        alpn: &[u8],
    ) -> Result<Self, ImportError> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(_) => {
                return Err(ImportError::new(
                    errors::INVALID,
                    "the connection already uses TLS",
                ));
            }
            Self::Udp(_) => return Err(ImportError::new(errors::INVALID, "TLS requires TCP")),
        };
        let secured = tls.connector(alpn).connect(tls.name(address.ip()), stream);
        match secured.await {
            Ok(stream) => Ok(Self::Tls(Box::new(stream))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(ImportError::new(
                errors::TLS,
                "the server closed the connection during the TLS handshake",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends all bytes, or one datagram.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<usize, ImportError> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await?,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
            }
            Self::Udp(socket) => return Ok(socket.send(bytes).await?),
        }
        Ok(bytes.len())
    }

    /// Receives some bytes; 0 at the end of a stream.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, ImportError> {
        let received = match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Tls(stream) => match stream.read(buffer).await {
                // Many servers close without a TLS close_notify. The check's own protocol says
                // whether the data is complete.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                received => received,
            },
            Self::Udp(socket) => socket.recv(buffer).await,
        };
        Ok(received?)
    }

    pub(super) fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    /// Returns the bytes counted per message in addition to its own.
    pub(super) fn overhead(&self) -> usize {
        if self.is_udp() { DATAGRAM_HEADERS } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shortages_of_the_balancer_are_local() {
        let cases = [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::EADDRINUSE, true),
            (libc::EAGAIN, true),
            (libc::ENOBUFS, true),
            (libc::ENOMEM, true),
            (libc::ECONNREFUSED, false),
            (libc::ECONNRESET, false),
            (libc::EHOSTUNREACH, false),
            (libc::ENETUNREACH, false),
            (libc::ETIMEDOUT, false),
            (libc::EPERM, false),
        ];
        for (errno, local) in cases {
            let failed = ImportError::from(io::Error::from_raw_os_error(errno));
            assert_eq!(failed.is_local, local, "{failed:?}");
        }
    }
}
