//! What passes an interface, frame by frame, both ways.
//!
//! Invariant: a capture holds what passed since it was opened, up to the kernel's buffer; it changes
//! nothing of it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};

use crate::netns::Namespace;

/// The longest frame there is.
const FRAME_MAX: usize = 65_536;
/// What the kernel holds of frames that were not taken yet, in bytes.
const BUFFER: usize = 8 << 20;

/// An interface that is being listened to.
#[derive(Debug)]
pub struct Capture {
    packets: OwnedFd,
    interface: usize,
}

impl Capture {
    /// Listens to an interface of a namespace from now on.
    ///
    /// # Errors
    /// There is no such interface, or no privilege for packet sockets.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.enter(|| Self::open_here(interface))?
    }

    fn open_here(interface: &str) -> Result<Self> {
        let index =
            if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
        let packets = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .context("cannot open a packet socket (it needs CAP_NET_RAW)")?;
        setsockopt(&packets, sockopt::RcvBufForce, &BUFFER)?;
        Ok(Self {
            packets,
            interface: usize::try_from(index)?,
        })
    }

    /// Takes the frames that passed, and those that still do, until none did for `pause`.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn take(&self, pause: Duration) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; FRAME_MAX];
        let mut last = Instant::now();
        while last.elapsed() < pause {
            match recvfrom::<LinkAddr>(self.packets.as_raw_fd(), &mut buffer) {
                Ok((len, from)) => {
                    if from.is_some_and(|from| from.ifindex() == self.interface) {
                        frames.push(buffer[..len].to_vec());
                    }
                    last = Instant::now();
                }
                Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error).context("cannot listen to an interface"),
            }
        }
        Ok(frames)
    }
}
