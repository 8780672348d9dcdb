//! Passes ports and workers' sockets to another owner, which goes on where this one stops.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use waxwing_dataplane::{FrameIo as _, PortId};

use crate::attach::{Attached, PortReport, QueueReport, load};
use crate::frame::Chunk;
use crate::io::{WorkerSockets, XdpIo};
use crate::program::{AttachMode, MacFilter};
use crate::queues;
use crate::rings::{BoundSocket, Rings};
use crate::tap::Tap;
use crate::{Buffers, Interface, Options, PortOptions, TapQueue, Umem, XdpError};

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
    /// Takes over what another process sent.
    ///
    /// # Errors
    /// The rings cannot be mapped, or an address is not of this UMEM.
    pub(crate) fn adopt_sent(self, options: &Options) -> io::Result<WorkerSockets> {
        let len = self.umem.len() as u64;
        if self.free.iter().any(|at| *at >= len) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: the other process, of this user or root, has ended its workers and given up all that it
        // sent.
        unsafe { self.adopt(options) }
    }

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

/// The links of a port's programs. While they are open, the programs stay attached.
#[derive(Debug)]
pub struct PortLinks {
    pub program: Option<OwnedFd>,
    /// `None` on a kernel without links for it.
    pub guard: Option<OwnedFd>,
    pub mode: AttachMode,
    /// See [`PortReport::attach_why`].
    pub why: Option<String>,
}

/// Loads the program for ports that another process has attached: [`Attached::take`] takes them over.
///
/// # Errors
/// As [`attach`](fn@crate::attach).
pub fn prepare(ports: &[PortOptions], options: &Options) -> Result<Attached, XdpError> {
    let (mut attached, interfaces) = load(ports, options)?;
    for (port, interface) in (0..).map(PortId).zip(&interfaces) {
        let (at, filter) = (
            (interface.index, interface.mtu),
            MacFilter::Own(interface.mac),
        );
        attached
            .program
            .set_port(port, at, filter, interface.queues)?;
    }
    Ok(attached)
}

impl Attached {
    /// Returns what another process must have alike to take the sockets over: names and values.
    #[must_use]
    pub fn layout(&self) -> Vec<(String, String)> {
        let Options {
            zero_copy,
            poll,
            ring_size,
            frames_per_queue,
            frame_size,
            kernel_path,
            ..
        } = &self.options;
        let ports = self.reports.iter().map(|report| &report.interface);
        let queues = |it: &Interface| format!("{} of {}", it.queues, it.name);
        let list = |texts: Vec<String>| texts.join(", ");
        [
            (
                "ports",
                list(ports.clone().map(|it| it.name.clone()).collect()),
            ),
            ("queues", list(ports.map(queues).collect())),
            ("workers", self.workers.to_string()),
            ("zero_copy", format!("{zero_copy:?}")),
            ("poll", format!("{poll:?}")),
            ("rings.size", ring_size.to_string()),
            ("rings.frames", frames_per_queue.to_string()),
            ("bytes of a frame", frame_size.to_string()),
            ("buffers of a frame", format!("{:?}", self.buffers)),
            ("TAP device", format!("{kernel_path:?}")),
            (
                "deferred interrupts",
                (!self.device_settings.is_empty()).to_string(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Returns descriptors of the ports' links, by port id, for another process.
    ///
    /// # Errors
    /// `EMFILE` at the limit of open files.
    pub fn links(&self) -> io::Result<Vec<PortLinks>> {
        let links = self.program.links()?.into_iter();
        let port = |([program, guard], report): ([Option<OwnedFd>; 2], &PortReport)| PortLinks {
            program,
            guard,
            mode: report.attach_mode,
            why: report.attach_why.clone(),
        };
        Ok(links.zip(&self.reports).map(port).collect())
    }

    /// Takes the workers' sockets over, as another process with the same [`Attached::layout`] has sent them.
    /// Frames still pass its program until [`Attached::take_links`].
    ///
    /// # Errors
    /// [`XdpError`].
    pub fn take(&mut self, given: Vec<Handover>) -> Result<Vec<WorkerSockets>, XdpError> {
        let interfaces: Vec<Interface> =
            self.reports.iter().map(|it| it.interface.clone()).collect();
        let taps: Vec<_> = given.iter().filter_map(|it| it.tap.as_ref()).collect();
        if let (Some(name), Some(first)) = (&self.options.kernel_path, taps.first()) {
            let like = &interfaces[0].name;
            self.tap = Some(Tap::of(name, like, first, &taps));
        }
        let queues = interfaces
            .iter()
            .map(|it| (0..it.queues).collect())
            .collect();
        let shares = queues::share_out(queues, queues::workers(&interfaces), self.workers);
        let mut reports: Vec<Vec<QueueReport>> = interfaces.iter().map(|_| Vec::new()).collect();
        let mut workers = Vec::with_capacity(given.len());
        for (given, share) in given.into_iter().zip(shares) {
            let sockets = given.adopt_sent(&self.options);
            let sockets = sockets.map_err(|error| XdpError::system("mapping the rings", error))?;
            for ((port, queue), (at, rings)) in share.into_iter().zip(&sockets.sockets) {
                debug_assert_eq!(port, *at);
                self.program.set_socket(port, queue, rings.socket())?;
                self.counts.push((port, queue, rings.counts()));
                reports[port.index()].push(QueueReport {
                    queue,
                    zero_copy: rings.bound().zero_copy,
                    why: None,
                });
            }
            workers.push(sockets);
        }
        for (report, mut queues) in self.reports.iter_mut().zip(reports) {
            queues.sort_by_key(|it| it.queue);
            report.queues = queues;
        }
        self.is_bound = true;
        Ok(workers)
    }

    /// Has the ports run this process's programs instead of the other's, without a gap.
    ///
    /// # Errors
    /// [`XdpError`].
    pub fn take_links(&mut self, links: Vec<PortLinks>) -> Result<(), XdpError> {
        for (report, links) in self.reports.iter_mut().zip(&links) {
            (report.attach_mode, report.attach_why) = (links.mode, links.why.clone());
        }
        let links = links.into_iter().map(|it| [it.program, it.guard]);
        self.program.take_links(links.collect())
    }
}
