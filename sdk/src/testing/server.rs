//! Servers for health checks to ask, on this machine.
//!
//! Invariant: a server has one script and one thread, which ends with its client or with the
//! test; what its client sent is there to compare.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};

use super::TestTarget;
use crate::hash;

/// How long a server waits for its client to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// A TCP server for one connection. It does not wait to be asked: what it answers is on its way as
/// soon as somebody connects.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    thread: JoinHandle<io::Result<Vec<u8>>>,
}

impl TestServer {
    /// Sends these bytes in small pieces, and then closes its side.
    ///
    /// # Errors
    /// The system's, where it has no port to listen on.
    pub fn answers(bytes: impl Into<Vec<u8>>) -> io::Result<Self> {
        Self::start(bytes.into(), true)
    }

    /// Sends these bytes, and then nothing, with the connection left open.
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

    /// What its client sent until it closed the connection. Call it after the check.
    ///
    /// # Errors
    /// The client is still there, or the connection broke.
    ///
    /// # Panics
    /// If the server's thread did.
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
    // A client that has read enough may be gone at any time.
    let is_sent = answer
        .chunks(1000)
        .flat_map(|large| [&large[..large.len().min(3)], &large[large.len().min(3)..]])
        .all(|piece| client.write_all(piece).is_ok());
    if is_closing && is_sent {
        let _ = client.shutdown(Shutdown::Write);
    }
    let mut received = Vec::new();
    client.read_to_end(&mut received).or_else(|error| {
        // It closed with an answer unread.
        let is_reset = error.kind() == io::ErrorKind::ConnectionReset;
        if is_reset { Ok(0) } else { Err(error) }
    })?;
    Ok(received)
}

/// A UDP server: what `answer` makes of each datagram goes back, in order, until the test ends.
///
/// # Errors
/// The system's, where it has no port to listen on.
pub fn serve_datagrams(
    mut answer: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        // Sending may meet a client that has gone; that ends no server.
        while let Ok((count, client)) = socket.recv_from(&mut buffer) {
            for datagram in answer(&buffer[..count]) {
                let _ = socket.send_to(&datagram, client);
            }
        }
    });
    Ok(address)
}

/// Endlessly many damaged versions of an answer: three bytes of it changed, and every other one cut
/// as well. The seed decides which.
pub fn damaged(answer: &[u8], seed: u64) -> impl Iterator<Item = Vec<u8>> {
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
