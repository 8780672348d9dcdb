//! Local servers for tests of health checks.
//!
//! Invariant: a server has one script and one thread, which ends with its client or with the test.
//! It keeps what its client sent.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};

use super::TestTarget;
use crate::hash;

/// How long a server waits for its client to close.
const PATIENCE: Duration = Duration::from_secs(10);

/// A TCP server for one connection. It sends its answer as soon as the client connects, without
/// waiting for a request.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    thread: JoinHandle<io::Result<Vec<u8>>>,
}

impl TestServer {
    /// Starts a server that sends these bytes in small pieces and then closes its side.
    ///
    /// # Errors
    /// Fails if no port is free to listen on.
    pub fn answers(bytes: impl Into<Vec<u8>>) -> io::Result<Self> {
        Self::start(bytes.into(), true)
    }

    /// Starts a server that sends these bytes and keeps the connection open.
    ///
    /// # Errors
    /// As [`TestServer::answers`].
    pub fn hangs_after(bytes: impl Into<Vec<u8>>) -> io::Result<Self> {
        Self::start(bytes.into(), false)
    }

    fn start(answer: Vec<u8>, is_closing: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let thread = thread::spawn(move || serve(listener.accept()?.0, &answer, is_closing));
        Ok(Self { address, thread })
    }

    /// Returns what the client sent until it closed the connection. Call it after the check.
    ///
    /// # Errors
    /// Fails if the client does not close, or the connection broke.
    ///
    /// # Panics
    /// Panics if the server's thread did.
    pub fn received(self) -> io::Result<Vec<u8>> {
        self.thread.join().expect("the server does not panic")
    }
}

impl From<&TestServer> for TestTarget {
    fn from(server: &TestServer) -> Self {
        Self::new(server.address)
    }
}

fn serve(mut client: TcpStream, answer: &[u8], is_closing: bool) -> io::Result<Vec<u8>> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    // A client that has read enough may be gone.
    let is_sent = answer
        .chunks(1000)
        .flat_map(|large| [&large[..large.len().min(3)], &large[large.len().min(3)..]])
        .all(|piece| client.write_all(piece).is_ok());
    if is_closing && is_sent {
        let _ = client.shutdown(Shutdown::Write);
    }
    let mut received = Vec::new();
    client.read_to_end(&mut received).or_else(|error| {
        // The client closed with data unread.
        let is_reset = error.kind() == io::ErrorKind::ConnectionReset;
        if is_reset { Ok(0) } else { Err(error) }
    })?;
    Ok(received)
}

/// Starts a UDP server that answers each datagram with the datagrams of `answer`, in order, until
/// the test ends.
///
/// # Errors
/// Fails if no port is free.
pub fn serve_datagrams(
    mut answer: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        // Sending fails if the client is gone; the server continues.
        while let Ok((count, client)) = socket.recv_from(&mut buffer) {
            for datagram in answer(&buffer[..count]) {
                let _ = socket.send_to(&datagram, client);
            }
        }
    });
    Ok(address)
}

/// Returns endless corrupted copies of an answer: three bytes changed, and every other copy
/// truncated. The seed decides which bytes.
pub fn corrupted(answer: &[u8], seed: u64) -> impl Iterator<Item = Vec<u8>> {
    (0..).map(move |n: u64| {
        let mut answer = answer.to_vec();
        let [a, b, c, to_a, to_b, to_c, cut, is_cut] = hash::mix(n ^ hash::mix(seed)).to_le_bytes();
        for (at, to) in [(a, to_a), (b, to_b), (c, to_c)] {
            let at = usize::from(at) % answer.len().max(1);
            if let Some(byte) = answer.get_mut(at) {
                *byte = to;
            }
        }
        if is_cut % 2 == 0 {
            answer.truncate(usize::from(cut) % answer.len().max(1));
        }
        answer
    })
}
