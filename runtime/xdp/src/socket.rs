//! AF_XDP sockets: one for every queue of every port, over one UMEM.
//!
//! Invariant: all sockets of the UMEM are in zero-copy mode, or all in copy mode, because a socket that
//! shares a UMEM gets the mode of the first (`xsk_bind`, net/xdp/xsk.c). If one queue has no zero-copy, all
//! are bound again in copy mode.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};

use crate::frame::Chunk;
use crate::libxdp::Binder;
use crate::rings::{BoundSocket, Rings};
use crate::sys;
use crate::umem::Umem;
use crate::{Buffers, Interface, Options, PollMode, XdpError, ZeroCopy};

/// How long a queue may stay busy after its socket was closed before binding it fails.
const REBIND_WAIT: Duration = Duration::from_secs(1);
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// Busy polling: microseconds and frames per poll.
const BUSY_POLL_US: i32 = 20;
const BUSY_POLL_BUDGET: i32 = 64;

/// All sockets and their UMEM.
pub(crate) struct Sockets {
    pub(crate) umem: Arc<Umem>,
    /// By port, then queue.
    pub(crate) bound: Vec<Vec<QueueSocket>>,
    /// Why the sockets are not in zero-copy mode, if it was tried.
    pub(crate) why: Option<String>,
}

/// One bound socket.
pub(crate) struct QueueSocket {
    pub(crate) rings: Rings,
    /// Its chunks that are not in the fill ring.
    pub(crate) free: Vec<Chunk>,
}

/// A UMEM of which the kernel holds no chunk.
struct Memory {
    umem: Arc<Umem>,
    chunks: Vec<Chunk>,
}

/// A queue that could not be bound.
struct BindError {
    interface: String,
    queue: u32,
    source: io::Error,
    /// The UMEM, if no other queue was bound to it.
    unused: Option<Memory>,
}

/// Binds every queue of `interfaces` in the mode of `options`.
///
/// # Errors
/// The queue that could not be bound, and the reason. All sockets are closed.
pub(crate) fn bind_all(
    interfaces: &[Interface],
    options: &Options,
    buffers: Buffers,
) -> Result<Sockets, XdpError> {
    let flags = match buffers {
        Buffers::One => BindFlags::empty(),
        Buffers::Several => BindFlags::XDP_USE_SG,
    };
    let mtu_lower = (buffers == Buffers::Several).then(|| options.mtu_max(Buffers::One));
    let mut why = None;
    let queues: u32 = interfaces.iter().map(|interface| interface.queues).sum();
    let mut memory = create_umem(options, queues)?;
    if options.zero_copy != ZeroCopy::Off {
        let mut binder = register(&memory, options)?;
        let zero_copy = BindFlags::XDP_ZEROCOPY | flags;
        match bind_as(&mut binder, memory, interfaces, options, zero_copy) {
            Ok(sockets) => return Ok(sockets),
            Err(BindError {
                interface,
                queue,
                source,
                unused,
            }) => {
                if options.zero_copy == ZeroCopy::Require {
                    return Err(XdpError::NoZeroCopy {
                        interface,
                        queue,
                        source,
                        mtu_lower,
                    });
                }
                let for_jumbo = mtu_lower.map_or("", |_| " for jumbo frames");
                why = Some(format!(
                    "{interface} queue {queue}: no zero-copy{for_jumbo} ({source})"
                ));
                // Making it takes longer than all else here, because its pages are zeroed.
                memory = match unused {
                    Some(memory) => memory,
                    None => create_umem(options, queues)?,
                };
            }
        }
    }
    let mut binder = register(&memory, options)?;
    let copy = BindFlags::XDP_COPY | flags;
    match bind_as(&mut binder, memory, interfaces, options, copy) {
        Ok(sockets) => Ok(Sockets { why, ..sockets }),
        Err(error) => Err(copy_mode_error(error, mtu_lower)),
    }
}

/// Returns the error of a queue that could not be bound in copy mode.
fn copy_mode_error(error: BindError, mtu_lower: Option<u32>) -> XdpError {
    let BindError {
        interface,
        queue,
        source,
        ..
    } = error;
    match (source.raw_os_error(), mtu_lower) {
        (Some(libc::EINVAL | libc::EOPNOTSUPP), Some(mtu_lower)) => XdpError::NoJumbo {
            interface,
            source,
            mtu_lower,
        },
        _ => XdpError::system(
            format!("interface {interface} queue {queue}: binding an AF_XDP socket"),
            source,
        ),
    }
}

