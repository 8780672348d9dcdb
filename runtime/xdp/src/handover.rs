//! Passes a worker's sockets to another owner, which goes on where this one stops.

use std::io;
use std::mem;
use std::sync::Arc;

use waxwing_dataplane::{FrameIo as _, PortId};

use crate::frame::Chunk;
use crate::io::{WorkerSockets, XdpIo};
use crate::rings::{BoundSocket, Rings};
use crate::{Buffers, Options, TapQueue, Umem};

/// All that a worker's new owner needs. Frames in the rings stay there: none is lost, none is sent twice.
pub struct Handover {
    /// The worker's number.
    pub worker: u32,
    /// The memory of the frames.
    pub umem: Arc<Umem>,
    /// First the socket of each port, by port id, to send and receive; then further ones, to receive.
    pub sockets: Vec<(PortId, BoundSocket)>,
    /// An address in each chunk that is in no ring.
    pub free: Vec<u64>,
    /// Its queue of the TAP device.
    pub tap: Option<TapQueue>,
    /// Whether frames may have several chunks.
    pub buffers: Buffers,
}

impl XdpIo {
    /// Gives the sockets up for another owner, between two batches; `None` without sockets. The chunks of
    /// frames that still exist are lost to it.
    #[must_use]
    pub fn hand_over(mut self) -> Option<Handover> {
        self.flush();
        let pool = self.pool.take()?;
        let free = pool.with_free(mem::take);
        let sockets = mem::take(&mut self.sockets).into_iter();
        Some(Handover {
            worker: self.worker,
            umem: Arc::clone(pool.umem()),
            sockets: sockets
                .map(|(port, rings)| (port, rings.into_bound()))
                .collect(),
            free: free.into_iter().map(Chunk::release).collect(),
            tap: self.tap.take(),
            buffers: self.buffers,
        })
    }
}

impl Handover {
    /// Takes the sockets over. `options` are those that they were bound with.
    ///
    /// # Errors
    /// The rings cannot be mapped.
    ///
    /// # Safety
    /// No one else uses the sockets, or the UMEM's chunks in `free` and in the rings. The sockets are AF_XDP
    /// sockets bound to this UMEM, or memory whose other end treats it as the kernel does.
    pub unsafe fn adopt(self, options: &Options) -> io::Result<WorkerSockets> {
        let adopt = |(port, bound)| {
            // SAFETY: as the caller states.
            let rings = unsafe { Rings::adopt(bound, options) };
            rings.map(|rings| (port, rings))
        };
        let sockets: Vec<(PortId, Rings)> = self
            .sockets
            .into_iter()
            .map(adopt)
            .collect::<io::Result<_>>()?;
        let in_rings = sockets.iter().map(|(_, rings)| rings.account().total());
        Ok(WorkerSockets {
            worker: self.worker,
            umem: self.umem,
            total: self.free.len() + in_rings.sum::<usize>(),
            // SAFETY: as the caller states.
            free: self
                .free
                .into_iter()
                .map(|at| unsafe { Chunk::adopt(at) })
                .collect(),
            sockets,
            tap: self.tap,
            poll: options.poll,
            buffers: self.buffers,
        })
    }
}
