//! System calls that the standard library lacks, as safe functions.
//!
//! Invariant: no function takes or returns a raw pointer. A file descriptor is a borrow, or a number that
//! the kernel checks.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::ring::SocketOffsets;

/// `SO_PREFER_BUSY_POLL`, `SO_BUSY_POLL`, `SO_BUSY_POLL_BUDGET`: `socket(7)`, `<asm/socket.h>`.
pub(crate) const SO_PREFER_BUSY_POLL: i32 = 69;
pub(crate) const SO_BUSY_POLL: i32 = 46;
pub(crate) const SO_BUSY_POLL_BUDGET: i32 = 70;
const SO_INCOMING_NAPI_ID: i32 = 56;

/// `ETHTOOL_GCHANNELS`: `<linux/ethtool.h>`.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Converts the result of a call that returns -1 on error.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Returns a type's size as `socklen_t`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the structures here are a few bytes"
)]
const fn len_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// Takes over the descriptors that a service manager has started this process with, from number 3 on
/// (sd_listen_fds(3)). No program that this process runs gets them. Call it before any other descriptor is
/// opened; the second call returns none.
///
/// # Errors
/// `EBADF`: one of them is not open.
pub fn inherited_descriptors(count: u16) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let take = |number: RawFd| {
        // SAFETY: the call has no pointers.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        // SAFETY: it is open, and the service manager has passed it for this program to own. No other value
        // owns it: this is done once, and before this process opens any.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    (3..3 + RawFd::from(count)).map(take).collect()
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` when the CPU does not exist, is offline, or is not in the process's set.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all-zero bytes are valid for an array of integers (the empty set).
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the index is below the set's size in bits, checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer is to a live set of the given size; 0 means the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// Returns the CPUs that the calling thread may run on, in order.
///
/// # Errors
/// `EINVAL` when the system has more CPUs than a set holds.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: all-zero bytes are valid for an array of integers (the empty set).
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live set of the given size; 0 means the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    let is_in = |cpu: &usize| {
        // SAFETY: the index is below the set's size in bits.
        unsafe { libc::CPU_ISSET(*cpu, &set) }
    };
    Ok((0..8 * size_of::<libc::cpu_set_t>())
        .filter(is_in)
        .collect())
}

/// Duplicates a descriptor.
///
/// # Errors
/// `EBADF` when `fd` is not open, `EMFILE` at the limit of open files.
pub(crate) fn duplicate(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for this call only; for a number that is not open the kernel returns EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}

/// Creates a file in memory, of no length.
///
/// # Errors
/// `EMFILE` at the limit of open files; `EINVAL` or `ENOSYS` without huge pages, if they are wanted.
pub(crate) fn memory_file(huge_pages: bool) -> io::Result<OwnedFd> {
    let huge = if huge_pages { libc::MFD_HUGETLB } else { 0 };
    // SAFETY: the name ends in zero.
    let fd = check(unsafe { libc::memfd_create(c"waxwing".as_ptr(), libc::MFD_CLOEXEC | huge) })?;
    // SAFETY: the kernel just returned it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where a program is attached, and how (`enum bpf_attach_type`, `XDP_FLAGS_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AttachPoint {
    XdpNative,
    XdpGeneric,
    TcIngress,
}

/// Attaches a program to an interface by a link: it is detached when the link's last descriptor is closed.
///
/// # Errors
/// `EBUSY` or `EEXIST` if another program is there; `EOPNOTSUPP` or others if the driver does not support it.
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    interface: u32,
    at: AttachPoint,
) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    const BPF_TCX_INGRESS: u32 = 46;
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let (kind, flags) = match at {
        AttachPoint::XdpNative => (BPF_XDP, XDP_FLAGS_DRV_MODE),
        AttachPoint::XdpGeneric => (BPF_XDP, XDP_FLAGS_SKB_MODE),
        AttachPoint::TcIngress => (BPF_TCX_INGRESS, 0),
    };
    let program = program.as_raw_fd().cast_unsigned();
    let fd = bpf(BPF_LINK_CREATE, [program, interface, kind, flags])?;
    // SAFETY: the kernel just returned it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces a link's program, without a gap.
pub(crate) fn update_link(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_UPDATE: libc::c_long = 29;
    let [link, program] = [link.as_raw_fd(), program.as_raw_fd()].map(i32::cast_unsigned);
    bpf(BPF_LINK_UPDATE, [link, program, 0, 0]).map(drop)
}

