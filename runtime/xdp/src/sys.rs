//! The system calls that the standard library has no name for, each as a safe function.
//!
//! Invariant: no function here hands out or takes a raw pointer; a file descriptor comes in as a
//! borrow or as a number that the kernel checks.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

/// `SO_PREFER_BUSY_POLL`, `SO_BUSY_POLL`, `SO_BUSY_POLL_BUDGET`: `socket(7)`, `<asm/socket.h>`.
pub(crate) const SO_PREFER_BUSY_POLL: i32 = 69;
pub(crate) const SO_BUSY_POLL: i32 = 46;
pub(crate) const SO_BUSY_POLL_BUDGET: i32 = 70;
const SO_INCOMING_NAPI_ID: i32 = 56;

/// `ETHTOOL_GCHANNELS`: `<linux/ethtool.h>`.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// The result of a call that answers -1 for an error.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A value's size, as socket options want it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the structures here are a few bytes"
)]
const fn len_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// Runs the calling thread on one CPU only.
///
/// # Errors
/// The CPU does not exist, is offline or not in the process's set (`EINVAL`).
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an array of integers, for which all-zero bytes are a value (the empty set).
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the index was checked against the set's size in bits.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer is to a live set of the size given; 0 names the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// The CPUs that the calling thread may run on, in order.
///
/// # Errors
/// The system has more CPUs than a set holds (`EINVAL`).
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an array of integers, for which all-zero bytes are a value (the empty set).
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live set of the size given; 0 names the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    let is_in = |cpu: &usize| {
        // SAFETY: the index is below the set's size in bits.
        unsafe { libc::CPU_ISSET(*cpu, &set) }
    };
    Ok((0..8 * size_of::<libc::cpu_set_t>())
        .filter(is_in)
        .collect())
}

/// A second descriptor of the socket that `fd` names.
///
/// # Errors
/// `EBADF` where `fd` names nothing, `EMFILE` at the limit of open files.
pub(crate) fn duplicate(fd: &impl AsRawFd) -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY: borrowed for this one call; where the number is of no open descriptor the kernel
    // answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}

/// Closes a descriptor in programs that this process starts: they inherit no socket, and so no frame.
///
/// # Errors
/// `EBADF` where `fd` names nothing.
pub(crate) fn close_on_exec(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: it touches no memory; where the number is of no open descriptor the answer is EBADF.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer is to a live integer of the size given.
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
    // SAFETY: the pointers are to a live value and to its size, which the kernel does not exceed;
    // any bytes it writes are a value of integers.
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

/// A `repr(C)` structure of integers: any bytes are a value of it.
trait Integers: Default {}

impl Integers for u32 {}
impl Integers for Statistics {}

/// Counts that the kernel keeps of an AF_XDP socket (`struct xdp_statistics`, `<linux/if_xdp.h>`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    /// Frames dropped for another reason than a full receive ring.
    pub rx_dropped: u64,
    /// Entries of the fill ring that named no frame.
    pub rx_invalid: u64,
    /// Entries of the transmit ring that named no frame.
    pub tx_invalid: u64,
    /// Frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the fill ring had no frame to receive into.
    pub fill_ring_empty: u64,
    /// Times that the transmit ring was empty when the kernel looked.
    pub tx_ring_empty: u64,
}

/// The counts of a socket.
pub(crate) fn statistics(fd: &impl AsRawFd) -> io::Result<Statistics> {
    option(fd, libc::SOL_XDP, libc::XDP_STATISTICS)
}

