//! The kernel path: a TAP device that passes frames without a service or session to the kernel.
//!
//! The kernel receives them on that device as it would have received them on their port.
//!
//! Invariant: a write never blocks. The device answers no ARP and has no address, so it attracts no
//! traffic. It disappears when its last descriptor is closed: at the end, not when ports are attached again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use waxwing_dataplane::FrameBuf;
use waxwing_packet::{Mac, Protocol, Transport, checksum, parse_plain};

use crate::XdpError;
use crate::options::CHUNKS_MAX;
use crate::sys::{self, InterfaceRequest};

/// The device that makes TAP devices.
const DEVICE: &str = "/dev/net/tun";
/// `struct virtio_net_hdr` (`<linux/virtio_net.h>`), and its flag `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const VNET_HEADER_LEN: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
/// Offsets of the checksum in a TCP and in a UDP header.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
/// Destination and source of an Ethernet header.
const MACS_LEN: usize = 12;
/// `EtherTypes` of VLAN tags (802.1Q, 802.1ad).
const VLAN_TYPES: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const VLAN_TAG_LEN: usize = 4;
const VLAN_TAGS_MAX: usize = 2;

/// The TAP device, with one queue for each worker.
pub(crate) struct Tap {
    name: String,
    /// The port whose forwarding settings it has.
    like_interface: String,
    queues: Vec<Arc<File>>,
    mac: Mac,
}

/// One worker's queue of the TAP device.
pub struct TapQueue {
    device: Arc<File>,
    mac: Mac,
}

impl TapQueue {
    /// A queue of another process's device.
    #[must_use]
    pub fn of(device: File, mac: Mac) -> Self {
        Self {
            device: Arc::new(device),
            mac,
        }
    }

    /// The device's MAC address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Tap {
    /// Creates the device, with one queue for each worker.
    ///
    /// # Errors
    /// No privilege, no `/dev/net/tun`, or another process owns a device of this name.
    pub(crate) fn create(
        name: &str,
        workers: usize,
        like_interface: &str,
    ) -> Result<Self, XdpError> {
        let failed = |error: io::Error| about(name, error);
        let open = |_| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK);
            options.open(DEVICE).map(Arc::new).map_err(explain)
        };
        let queues = (0..workers).map(open).collect::<io::Result<_>>();
        let mut tap = Self {
            name: name.into(),
            like_interface: like_interface.into(),
            queues: queues.map_err(failed)?,
            mac: Mac::default(),
        };
        let mut request = tap.make().map_err(failed)?;
        tap.mac = Mac(request.mac().map_err(failed)?);
        tap.bring_up(&mut request).map_err(failed)?;
        Ok(tap)
    }

    /// The device of another process, of whose queues `first` is one.
    pub(crate) fn of(
        name: &str,
        like_interface: &str,
        first: &TapQueue,
        queues: &[&TapQueue],
    ) -> Self {
        Self {
            name: name.into(),
            like_interface: like_interface.into(),
            queues: queues
                .iter()
                .map(|queue| Arc::clone(&queue.device))
                .collect(),
            mac: first.mac,
        }
    }

    /// Makes a device of the descriptors: new ones, or those of a deleted device.
    fn make(&self) -> io::Result<InterfaceRequest> {
        for queue in &self.queues {
            sys::make_tap(queue, &self.name)?;
        }
        InterfaceRequest::new(&self.name)
    }

    fn bring_up(&self, request: &mut InterfaceRequest) -> io::Result<()> {
        configure(&self.name, &self.like_interface);
        request.change_flags(libc::IFF_UP | libc::IFF_NOARP, 0)
    }

    /// Returns the workers' queues.
    pub(crate) fn queues(&self) -> Vec<TapQueue> {
        let queue = |device: &Arc<File>| TapQueue {
            device: Arc::clone(device),
            mac: self.mac,
        };
        self.queues.iter().map(queue).collect()
    }

    /// Makes the device again if it was deleted, brings it up if it was set down, and undoes a reverse path
    /// check on it. Returns what keeps the kernel from taking its frames.
    pub(crate) fn follow(&self) -> Option<String> {
        match self.restore() {
            Ok(()) => strict_check(&self.name),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Some(format!(
                "the TAP device {0} was renamed; name it {0} again",
                self.name
            )),
            Err(error) => Some(about(&self.name, error).to_string()),
        }
    }

    fn restore(&self) -> io::Result<()> {
        let name = &self.name;
        let mut request = InterfaceRequest::new(name)?;
        match request.flags() {
            Ok(flags) if flags & libc::IFF_UP != 0 => Ok(()),
            Ok(_) => {
                self.bring_up(&mut request)?;
                tracing::warn!("the TAP device {name} was set down and is up again; leave it up");
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                // The workers' queues work again too, because they share the descriptors, and the MAC
                // address that they write.
                let mut request = self.make()?;
                request.set_mac(self.mac.0)?;
                self.bring_up(&mut request)?;
                tracing::warn!("the TAP device {name} was deleted and is made again; leave it");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Says who may open the device.
fn explain(error: io::Error) -> io::Error {
    let remedy =
        format!("{DEVICE}: {error}; every user may open it where udev runs (chmod 0666 {DEVICE})");
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), remedy),
        _ => error,
    }
}