/// Calls `bpf(2)` with these first words of its attributes; the others are zero.
fn bpf(command: libc::c_long, words: [u32; 4]) -> io::Result<libc::c_int> {
    let mut attributes = [0_u32; 16];
    attributes[..4].copy_from_slice(&words);
    // SAFETY: the pointer is to live memory of the given size, and none of its words is a pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    check(libc::c_int::try_from(result).map_err(io::Error::other)?)
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer is to a live integer of the given size.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            len_of::<i32>(),
        )
    })?;
    Ok(())
}

/// Reads a socket option whose value is an integer or a structure of integers.
fn option<T: Integers>(fd: &impl AsRawFd, level: i32, name: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut len = len_of::<T>();
    // SAFETY: the pointers are to a live value and to its size, which the kernel does not exceed. Any
    // bytes that it writes are valid for `T: Integers`.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// An integer or a `repr(C)` structure of integers: any bytes are valid.
trait Integers: Default {}

impl Integers for u32 {}
impl Integers for Statistics {}
impl Integers for SocketOffsets {}

/// The kernel's counters of an AF_XDP socket (`struct xdp_statistics`, `<linux/if_xdp.h>`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    /// Frames dropped for a reason other than a full receive ring.
    pub rx_dropped: u64,
    /// Invalid entries of the fill ring.
    pub rx_invalid: u64,
    /// Invalid entries of the transmit ring.
    pub tx_invalid: u64,
    /// Frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Times that the kernel found the transmit ring empty.
    pub tx_ring_empty: u64,
}

/// Reads an AF_XDP socket's counters.
pub(crate) fn statistics(fd: &impl AsRawFd) -> io::Result<Statistics> {
    option(fd, libc::SOL_XDP, libc::XDP_STATISTICS)
}

/// Returns where an AF_XDP socket's rings are.
pub(crate) fn ring_offsets(fd: &impl AsRawFd) -> io::Result<SocketOffsets> {
    option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)
}

/// Returns whether a bound socket is in zero-copy mode.
pub(crate) fn is_zero_copy(fd: &impl AsRawFd) -> io::Result<bool> {
    let options: u32 = option(fd, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(options & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Returns whether the kernel knows the NAPI instance that serves a socket, and so can busy poll it.
pub(crate) fn can_busy_poll(fd: &impl AsRawFd) -> bool {
    option(fd, libc::SOL_SOCKET, SO_INCOMING_NAPI_ID).is_ok_and(|id: u32| id != 0)
}

/// Wakes a socket's receive side: the driver takes chunks from the fill ring, or the kernel polls the
/// device. Ignores errors: there is nothing to receive then.
pub(crate) fn kick_receive(fd: &impl AsRawFd) {
    // SAFETY: the length is zero and the pointers are null, so the call accesses no memory.
    unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}

/// Has the kernel send what is in a socket's transmit ring.
///
/// # Errors
/// Those after which it does not send later either: the device is gone (`ENXIO`).
pub(crate) fn kick_transmit(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the length is zero and the pointers are null, so the call accesses no memory.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if sent >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::EAGAIN | libc::EBUSY | libc::ENETDOWN) => Ok(()),
        _ => Err(error),
    }
}

/// Wakes a socket's driver if the kernel asks for it. Does not block.
pub(crate) fn wake(fd: &impl AsRawFd) {
    let mut one = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer is to one live structure, and the count is 1.
    unsafe { libc::poll(&raw mut one, 1, 0) };
}

/// Sockets to wait for.
pub(crate) struct PollSet(Vec<libc::pollfd>);

impl PollSet {
    pub(crate) fn new(fds: impl Iterator<Item = RawFd>) -> Self {
        let mut set = Self(Vec::new());
        fds.for_each(|fd| set.add(fd));
        set
    }

    pub(crate) fn add(&mut self, fd: RawFd) {
        self.0.push(libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
    }

    /// Sleeps until a socket is readable, a signal arrives, or `timeout` has passed.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(3600) as libc::time_t,
            tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
        };
        // SAFETY: pointer and count describe a live array; the timeout is live; the mask is null.
        unsafe {
            libc::ppoll(
                self.0.as_mut_ptr(),
                self.0.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            )
        };
    }
}

/// An interface's `ifreq`, and a socket for its ioctls (`netdevice(7)`).
pub(crate) struct InterfaceRequest {
    socket: std::net::UdpSocket,
    request: libc::ifreq,
}

