//! The kernel path: a TAP device that passes frames without a service or session to the kernel.
//!
//! The kernel receives them on that device as it would have received them on their port.
//!
//! Invariant: a write never blocks. The device answers no ARP and has no address, so it attracts no
//! traffic. It disappears when its last descriptor is closed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::iter;
use std::os::unix::fs::OpenOptionsExt;

use waxwing_dataplane::FrameBuf;
use waxwing_packet::Mac;

use crate::XdpError;
use crate::options::CHUNKS_MAX;
use crate::sys::{self, InterfaceRequest};

/// Destination and source of an Ethernet header.
const MACS_LEN: usize = 12;
/// `EtherTypes` of VLAN tags (802.1Q, 802.1ad).
const VLAN_TYPES: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const VLAN_TAG_LEN: usize = 4;
const VLAN_TAGS_MAX: usize = 2;

/// One worker's queue of the TAP device.
pub(crate) struct TapQueue {
    device: File,
    mac: Mac,
}

/// Creates the device, with one queue for each worker.
///
/// # Errors
/// No privilege, no `/dev/net/tun`, or another process owns a device of this name.
pub(crate) fn create(
    name: &str,
    workers: usize,
    like_interface: &str,
) -> Result<Vec<TapQueue>, XdpError> {
    let failed =
        |error: io::Error| XdpError::system(format!("TAP device {name}, the kernel path"), error);
    let open = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        let device = options.open("/dev/net/tun")?;
        sys::make_tap(&device, name)?;
        Ok(device)
    };
    let devices: Vec<File> = (0..workers)
        .map(|_| open())
        .collect::<io::Result<_>>()
        .map_err(failed)?;
    configure(name, like_interface);
    let mut request = InterfaceRequest::new(name).map_err(failed)?;
    request
        .change_flags(libc::IFF_UP | libc::IFF_NOARP, 0)
        .map_err(failed)?;
    let mac = Mac(request.mac().map_err(failed)?);
    Ok(devices
        .into_iter()
        .map(|device| TapQueue { device, mac })
        .collect())
}

/// Makes the kernel route frames of this device like those of a port. Ignores errors: a kernel without IPv6
/// has no IPv6 settings.
fn configure(name: &str, like_interface: &str) {
    let set = |family: &str, key: &str, value: &str| {
        let path = format!("/proc/sys/net/{family}/conf/{name}/{key}");
        if let Err(error) = fs::write(&path, value) {
            tracing::debug!(path, %error, "setting not changed");
        }
    };
    let port = |family: &str, key: &str| {
        let path = format!("/proc/sys/net/{family}/conf/{like_interface}/{key}");
        fs::read_to_string(path).map_or_else(|_| "0".into(), |value| value.trim().to_owned())
    };
    // The route to a frame's source address leads through its port, so a strict reverse path check on
    // this device drops every frame. The kernel applies the larger of this value and `all`
    // (ip-sysctl.rst), so a strict `all` overrides it.
    set("ipv4", "rp_filter", "0");
    let all = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter");
    if all.is_ok_and(|value| value.trim() == "1") {
        tracing::warn!(
            "net.ipv4.conf.all.rp_filter = 1 makes the kernel drop the frames that it gets through {name}; \
             set it to 2 (loose), or to 0 and configure each interface"
        );
    }
    set("ipv4", "forwarding", &port("ipv4", "forwarding"));
    set("ipv4", "arp_ignore", "8");
    set("ipv4", "accept_redirects", "0");
    set("ipv4", "send_redirects", "0");
    set("ipv6", "addr_gen_mode", "1");
    set("ipv6", "accept_ra", "0");
    set("ipv6", "autoconf", "0");
    set("ipv6", "forwarding", &port("ipv6", "forwarding"));
}

impl TapQueue {
    /// Passes a frame to the kernel, with this device's MAC as unicast destination, because the kernel
    /// drops frames to other hosts, and without VLAN tags, because this device has no VLAN interfaces.
    ///
    /// # Errors
    /// `EAGAIN` when the kernel's queue is full.
    pub(crate) fn write<F: FrameBuf>(&mut self, frame: &mut F) -> io::Result<()> {
        let start = strip_tags(frame.bytes_mut());
        let untagged = &mut frame.bytes_mut()[start..];
        let Some(destination) = untagged.get_mut(..self.mac.0.len()) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        if destination[0] & 1 == 0 {
            destination.copy_from_slice(&self.mac.0);
        }
        // Each call writes a complete frame or nothing.
        let mut parts = [IoSlice::new(&[]); CHUNKS_MAX];
        let bytes = iter::once(&frame.bytes()[start..]);
        let rest = (0..).map_while(|number| frame.rest(number));
        let mut count = 0;
        for (part, bytes) in parts.iter_mut().zip(bytes.chain(rest)) {
            *part = IoSlice::new(bytes);
            count += 1;
        }
        self.device.write_vectored(&parts[..count]).map(drop)
    }
}

/// Removes a frame's VLAN tags by moving its MAC addresses forward; returns the frame's new start.
fn strip_tags(frame: &mut [u8]) -> usize {
    let mut tags = 0;
    while tags < VLAN_TAGS_MAX {
        let at = MACS_LEN + tags * VLAN_TAG_LEN;
        let Some(kind) = frame.get(at..at + 2) else {
            break;
        };
        let whole = frame.len() >= at + VLAN_TAG_LEN;
        if !whole || !VLAN_TYPES.iter().any(|vlan| vlan == kind) {
            break;
        }
        tags += 1;
    }
    let cut = tags * VLAN_TAG_LEN;
    if cut > 0 {
        frame.copy_within(..MACS_LEN, cut);
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tags_are_removed() {
        let macs = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let rest = [0x08, 0x00, 0x45, 0x00];
        let (inner, outer) = ([0x81, 0x00, 0, 5], [0x88, 0xa8, 0, 7]);
        for tags in [vec![], vec![inner], vec![outer, inner]] {
            let mut frame: Vec<u8> = macs.iter().chain(tags.concat().iter()).copied().collect();
            frame.extend(rest);
            let expected: Vec<u8> = macs.iter().chain(&rest).copied().collect();
            let start = strip_tags(&mut frame);
            assert_eq!(frame[start..], expected, "{} tags", tags.len());
        }
    }

    #[test]
    fn short_frames_cause_no_panic() {
        for len in 0..18 {
            let mut frame = vec![0x81; len];
            let _ = strip_tags(&mut frame);
        }
    }
}
