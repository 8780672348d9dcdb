//! What an operator may choose, with defaults that suit most machines.
//!
//! Invariant: every size is a bound; what it bounds is allocated at start and never grows.

use waxwing_dataplane::BATCH;

use crate::XdpError;

/// The room that XDP keeps before a received frame's first byte (`XDP_PACKET_HEADROOM`).
const XDP_HEADROOM: u32 = 256;

/// The most chunks of one frame: the kernel sends and receives a first one and `MAX_SKB_FRAGS` more
/// (`xsk_build_skb`, net/xdp/xsk.c).
pub(crate) const CHUNKS_MAX: usize = 18;

/// The longest frame of all: offsets in it are sixteen bits.
const FRAME_LEN_MAX: u32 = u16::MAX as u32;

/// Ethernet header and two VLAN tags, in bytes.
pub(crate) const LINK_LEN_MAX: u32 = 22;

/// How many chunks a frame may lie in, as the MTU of the ports asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buffers {
    /// One: none is longer.
    #[default]
    One,
    /// Several: multi-buffer AF_XDP (Linux 6.6 and later).
    Several,
}

/// An interface to attach to. Its place in the list is its [`waxwing_dataplane::PortId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Its name, as `ip link` shows it.
    pub interface: String,
}

/// Whether the driver's rings carry the UMEM's frames themselves, without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Zero-copy where every port's driver has it, else copy mode. The sockets of one UMEM
    /// share the mode.
    #[default]
    Auto,
    /// Zero-copy or an error.
    Require,
    /// Copy mode.
    Off,
}

/// How a worker waits for frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollMode {
    /// Spins a while, then sleeps in `poll(2)`.
    #[default]
    Adaptive,
    /// Never sleeps and drives the driver itself: the kernel's preferred busy polling. Costs a
    /// whole CPU per worker and gives the steadiest latency.
    Busy,
}

/// Sizes and modes, the same for every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Zero-copy or not.
    pub zero_copy: ZeroCopy,
    /// How workers wait.
    pub poll: PollMode,
    /// Entries of each of a socket's four rings: a power of two.
    pub ring_size: u32,
    /// Chunks a socket gets, at least twice `ring_size`: one ring's worth to receive into, one
    /// to transmit from.
    pub frames_per_queue: u32,
    /// Bytes of a chunk, 2048 or 4096. It carries 256 bytes less than that, and a frame that is longer
    /// lies in several. The larger one suits any driver: some have buffers of whole KiB only, and the
    /// smaller one then holds less than an Ethernet's frame.
    pub frame_size: u32,
    /// Whether to try huge pages for the frames first.
    pub huge_pages: bool,
    /// Whether the driver may sleep and ask for a wake-up (`XDP_USE_NEED_WAKEUP`).
    pub need_wakeup: bool,
    /// The TAP device that hands frames back to the kernel; `None` does without.
    pub kernel_path: Option<String>,
    /// Most services in effect.
    pub services_max: u32,
    /// Most backend endpoints in effect.
    pub backends_max: u32,
    /// Most of the host's own addresses in effect.
    pub locals_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            zero_copy: ZeroCopy::Auto,
            poll: PollMode::Adaptive,
            ring_size: 2048,
            frames_per_queue: 2 * 2048 + 4 * 64,
            frame_size: 4096,
            huge_pages: true,
            need_wakeup: true,
            kernel_path: Some("waxwing0".into()),
            services_max: 16_384,
            backends_max: 65_536,
            locals_max: 4_096,
        }
    }
}

impl Options {
    /// The longest frame, link header included, in bytes.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "chunks of a frame are few")]
    pub const fn frame_len_max(&self, buffers: Buffers) -> u32 {
        let chunk = self.frame_size.saturating_sub(XDP_HEADROOM);
        let several = chunk * CHUNKS_MAX as u32;
        match buffers {
            Buffers::One => chunk,
            Buffers::Several if several > FRAME_LEN_MAX => FRAME_LEN_MAX,
            Buffers::Several => several,
        }
    }

    /// The largest MTU of a port, in bytes: with it a frame fits with its link header and two tags.
    #[must_use]
    pub const fn mtu_max(&self, buffers: Buffers) -> u32 {
        self.frame_len_max(buffers).saturating_sub(LINK_LEN_MAX)
    }

    /// # Errors
    /// [`XdpError::Options`]: which value is out of bounds, and the bounds.
    pub(crate) fn check(&self) -> Result<(), XdpError> {
        let refuse = |text: String| Err(XdpError::Options(text));
        if !self.ring_size.is_power_of_two() || !(64..=32_768).contains(&self.ring_size) {
            return refuse(format!(
                "ring_size = {}: must be a power of two from 64 to 32768",
                self.ring_size
            ));
        }
        if self.frames_per_queue < 2 * self.ring_size || self.frames_per_queue > 1 << 20 {
            return refuse(format!(
                "frames_per_queue = {}: must be from 2 * ring_size = {} to {}",
                self.frames_per_queue,
                2 * self.ring_size,
                1 << 20
            ));
        }
        if self.frame_size != 2048 && self.frame_size != 4096 {
            return refuse(format!(
                "frame_size = {}: must be 2048 or 4096",
                self.frame_size
            ));
        }
        // Twice the bound is allocated, so that a reload can add the new before it removes the old.
        let endpoints = [self.services_max, self.backends_max, self.locals_max];
        if endpoints.iter().any(|&max| max == 0 || max > 1 << 22) {
            return refuse(format!(
                "services_max, backends_max, locals_max = {endpoints:?}: must be from 1 to {}",
                1 << 22
            ));
        }
        Ok(())
    }
}

const _: () = assert!(
    BATCH == 64,
    "the default of frames_per_queue counts four batches"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_bounds() {
        Options::default().check().expect("valid");
    }

    #[test]
    fn the_mtu_that_fits_follows_the_chunks() {
        let (large, small) = (4096, 2048);
        for (frame_size, buffers, mtu_max) in [
            (small, Buffers::One, 1770),
            (large, Buffers::One, 3818),
            (small, Buffers::Several, 32_234),
            (large, Buffers::Several, 65_513),
        ] {
            let options = Options {
                frame_size,
                ..Options::default()
            };
            assert_eq!(options.mtu_max(buffers), mtu_max);
        }
    }

    #[test]
    fn each_bound_is_checked() {
        let default = Options::default();
        for wrong in [
            Options {
                ring_size: 1000,
                ..default.clone()
            },
            Options {
                ring_size: 32,
                ..default.clone()
            },
            Options {
                frames_per_queue: 4095,
                ..default.clone()
            },
            Options {
                frame_size: 1024,
                ..default.clone()
            },
            Options {
                services_max: 0,
                ..default.clone()
            },
            Options {
                backends_max: u32::MAX,
                ..default
            },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
