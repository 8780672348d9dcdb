//! The connections of a check: a stream, or datagrams.
//!
//! Invariant: one goes to the check's target, and is closed when it is dropped.

use std::io::{self, Read, Write};

use super::{Target, system, words};

/// A TCP connection to the target, perhaps with TLS. What a check sends goes out at once: write a
/// request in one piece.
pub struct Conn {
    stream: system::Stream,
    received: u64,
}

impl Conn {
    pub(super) fn open(target: &Target) -> io::Result<Self> {
        Ok(Self {
            stream: system::Stream::connect(target)?,
            received: 0,
        })
    }

    /// Goes on with TLS, which the host does: with the roots that the operator names or the
    /// system's, asking for [`Target::server_name`] and offering these protocols ("h2", "http/1.1"),
    /// or none. A check that runs natively has no TLS.
    ///
    /// # Errors
    /// The handshake failed, with what is wrong with the certificate; or natively, that it cannot.
    pub fn tls(self, alpn: &[&str]) -> io::Result<Self> {
        Ok(Self {
            stream: self.stream.tls(alpn)?,
            received: 0,
        })
    }

    /// The error for a stream that ended ([`Read::read`] gave 0) where more was expected: "closed by
    /// the server after 5 bytes".
    #[must_use]
    pub fn closed_early(&self) -> io::Error {
        words::closed_after(self.received)
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
    pub(super) fn open(target: &Target) -> io::Result<Self> {
        Ok(Self {
            socket: system::Socket::connect(target)?,
        })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// It was not taken: too large, over the host's limit, or an earlier one met a closed port.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let count = self.socket.send(datagram)?;
        if count == datagram.len() {
            Ok(())
        } else {
            Err(io::Error::other("the datagram was cut"))
        }
    }

    /// Waits for one datagram from the target. Returns its length; what does not fit is lost.
    ///
    /// # Errors
    /// None came in time, or the target's port is closed.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer)
    }
}
