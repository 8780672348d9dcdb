//! A check's connections: a TCP stream, or UDP datagrams.
//!
//! Invariant: a connection goes to the check's target and closes when it is dropped.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read, Write};

use super::{messages, system};

/// A TCP connection to the target, with or without TLS. Every write is sent at once, so write a
/// request in one piece.
pub struct Conn {
    stream: system::Stream,
    received: u64,
}

impl Conn {
    pub(super) fn open(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            stream: system::Stream::connect(address, timeout)?,
            received: 0,
        })
    }

    /// Starts TLS on the connection. The host does it: it checks the certificate against the
    /// operator's roots or the system's, asks for [`super::Target::server_name`], and offers these
    /// protocols ("h2", "http/1.1") or none.
    ///
    /// # Errors
    /// Fails if the handshake fails; the error names what is wrong with the certificate. Always
    /// fails natively, where there is no TLS.
    pub fn tls(self, alpn: &[&str]) -> io::Result<Self> {
        Ok(Self {
            stream: self.stream.tls(alpn)?,
            received: 0,
        })
    }

    /// Returns the error for a stream that ended too early, after [`Read::read`] returned 0:
    /// "closed by the server after 5 bytes".
    #[must_use]
    pub fn closed_early(&self) -> io::Error {
        messages::closed_after(self.received)
    }
}

impl Read for Conn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.recv(buffer)?;
        self.received += count as u64;
        Ok(count)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(self.closed_early()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }
}

impl Write for Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Datagrams to and from the target, over UDP.
pub struct Datagrams {
    socket: system::Socket,
}

impl Datagrams {
    pub(super) fn open(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            socket: system::Socket::connect(address, timeout)?,
        })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// Fails if the datagram is too large or over the host's limit, or if an earlier one reached a
    /// closed port.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let count = self.socket.send(datagram)?;
        if count == datagram.len() {
            Ok(())
        } else {
            Err(io::Error::other("the datagram was truncated"))
        }
    }

    /// Waits for one datagram from the target and returns its length. Bytes that do not fit are
    /// lost.
    ///
    /// # Errors
    /// Fails if none comes in time, or the target's port is closed.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer)
    }
}