impl InterfaceRequest {
    /// # Errors
    /// `ENODEV` when the name is not valid for an interface.
    pub(crate) fn new(interface: &str) -> io::Result<Self> {
        Ok(Self {
            socket: std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| {
                // In a new network namespace loopback is down; the unspecified address always binds.
                std::net::UdpSocket::bind("0.0.0.0:0")
            })?,
            request: named(interface)?,
        })
    }

    fn call(&mut self, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: every request of this module reads and writes one `ifreq`, which is live, and for
        // SIOCETHTOOL also the live structure that its data pointer refers to.
        check(unsafe {
            libc::ioctl(self.socket.as_raw_fd(), request as _, &raw mut self.request)
        })?;
        Ok(())
    }

    pub(crate) fn index(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFINDEX)?;
        // SAFETY: SIOCGIFINDEX succeeded, so the kernel wrote this member.
        let index = unsafe { self.request.ifr_ifru.ifru_ifindex };
        u32::try_from(index).map_err(io::Error::other)
    }

    pub(crate) fn mac(&mut self) -> io::Result<[u8; 6]> {
        self.call(libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFHWADDR succeeded, so the kernel wrote this member.
        let data = unsafe { self.request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok(std::array::from_fn(|i| data[i].to_ne_bytes()[0]))
    }

    pub(crate) fn set_mac(&mut self, mac: [u8; 6]) -> io::Result<()> {
        let sa_data = std::array::from_fn(|i| mac.get(i).copied().unwrap_or(0).cast_signed() as _);
        self.request.ifr_ifru.ifru_hwaddr = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data,
        };
        self.call(libc::SIOCSIFHWADDR)
    }

    /// In bytes.
    pub(crate) fn mtu(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFMTU)?;
        // SAFETY: SIOCGIFMTU succeeded, so the kernel wrote this member.
        let mtu = unsafe { self.request.ifr_ifru.ifru_mtu };
        u32::try_from(mtu).map_err(io::Error::other)
    }

    /// `IFF_UP` and others.
    pub(crate) fn flags(&mut self) -> io::Result<i32> {
        self.call(libc::SIOCGIFFLAGS)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the kernel wrote this member.
        Ok(i32::from(unsafe { self.request.ifr_ifru.ifru_flags }))
    }

    pub(crate) fn change_flags(&mut self, set: i32, clear: i32) -> io::Result<()> {
        let flags = (self.flags()? & !clear) | set;
        // The structure holds the lower 16 bits of the flags.
        let [low, high, ..] = flags.to_ne_bytes();
        self.request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes([low, high]);
        self.call(libc::SIOCSIFFLAGS)
    }

    /// Returns the numbers of receive and transmit queues (`ethtool -l`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` when the driver does not report them.
    pub(crate) fn queues(&mut self) -> io::Result<(u32, u32)> {
        let mut channels = Channels {
            command: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        self.request.ifr_ifru.ifru_data = (&raw mut channels).cast();
        // `channels` has the layout that this command writes, and outlives the call.
        self.call(libc::SIOCETHTOOL as libc::c_ulong)?;
        Ok((
            channels.rx + channels.combined,
            channels.tx + channels.combined,
        ))
    }
}

/// `struct ethtool_channels`.
#[derive(Default)]
#[repr(C)]
struct Channels {
    command: u32,
    rx_max: u32,
    tx_max: u32,
    other_max: u32,
    combined_max: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// Turns a descriptor of `/dev/net/tun` into a TAP device, or into another queue of it. Each frame written
/// to it starts with a `struct virtio_net_hdr`.
///
/// # Errors
/// `EPERM`; `EBUSY` or `EINVAL` when another process owns a device of this name.
pub(crate) fn make_tap(tun: &impl AsRawFd, name: &str) -> io::Result<()> {
    let mut request = named(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;
    let [low, high, ..] = flags.to_ne_bytes();
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes([low, high]);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is live.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(())
}

/// Returns an `ifreq` for an interface.
fn named(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are valid for this structure of integers and a union of integers, structures
    // of integers, and raw pointers.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_an_index_and_an_mtu() {
        let mut request = InterfaceRequest::new("lo").expect("socket");
        assert!(request.index().expect("index") > 0);
        assert!(request.mtu().expect("mtu") > 0);
        assert_ne!(request.flags().expect("flags") & libc::IFF_LOOPBACK, 0);
    }

    #[test]
    fn an_invalid_name_gives_no_such_device() {
        for name in ["", "a-name-longer-than-the-kernel-has", "nul\0"] {
            let error = InterfaceRequest::new(name).err().expect("refused");
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        }
    }

    #[test]
    fn pinning_to_a_cpu_that_does_not_exist_fails() {
        assert!(pin_current_thread(usize::MAX).is_err());
    }
}
