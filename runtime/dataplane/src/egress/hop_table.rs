//! The next hop of every backend.
//!
//! Invariant: a next hop is one atomic word, so a reader sees the old one or the new one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::NextHop;
use super::hop::{decode, encode};
use super::routes::PublishedRoutes;
use crate::prefetch::prefetch;
use crate::{BackendId, DropReason};

/// Next hops by backend: written when the kernel's neighbour table changes, read for each packet. Also holds
/// the routes to clients (`return_path = "route"`).
#[derive(Debug)]
pub struct HopTable {
    words: Box<[AtomicU64]>,
    /// One bit per backend: a worker wanted its unresolved hop. The control plane takes the bits.
    wanted: Box<[AtomicU64]>,
    routes: PublishedRoutes,
}

impl HopTable {
    /// All unresolved, for backend ids below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize) -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            words: zeros(backends_max),
            wanted: zeros(backends_max.div_ceil(64)),
            routes: PublishedRoutes::default(),
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

    /// Sets a backend's next hop, or marks it unresolved.
    pub fn set(&self, backend: BackendId, hop: Option<NextHop>) {
        self.words[backend.index()].store(hop.map_or(0, encode), Ordering::Relaxed);
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
