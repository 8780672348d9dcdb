//! A UDP echo server, and a client that waits for each answer.
//!
//! Invariant: the client's wait is bounded. The client recognises an answer by the number in it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::Namespace;

/// The longest time until a server notices that it must end.
const LOOK: Duration = Duration::from_millis(100);

/// A server that returns each datagram, until it is dropped.
#[derive(Debug)]
pub struct Echo {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts a server on all IPv4 addresses of a namespace.
    pub fn start(server: &Namespace, port: u16) -> Result<Self> {
        let socket = server.enter(|| UdpSocket::bind(("0.0.0.0", port)))??;
        socket.set_read_timeout(Some(LOOK))?;
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    // Sending may fail: the client notices a lost datagram.
                    drop(socket.send_to(&bytes[..len], from));
                }
            }
        });
        Ok(Self {
            ends,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One flow of a client.
#[derive(Debug)]
pub struct Pinger(UdpSocket);

impl Pinger {
    /// Opens a flow from this thread's namespace to a server. Each answer may take `patience`.
    pub fn new(server: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect(server)?;
        Ok(Self(socket))
    }

    /// Sends a number.
    pub fn send(&self, number: u64) -> io::Result<()> {
        self.0.send(&number.to_le_bytes()).map(drop)
    }

    /// Waits for the answer to a number. Late answers to smaller ones are skipped.
    ///
    /// # Errors
    /// No answer arrives in time, or it contains a number that was not sent yet.
    pub fn wait(&self, number: u64) -> io::Result<()> {
        let mut answer = [0; 8];
        loop {
            self.0
                .recv(&mut answer)
                .map_err(|error| io::Error::other(format!("no answer to {number}: {error}")))?;
            let came = u64::from_le_bytes(answer);
            if came == number {
                return Ok(());
            }
            if came > number {
                return Err(io::Error::other(format!("{number} came back as {came}")));
            }
        }
    }
}
