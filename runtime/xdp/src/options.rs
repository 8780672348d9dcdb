//! Options for the operator, with defaults for most machines.
//!
//! Invariant: memory of every configured size is allocated at start and never grows.

use waxwing_dataplane::BATCH;

use crate::XdpError;

/// Bytes that XDP reserves before a received frame (`XDP_PACKET_HEADROOM`).
pub(crate) const XDP_HEADROOM: u32 = 256;

/// Maximum number of chunks per frame: one, and `MAX_SKB_FRAGS` more (`xsk_build_skb`, net/xdp/xsk.c).
pub(crate) const CHUNKS_MAX: usize = 18;

/// Maximum length of a frame: offsets have 16 bits.
const FRAME_LEN_MAX: u32 = u16::MAX as u32;

/// Ethernet header and two VLAN tags, in bytes.
pub(crate) const LINK_LEN_MAX: u32 = 22;

/// Whether a frame may occupy several chunks, as decided by the ports' MTU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buffers {
    /// One chunk per frame.
    #[default]
    One,
    /// Several chunks per frame: multi-buffer AF_XDP (Linux 6.6 and later).
    Several,
}

/// An interface to attach to. Its index in the list is its [`waxwing_dataplane::PortId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Name, as in `ip link`.
    pub interface: String,
}

/// Whether the driver receives into and sends from the UMEM directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Zero-copy if every port's driver supports it, otherwise copy mode. All sockets of a UMEM have the
    /// same mode.
    #[default]
    Auto,
    /// Zero-copy, or an error.
    Require,
    /// Copy mode.
    Off,
}

/// How a worker waits for frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollMode {
    /// Spins for a short time, then sleeps in `poll(2)`.
    #[default]
    Adaptive,
    /// Never sleeps, and runs the driver from the worker: the kernel's preferred busy polling. Uses a
    /// whole CPU per worker; has the most stable latency.
    Busy,
}

/// Sizes and modes of all ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub zero_copy: ZeroCopy,
    pub poll: PollMode,
    /// Entries in each of a socket's four rings: a power of two.
    pub ring_size: u32,
    /// Chunks per socket, at least twice `ring_size`: to fill the receive and the transmit side.
    pub frames_per_queue: u32,
    /// Bytes per chunk, 2048 or 4096. A chunk holds 256 bytes less of a frame; a longer frame occupies
    /// several. 4096 works with every driver: some use whole KiB only, and a chunk of 2048 then holds less
    /// than a standard Ethernet frame.
    pub frame_size: u32,
    /// Whether to try huge pages for the UMEM.
    pub huge_pages: bool,
    /// Whether the driver may sleep and request a wake-up (`XDP_USE_NEED_WAKEUP`).
    pub need_wakeup: bool,
    /// Name of the TAP device that passes frames to the kernel; `None` for no device.
    pub kernel_path: Option<String>,
    /// Maximum number of services in effect.
    pub services_max: u32,
    /// Maximum number of backend endpoints in effect.
    pub backends_max: u32,
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
        }
    }
}

impl Options {
    /// Returns the maximum frame length, link header included, in bytes.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "CHUNKS_MAX is 18")]
    pub const fn frame_len_max(&self, buffers: Buffers) -> u32 {
        let chunk = self.frame_size.saturating_sub(XDP_HEADROOM);
        let several = chunk * CHUNKS_MAX as u32;
        match buffers {
            Buffers::One => chunk,
            Buffers::Several if several > FRAME_LEN_MAX => FRAME_LEN_MAX,
            Buffers::Several => several,
        }
    }

    /// Returns the maximum MTU of a port, in bytes: leaves room for a link header with two tags.
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
        // Twice the limit is allocated, because a reload adds new rules before it removes old ones.
        let endpoints = [self.services_max, self.backends_max];
        if endpoints.iter().any(|&max| max == 0 || max > 1 << 22) {
            return refuse(format!(
                "services_max, backends_max = {endpoints:?}: must be from 1 to {}",
                1 << 22
            ));
        }
        Ok(())
    }
}

const _: () = assert!(
    BATCH == 64,
    "the default of frames_per_queue includes four batches"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_bounds() {
        Options::default().check().expect("valid");
    }

    #[test]
    fn the_maximum_mtu_depends_on_chunk_size_and_count() {
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
    fn values_out_of_bounds_are_rejected() {
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