/// Whether a bound socket is in zero-copy mode.
pub(crate) fn is_zero_copy(fd: &impl AsRawFd) -> io::Result<bool> {
    let options: u32 = option(fd, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(options & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Whether the kernel knows which of the device's receive loops feeds a socket, and so can busy
/// poll it.
pub(crate) fn can_busy_poll(fd: &impl AsRawFd) -> bool {
    option(fd, libc::SOL_SOCKET, SO_INCOMING_NAPI_ID).is_ok_and(|id: u32| id != 0)
}

/// Lets the kernel work on a socket's receive side: refills a driver that ran dry, or polls the
/// device. Errors mean that there is nothing to do now.
pub(crate) fn kick_receive(fd: &impl AsRawFd) {
    // SAFETY: a length of zero: no memory is touched. AF_XDP sockets never deliver by recvfrom.
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

/// Wakes a socket's driver where the kernel wants it woken, and does not wait.
pub(crate) fn wake(fd: &impl AsRawFd) {
    let mut one = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer is of one live structure.
    unsafe { libc::poll(&raw mut one, 1, 0) };
}

/// Sockets to wait on.
pub(crate) struct PollSet(Vec<libc::pollfd>);

impl PollSet {
    pub(crate) fn new(fds: impl Iterator<Item = RawFd>) -> Self {
        Self(
            fds.map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            })
            .collect(),
        )
    }

    /// Sleeps until one is readable, a signal came or the time is over.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(3600) as libc::time_t,
            tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
        };
        // SAFETY: the pointer and the count are of a live array; the timeout is live; no mask.
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

/// An `ifreq` and a socket to ask it by: what `netdevice(7)` describes.
pub(crate) struct InterfaceRequest {
    socket: std::net::UdpSocket,
    request: libc::ifreq,
}

impl InterfaceRequest {
    /// For the interface of this name.
    ///
    /// # Errors
    /// `ENODEV` where no interface can have such a name.
    pub(crate) fn new(interface: &str) -> io::Result<Self> {
        Ok(Self {
            socket: std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| {
                // A fresh namespace has no loopback address; the unspecified one always binds.
                std::net::UdpSocket::bind("0.0.0.0:0")
            })?,
            request: named(interface)?,
        })
    }

    fn call(&mut self, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: each request that this module makes reads and writes one `ifreq`, which is live.
        check(unsafe {
            libc::ioctl(self.socket.as_raw_fd(), request as _, &raw mut self.request)
        })?;
        Ok(())
    }

    /// The interface's index.
    pub(crate) fn index(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFINDEX)?;
        // SAFETY: SIOCGIFINDEX succeeded, so this member was written.
        let index = unsafe { self.request.ifr_ifru.ifru_ifindex };
        u32::try_from(index).map_err(io::Error::other)
    }

    /// Its MAC address.
    pub(crate) fn mac(&mut self) -> io::Result<[u8; 6]> {
        self.call(libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFHWADDR succeeded, so this member was written.
        let data = unsafe { self.request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok(std::array::from_fn(|i| data[i].to_ne_bytes()[0]))
    }

    /// Its MTU in bytes.
    pub(crate) fn mtu(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFMTU)?;
        // SAFETY: SIOCGIFMTU succeeded, so this member was written.
        let mtu = unsafe { self.request.ifr_ifru.ifru_mtu };
        u32::try_from(mtu).map_err(io::Error::other)
    }

    /// Its flags, `IFF_UP` and others.
    pub(crate) fn flags(&mut self) -> io::Result<i32> {
        self.call(libc::SIOCGIFFLAGS)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so this member was written.
        Ok(i32::from(unsafe { self.request.ifr_ifru.ifru_flags }))
    }

    /// Sets and clears flags.
    pub(crate) fn change_flags(&mut self, set: i32, clear: i32) -> io::Result<()> {
        let flags = (self.flags()? & !clear) | set;
        // The flags that the kernel keeps in this structure are sixteen bits.
        let [low, high, ..] = flags.to_ne_bytes();
        self.request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes([low, high]);
        self.call(libc::SIOCSIFFLAGS)
    }

    /// Its receive and transmit queues (`ethtool -l`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the driver does not say.
    pub(crate) fn queues(&mut self) -> io::Result<(u32, u32)> {
        let mut channels = Channels {
            command: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        self.request.ifr_ifru.ifru_data = (&raw mut channels).cast();
        // The pointer just stored is to `channels`, of the layout this command writes, and lives
        // until after the call.
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

/// Makes a TAP device, or another queue of it, of a descriptor of `/dev/net/tun`.
///
/// # Errors
/// `EPERM`; `EBUSY` or `EINVAL` where a device of this name exists and is not one of ours.
pub(crate) fn make_tap(tun: &impl AsRawFd, name: &str) -> io::Result<()> {
    let mut request = named(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    let [low, high, ..] = flags.to_ne_bytes();
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes([low, high]);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is live.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(())
}

/// An `ifreq` that names an interface.
fn named(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a structure of integers and a union of such, for which all-zero bytes are a value.
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
    fn a_name_that_cannot_be_is_no_device() {
        for name in ["", "a-name-longer-than-the-kernel-has", "nul\0"] {
            let error = InterfaceRequest::new(name).err().expect("refused");
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        }
    }

    #[test]
    fn a_cpu_that_cannot_be_is_refused() {
        assert!(pin_current_thread(usize::MAX).is_err());
    }
}