fn about(name: &str, error: io::Error) -> XdpError {
    XdpError::system(format!("TAP device {name}, the kernel path"), error)
}

/// Turns off the reverse path check of this device, and returns a problem if the check for all interfaces
/// stays strict. The route to a frame's source address leads through its port, so a strict check here drops
/// every frame. The kernel applies the larger of this value and `all` (ip-sysctl.rst).
fn strict_check(name: &str) -> Option<String> {
    let path = |interface| format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    let is_strict = |interface| {
        let value = fs::read_to_string(path(interface));
        value.is_ok_and(|value| value.trim() == "1")
    };
    if is_strict(name)
        && let Err(error) = fs::write(path(name), "0")
    {
        return Some(format!(
            "net.ipv4.conf.{name}.rp_filter = 1 makes the kernel drop the frames that it gets through {name} \
             ({error}); `sysctl -w net.ipv4.conf.{name}.rp_filter=0`"
        ));
    }
    is_strict("all").then(|| {
        format!(
            "net.ipv4.conf.all.rp_filter = 1 makes the kernel drop the frames that it gets through {name}; \
             `sysctl -w net.ipv4.conf.all.rp_filter=2` (loose), or 0 and a value for each interface"
        )
    })
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
    set("ipv4", "rp_filter", "0");
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
        let mut parts = [IoSlice::new(&[]); 1 + CHUNKS_MAX];
        let head = &frame.bytes()[start..];
        let header = vnet_header(head);
        let bytes = [&header, head].into_iter();
        let rest = (0..).map_while(|number| frame.rest(number));
        let mut count = 0;
        for (part, bytes) in parts.iter_mut().zip(bytes.chain(rest)) {
            *part = IoSlice::new(bytes);
            count += 1;
        }
        (&*self.device).write_vectored(&parts[..count]).map(drop)
    }
}

/// Returns the `struct virtio_net_hdr` of a frame: it has the kernel complete an unfinished checksum, as it
/// would have completed it on the port. (For a complete one that looks unfinished the result is the same.)
fn vnet_header(frame: &[u8]) -> [u8; VNET_HEADER_LEN] {
    let mut header = [0; VNET_HEADER_LEN];
    if let Some((start, offset)) = unfinished_checksum(frame) {
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    header
}

/// Returns where an unfinished checksum's range starts, and the checksum's offset in it.
fn unfinished_checksum(frame: &[u8]) -> Option<(u16, u16)> {
    let packet = parse_plain(frame)?;
    let (protocol, offset) = match packet.transport {
        Transport::Tcp { .. } => (Protocol::Tcp, TCP_CHECKSUM),
        Transport::Udp { .. } => (Protocol::Udp, UDP_CHECKSUM),
        _ => return None,
    };
    let (start, len) = (packet.transport_start, packet.end - packet.transport_start);
    let at = usize::from(start + offset);
    let stored = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
    let (from, to) = (packet.source, packet.destination);
    let unfinished = checksum::unfinished(from, to, protocol as u8, len.into());
    (stored == unfinished).then_some((start, offset))
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
    use waxwing_packet::Address;
    use waxwing_testkit::build::Tcp;

    use super::*;

    #[test]
    fn the_kernel_completes_unfinished_checksums_only() {
        let complete = Tcp {
            source: (Address::v4([10, 2, 0, 11]), 8080),
            destination: (Address::v4([10, 1, 0, 2]), 40_000),
            payload: b"odd",
            ..Tcp::default()
        }
        .frame();
        assert_eq!(vnet_header(&complete), [0; VNET_HEADER_LEN]);
        let mut unfinished = complete;
        let packet = parse_plain(&unfinished).expect("a packet");
        let sum = checksum::unfinished(packet.source, packet.destination, 6, 20 + 3);
        unfinished[34 + 16..34 + 18].copy_from_slice(&sum.to_be_bytes());
        let [start, offset] = [34_u16.to_ne_bytes(), 16_u16.to_ne_bytes()];
        let expected = [
            [1, 0, 0, 0, 0, 0],
            [start[0], start[1], offset[0], offset[1], 0, 0],
        ];
        assert_eq!(
            vnet_header(&unfinished),
            expected.as_flattened()[..VNET_HEADER_LEN]
        );
        assert_eq!(vnet_header(&unfinished[..30]), [0; VNET_HEADER_LEN]);
    }

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
