//! One connection of a check: TCP, TLS over it, or UDP.
//!
//! Invariant: it is to the target and to nothing else, and closed when it is dropped.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::client::TlsStream;
use waxwing_packet::Protocol;
use waxwing_sdk::abi::health::errors;

use super::tls::{self, CheckTls};

/// A datagram's headers, of IPv4 and UDP: so that an empty one is not free.
const DATAGRAM_HEADERS: usize = 28;

/// Why something could not be done: what the module gets, and the words to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failed {
    pub(super) code: i32,
    pub(super) words: String,
    /// Whether the balancer itself was short of something, so that it says nothing of the backend.
    pub(super) is_local: bool,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(error) = inner {
            return Self::new(errors::TLS, tls::describe(error));
        }
        match error.raw_os_error().and_then(shortage) {
            Some(words) => Self {
                is_local: true,
                ..Self::new(errors::OTHER, words)
            },
            None => Self::of_kind(&error),
        }
    }
}

impl Failed {
    pub(super) fn new(code: i32, words: impl Into<String>) -> Self {
        let words = words.into();
        Self {
            code,
            words,
            is_local: false,
        }
    }

    fn of_kind(error: &io::Error) -> Self {
        let (code, words) = match error.kind() {
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
        Self::new(code, words)
    }
}

/// What the balancer is short of, by the system's error: nothing that a server does makes one of these.
fn shortage(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EMFILE => "no open file left for the check; raise the balancer's limit (ulimit -n)",
        libc::ENFILE => "no open file left on this machine for the check (sysctl fs.file-max)",
        // The last two are what `bind` and `connect` say where all ports are taken.
        libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EAGAIN => {
            "no address or port left to connect from (sysctl net.ipv4.ip_local_port_range)"
        }
        libc::ENOBUFS | libc::ENOMEM => "no memory left in the kernel for the check's connection",
        _ => return None,
    })
}

/// An open one.
pub(super) enum Connection {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Udp(UdpSocket),
}

impl Connection {
    /// Connects to an address.
    pub(super) async fn open(address: SocketAddr, protocol: Protocol) -> Result<Self, Failed> {
        match protocol {
            Protocol::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
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

    /// Has TLS from here on.
    pub(super) async fn secure(
        self,
        tls: &CheckTls,
        address: SocketAddr,
        alpn: &[u8],
    ) -> Result<Self, Failed> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(_) => return Err(Failed::new(errors::INVALID, "it has TLS already")),
            Self::Udp(_) => return Err(Failed::new(errors::INVALID, "TLS is of TCP only")),
        };
        let secured = tls.connector(alpn).connect(tls.name(address.ip()), stream);
        match secured.await {
            Ok(stream) => Ok(Self::Tls(Box::new(stream))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Failed::new(
                errors::TLS,
                "the server closed the connection during the TLS handshake",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends all of it.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<usize, Failed> {
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

    /// Receives some; 0 at the end of the stream.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Failed> {
        let received = match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Tls(stream) => match stream.read(buffer).await {
                // Many servers close without the TLS word for it. What a check reads says where it
                // ends.
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

    /// What each message costs beside its bytes.
    pub(super) fn overhead(&self) -> usize {
        if self.is_udp() { DATAGRAM_HEADERS } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_balancers_own_shortages_are_local() {
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
            let failed = Failed::from(io::Error::from_raw_os_error(errno));
            assert_eq!(failed.is_local, local, "{failed:?}");
        }
    }
}
