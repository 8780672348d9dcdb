//! The next hop of every backend, and the ports by which it is reached.
//!
//! Invariant: a next hop is one atomic word, and so are a backend's ports: a reader sees the old or the new.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::NextHop;
use super::hop::{decode, encode};
use super::routes::PublishedRoutes;
use crate::atomics::{copy_u32, copy_u64};
use crate::prefetch::prefetch;
use crate::{BackendId, DropReason, PortId};

/// Next hops by backend: written when the kernel's neighbour table changes, read for each packet. Also holds
/// the routes to clients (`return_path = "route"`).
#[derive(Debug)]
pub struct HopTable {
    words: Box<[AtomicU64]>,
    /// One bit per backend: a worker wanted its unresolved hop. The control plane takes the bits.
    wanted: Box<[AtomicU64]>,
    /// By backend: the ports by which it is reached, one a byte, that of its next hop in the lowest and in
    /// those left over. They stay while the next hop is unresolved.
    ports: Box<[AtomicU64]>,
    /// By port: how many bytes of `ports` name it.
    uses: Box<[AtomicU32]>,
    /// How often a backend's ports changed.
    port_changes: AtomicU64,
    routes: PublishedRoutes,
}

/// The ports of a backend that was never reached: [`PortId::ACROSS`] is no port of its own.
const NO_PORTS: u64 = u64::MAX;

impl HopTable {
    /// All unresolved, for backend ids below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize) -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        // Those of `PortId::ACROSS`, which nobody reads, wrap.
        let initial = (0..=u8::MAX).map(|_| AtomicU32::new(0));
        Self {
            words: zeros(backends_max),
            wanted: zeros(backends_max.div_ceil(64)),
            ports: (0..backends_max)
                .map(|_| AtomicU64::new(NO_PORTS))
                .collect(),
            uses: initial.collect(),
            port_changes: AtomicU64::new(0),
            routes: PublishedRoutes::default(),
        }
    }

    /// The next hops as they are now, and the same routes.
    pub(crate) fn copy(&self) -> Self {
        Self {
            words: self.words.iter().map(copy_u64).collect(),
            wanted: self.wanted.iter().map(copy_u64).collect(),
            ports: self.ports.iter().map(copy_u64).collect(),
            uses: self.uses.iter().map(copy_u32).collect(),
            port_changes: AtomicU64::new(self.port_changes()),
            routes: self.routes.copy(),
        }
    }

    /// The routes to clients; empty unless `return_path = "route"`.
    #[inline]
    #[must_use]
    pub const fn routes(&self) -> &PublishedRoutes {
        &self.routes
    }

    /// All backends' words, by id; see [`super::is_resolved`].
    #[inline(always)]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// The backend's next hop; `None` while unresolved.
    #[inline]
    #[must_use]
    pub fn get(&self, backend: BackendId) -> Option<NextHop> {
        decode(self.words[backend.index()].load(Ordering::Relaxed))
    }

    /// The backend's next hop; requests its resolution if it is unresolved.
    ///
    /// # Errors
    /// [`DropReason::NeighborUnresolved`].
    #[inline]
    pub fn get_or_want(&self, backend: BackendId) -> Result<NextHop, DropReason> {
        self.get(backend).ok_or_else(|| {
            self.want(backend);
            DropReason::NeighborUnresolved
        })
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self, backend: BackendId) {
        if let Some(word) = self.words.get(backend.index()) {
            prefetch(word);
        }
    }

    /// Sets a backend's next hop, or marks it unresolved. Its replies are believed from the next hop's port.
    pub fn set(&self, backend: BackendId, hop: Option<NextHop>) {
        self.set_among(backend, hop, &[]);
    }

    /// Like [`Self::set`], for a backend with several routes: its replies are believed from the ports of the
    /// `others` too, of which the first seven count. One writer at a time.
    pub fn set_among(&self, backend: BackendId, hop: Option<NextHop>, others: &[PortId]) {
        if let Some(hop) = hop {
            let mut bytes = [hop.port.0; 8];
            for (byte, PortId(port)) in bytes[1..].iter_mut().zip(others) {
                *byte = *port;
            }
            self.set_ports(backend, u64::from_le_bytes(bytes));
        }
        self.words[backend.index()].store(hop.map_or(0, encode), Ordering::Relaxed);
    }

    /// Forgets a backend that is gone.
    pub fn forget(&self, backend: BackendId) {
        self.words[backend.index()].store(0, Ordering::Relaxed);
        self.set_ports(backend, NO_PORTS);
    }

    fn set_ports(&self, backend: BackendId, ports: u64) {
        let before = self.ports[backend.index()].swap(ports, Ordering::Relaxed);
        if before == ports {
            return;
        }
        self.port_changes.fetch_add(1, Ordering::Release);
        for port in ports.to_le_bytes() {
            self.uses[usize::from(port)].fetch_add(1, Ordering::Relaxed);
        }
        for port in before.to_le_bytes() {
            self.uses[usize::from(port)].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How often a backend's ports changed.
    #[inline(always)]
    pub(crate) fn port_changes(&self) -> u64 {
        self.port_changes.load(Ordering::Acquire)
    }

    /// All backends' ports, by id: that of the next hop.
    pub(crate) fn first_ports(&self) -> impl Iterator<Item = PortId> {
        let ports = self.ports.iter().map(|ports| ports.load(Ordering::Relaxed));
        ports.map(|ports| PortId(ports.to_le_bytes()[0]))
    }

    /// Whether a backend is reached by this port, or was until its next hop was lost.
    #[must_use]
    pub fn is_reached_by(&self, backend: BackendId, PortId(port): PortId) -> bool {
        let ports = self.ports[backend.index()].load(Ordering::Relaxed);
        ports.to_le_bytes().contains(&port)
    }

    /// Whether any backend is reached by this port.
    #[must_use]
    pub fn reaches_backends(&self, port: PortId) -> bool {
        self.uses[port.index()].load(Ordering::Relaxed) > 0
    }

    /// Requests the resolution of a backend's next hop.
    pub fn want(&self, backend: BackendId) {
        self.wanted[backend.index() / 64].fetch_or(1 << (backend.index() % 64), Ordering::Relaxed);
    }

    /// The backends whose resolution was requested since the last call.
    #[must_use]
    pub fn take_wanted(&self) -> Vec<BackendId> {
        let mut wanted = Vec::new();
        for (at, word) in (0_u32..).zip(&self.wanted) {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                wanted.push(BackendId(at * 64 + bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        wanted
    }
}