fn bind_as(
    binder: &mut Binder,
    memory: Memory,
    interfaces: &[Interface],
    options: &Options,
    mode: BindFlags,
) -> Result<Sockets, BindError> {
    let Memory { umem, mut chunks } = memory;
    let mut bound = Vec::with_capacity(interfaces.len());
    for interface in interfaces {
        let mut sockets = Vec::with_capacity(interface.queues as usize);
        for queue in 0..interface.queues {
            match bind_with_retry(binder, &interface.name, queue, options, mode) {
                Ok(mut socket) => {
                    // At once: from now on the queue receives into the fill ring's chunks only, and
                    // loses the kernel's frames too while it has none.
                    let rest = chunks.split_off(options.frames_per_queue as usize);
                    socket.free = mem::replace(&mut chunks, rest);
                    socket.rings.fill_up(&mut socket.free);
                    sockets.push(socket);
                }
                Err(source) => {
                    let is_unused = bound.is_empty() && sockets.is_empty();
                    return Err(BindError {
                        interface: interface.name.clone(),
                        queue,
                        source,
                        unused: is_unused.then_some(Memory { umem, chunks }),
                    });
                }
            }
        }
        bound.push(sockets);
    }
    Ok(Sockets {
        umem,
        bound,
        why: None,
    })
}

/// Creates the UMEM, in huge pages if `options` ask for them and enough are free.
fn create_umem(options: &Options, queues: u32) -> Result<Memory, XdpError> {
    // Huge pages are unmapped as a whole, so the UMEM fills the last one.
    let per_huge_page = (2 << 20) / options.frame_size;
    let count = (queues * options.frames_per_queue).next_multiple_of(per_huge_page);
    let create = |huge_pages| Umem::create(options.frame_size, count, huge_pages);
    let huge = options.huge_pages.then(|| create(true).ok()).flatten();
    let umem = huge.map_or_else(|| create(false), Ok).map_err(|source| {
        let size = options.frame_size;
        XdpError::system(
            format!("allocating a UMEM of {count} chunks of {size} bytes"),
            source,
        )
    })?;
    // SAFETY: the UMEM is new: the kernel holds no chunk, and each address occurs once.
    let chunks = umem.chunks().map(|at| unsafe { Chunk::adopt(at) });
    Ok(Memory {
        chunks: chunks.collect(),
        umem: Arc::new(umem),
    })
}

/// Registers the UMEM.
fn register(memory: &Memory, options: &Options) -> Result<Binder, XdpError> {
    let invalid = |error: &dyn std::error::Error| XdpError::Options(error.to_string());
    let ring = QueueSize::new(options.ring_size).map_err(|error| invalid(&error))?;
    let frame = FrameSize::new(options.frame_size).map_err(|error| invalid(&error))?;
    let mut config = UmemConfig::builder();
    // XDP's own headroom of 256 bytes suffices.
    config
        .frame_size(frame)
        .frame_headroom(0)
        .fill_queue_size(ring)
        .comp_queue_size(ring);
    let config = config.build().map_err(|error| invalid(&error))?;
    Binder::new(&memory.umem, config).map_err(|source| {
        let bytes = memory.umem.len();
        XdpError::system(format!("registering a UMEM of {bytes} bytes"), source)
    })
}

/// Binds a queue; retries for [`REBIND_WAIT`] while it is busy, as after its previous owner's exit.
fn bind_with_retry(
    binder: &mut Binder,
    interface: &str,
    queue: u32,
    options: &Options,
    mode: BindFlags,
) -> io::Result<QueueSocket> {
    let deadline = Instant::now() + REBIND_WAIT;
    loop {
        match bind(binder, interface, queue, options, mode) {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                thread::sleep(REBIND_PAUSE);
            }
            result => return result,
        }
    }
}

fn bind(
    binder: &mut Binder,
    interface: &str,
    queue: u32,
    options: &Options,
    mode: BindFlags,
) -> io::Result<QueueSocket> {
    let ring = QueueSize::new(options.ring_size).map_err(io::Error::other)?;
    let wakeup = if options.need_wakeup {
        BindFlags::XDP_USE_NEED_WAKEUP
    } else {
        BindFlags::empty()
    };
    let mut config = SocketConfig::builder();
    config
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(mode | wakeup);
    let socket = binder.bind(interface, queue, config.build())?;
    if options.poll == PollMode::Busy {
        busy_poll(&socket)?;
    }
    // In copy mode each sent frame becomes a kernel buffer that counts against the socket's limit; the
    // default allows about a hundred. Without CAP_NET_ADMIN the default stays.
    let send_buffer = i32::try_from(options.ring_size * 4096).unwrap_or(i32::MAX);
    let _ = sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer);
    let bound = BoundSocket::of(socket)?;
    Ok(QueueSocket {
        // SAFETY: the socket is new, so its rings are empty, and bound to the binder's UMEM.
        rings: unsafe { Rings::adopt(bound, options)? },
        free: Vec::new(),
    })
}

/// Enables preferred busy polling (Documentation/networking/napi.rst).
fn busy_poll(fd: &impl AsRawFd) -> io::Result<()> {
    sys::set_option(fd, libc::SOL_SOCKET, sys::SO_PREFER_BUSY_POLL, 1)?;
    sys::set_option(fd, libc::SOL_SOCKET, sys::SO_BUSY_POLL, BUSY_POLL_US)?;
    sys::set_option(
        fd,
        libc::SOL_SOCKET,
        sys::SO_BUSY_POLL_BUDGET,
        BUSY_POLL_BUDGET,
    )
}
