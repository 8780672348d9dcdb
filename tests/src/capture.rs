//! Captures frames on an interface.
//!
//! Invariant: frames that the host itself sends are captured only by [`Capture::of_wire`].

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::inject::link;
use crate::netns::Namespace;

/// Bytes of a frame that are captured; a longer frame is cut.
const FRAME_MAX: usize = 1 << 16;
/// `PACKET_OUTGOING`: sent by this host.
const OUTGOING: u8 = 4;
/// `PACKET_OTHERHOST`: addressed to another host, or in a VLAN without a device on this host.
const OTHER_HOST: u8 = 3;

/// The kernel's buffer for frames of both directions, in bytes.
const BUFFER: usize = 8 << 20;

#[derive(Debug)]
pub struct Capture {
    packets: OwnedFd,
    both_ways: bool,
}

#[derive(Clone, Debug)]
pub struct Captured {
    /// The frame's bytes, without the outer VLAN tag, which the kernel strips.
    pub frame: Vec<u8>,
    /// Whether the frame is addressed to another host.
    pub other_host: bool,
}

impl Capture {
    /// Captures received packets of a protocol on an interface in this thread's namespace.
    pub fn open(interface: &str, protocol: SockProtocol) -> Result<Self> {
        let packets = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )
        .context("cannot open a packet socket (it needs CAP_NET_RAW)")?;
        bind(packets.as_raw_fd(), &link(interface)?)
            .with_context(|| format!("cannot listen on {interface}"))?;
        Ok(Self {
            packets,
            both_ways: false,
        })
    }

    /// Captures all frames on an interface of a namespace, sent and received.
    pub fn of_wire(namespace: &Namespace, interface: &str) -> Result<Self> {
        let open = || Self::open(interface, SockProtocol::EthAll);
        let capture = namespace.enter(open)??;
        setsockopt(&capture.packets, sockopt::RcvBufForce, &BUFFER)?;
        Ok(Self {
            both_ways: true,
            ..capture
        })
    }

    /// Returns all captured frames, after a `pause` without a frame.
    pub fn take(&self, pause: Duration) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        while let Some(captured) = self.next(pause)? {
            frames.push(captured.frame);
        }
        Ok(frames)
    }

    /// Returns the next frame, or `None` after the time `within`.
    pub fn next(&self, within: Duration) -> Result<Option<Captured>> {
        let end = Instant::now() + within;
        let mut buffer = vec![0; FRAME_MAX];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Zero means no timeout.
            let left_us = i64::try_from(left.as_micros())?.max(1);
            let wait = TimeVal::new(left_us / 1_000_000, left_us % 1_000_000);
            setsockopt(&self.packets, sockopt::ReceiveTimeout, &wait)?;
            match recvfrom::<LinkAddr>(self.packets.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == OUTGOING && !self.both_ways => {}
                Ok((len, from)) => {
                    buffer.truncate(len);
                    return Ok(Some(Captured {
                        frame: buffer,
                        other_host: from.is_some_and(|from| from.pkttype() == OTHER_HOST),
                    }));
                }
                Err(Errno::EAGAIN | Errno::EINTR) if left.is_zero() => return Ok(None),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot receive frames"),
            }
        }
    }
}
