//! Opens AF_XDP sockets by libxdp.
//!
//! libxdp registers the UMEM, sizes the rings and binds; its settings are those of xsk-rs. Afterwards only
//! the sockets' descriptors are used, as of a socket that another process opened ([`crate::rings`]).
//!
//! Invariant: libxdp's objects and what they point to live until the last socket of a UMEM is bound, because
//! a later socket shares the UMEM through the first one.

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr;
use std::rc::Rc;

use libxdp_sys::{xsk_ring_cons, xsk_ring_prod, xsk_socket, xsk_socket_config, xsk_umem};
use xsk_rs::config::{SocketConfig, UmemConfig};

use crate::sys;
use crate::umem::Umem;

/// A UMEM, registered, and the sockets bound to it so far.
pub(crate) struct Binder {
    umem: *mut xsk_umem,
    sockets: Vec<*mut xsk_socket>,
    /// By socket; the first one is the UMEM's own, which its first socket takes over.
    rings: Vec<Rc<LibraryRings>>,
}

/// What libxdp writes about a socket's rings, and keeps pointers to.
struct LibraryRings {
    fill: UnsafeCell<MaybeUninit<xsk_ring_prod>>,
    completion: UnsafeCell<MaybeUninit<xsk_ring_cons>>,
    rx: UnsafeCell<MaybeUninit<xsk_ring_cons>>,
    tx: UnsafeCell<MaybeUninit<xsk_ring_prod>>,
}

/// Converts a result of libxdp, which is an error's number negated.
fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

impl Binder {
    /// Registers a UMEM.
    ///
    /// # Errors
    /// `EPERM`; `ENOBUFS` when the limit of locked memory is exceeded.
    pub(crate) fn new(umem: &Umem, config: UmemConfig) -> io::Result<Self> {
        let mut binder = Self {
            umem: ptr::null_mut(),
            sockets: Vec::new(),
            rings: Vec::new(),
        };
        let rings = binder.add_rings();
        // SAFETY: the pointers are to a mapping of this length, to rings that live as long as the result, and
        // to a live configuration.
        check(unsafe {
            libxdp_sys::xsk_umem__create(
                &raw mut binder.umem,
                umem.start().as_ptr().cast(),
                umem.len() as u64,
                rings.fill.get().cast(),
                rings.completion.get().cast(),
                &config.into(),
            )
        })?;
        Ok(binder)
    }

    fn add_rings(&mut self) -> Rc<LibraryRings> {
        let rings = Rc::new(LibraryRings {
            fill: UnsafeCell::new(MaybeUninit::zeroed()),
            completion: UnsafeCell::new(MaybeUninit::zeroed()),
            rx: UnsafeCell::new(MaybeUninit::zeroed()),
            tx: UnsafeCell::new(MaybeUninit::zeroed()),
        });
        self.rings.push(Rc::clone(&rings));
        rings
    }

    /// Binds a socket to a queue.
    ///
    /// # Errors
    /// `EBUSY` while the queue has another socket; `EOPNOTSUPP`, `EINVAL` and others when the driver does not
    /// support the mode.
    pub(crate) fn bind(
        &mut self,
        interface: &str,
        queue: u32,
        config: SocketConfig,
    ) -> io::Result<OwnedFd> {
        let name = CString::new(interface)?;
        let rings = match &self.rings[..] {
            [first] if self.sockets.is_empty() => Rc::clone(first),
            _ => self.add_rings(),
        };
        let mut socket = ptr::null_mut();
        let config: xsk_socket_config = config.into();
        // SAFETY: the pointers are to a name that ends in zero, to this UMEM, which lives, to rings that live
        // as long as this value, and to a live configuration.
        check(unsafe {
            libxdp_sys::xsk_socket__create_shared(
                &raw mut socket,
                name.as_ptr(),
                queue,
                self.umem,
                rings.rx.get().cast(),
                rings.tx.get().cast(),
                rings.fill.get().cast(),
                rings.completion.get().cast(),
                &raw const config,
            )
        })?;
        self.sockets.push(socket);
        // SAFETY: the socket was just created.
        let fd = unsafe { libxdp_sys::xsk_socket__fd(socket) };
        sys::duplicate(&fd)
    }
}

impl Drop for Binder {
    fn drop(&mut self) {
        for &socket in &self.sockets {
            // SAFETY: created by this value, and deleted once.
            unsafe { libxdp_sys::xsk_socket__delete(socket) };
        }
        // SAFETY: as above, after its sockets; null, which is ignored, if it was not created.
        unsafe { libxdp_sys::xsk_umem__delete(self.umem) };
    }
}
