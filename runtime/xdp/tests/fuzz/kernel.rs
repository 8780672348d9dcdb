//! The kernel's end of a socket whose rings are in plain memory.
//!
//! Invariant: it treats chunks as the kernel does: it has those that it took from the fill and the transmit
//! ring, and gives each back once, by the receive and the completion ring.
#![expect(
    unsafe_code,
    reason = "the rings' other end is this file, so it vouches for them"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use waxwing_dataplane::PortId;
use waxwing_xdp::ring::{Consumer, Descriptor, Producer, Ring, RingOffsets, SocketOffsets};
use waxwing_xdp::{BoundSocket, Buffers, Handover, Options, Umem, WorkerSockets};

/// Descriptor option: the frame continues in the next descriptor.
const CONTINUED: u32 = 1;
/// Bytes that the kernel leaves free before a frame.
const HEADROOM: u64 = 256;
const CHUNK_SIZE: u32 = 2048;

/// Where the rings are in a socket, which is where they are in this memory too: rx, tx, fill, completion.
const PAGES: [u64; 4] = [0, 0x8000_0000, 0x1_0000_0000, 0x1_8000_0000];
/// The indices on cache lines of their own.
const OFFSETS: RingOffsets = RingOffsets {
    producer: 0,
    consumer: 64,
    flags: 128,
    entries: 192,
};

/// The kernel's end of one socket.
pub(crate) struct Kernel {
    rx: Producer<Descriptor>,
    tx: Consumer<Descriptor>,
    fill: Consumer<u64>,
    completion: Producer<u64>,
    /// Chunks to receive into.
    free: VecDeque<u64>,
    /// Chunks sent, not completed.
    sent: VecDeque<u64>,
    /// Entries taken from the fill and the transmit ring, not released.
    taken: [u32; 2],
    ring_size: u32,
    umem: File,
}

/// Creates a worker with `chunks` free chunks and a socket for each of `ports` ports, and the kernel's ends.
/// The rings' indices start at `index`.
pub(crate) fn worker(
    ports: u8,
    chunks: u32,
    options: &Options,
    index: u32,
) -> io::Result<(WorkerSockets, Vec<Kernel>)> {
    let umem = Umem::create(CHUNK_SIZE, chunks, false)?;
    let (mut sockets, mut kernels) = (Vec::new(), Vec::new());
    for port in (0..ports).map(PortId) {
        let memory = tempfile::tempfile()?;
        memory.set_len(PAGES[3] + (1 << 20))?;
        for page in PAGES {
            memory.write_all_at(&index.to_ne_bytes(), page + OFFSETS.producer)?;
            memory.write_all_at(&index.to_ne_bytes(), page + OFFSETS.consumer)?;
        }
        let size = options.ring_size;
        // SAFETY: the rings are new, and the kernel's ends are taken here only.
        let rx = unsafe { Producer::adopt(Ring::map(&memory, PAGES[0], &OFFSETS, size)?) };
        // SAFETY: as above.
        let tx = unsafe { Consumer::adopt(Ring::map(&memory, PAGES[1], &OFFSETS, size)?) };
        // SAFETY: as above.
        let fill = unsafe { Consumer::adopt(Ring::map(&memory, PAGES[2], &OFFSETS, size)?) };
        // SAFETY: as above.
        let completion = unsafe { Producer::adopt(Ring::map(&memory, PAGES[3], &OFFSETS, size)?) };
        let kernel = Kernel {
            rx,
            tx,
            fill,
            completion,
            free: VecDeque::new(),
            sent: VecDeque::new(),
            taken: [0; 2],
            ring_size: size,
            umem: umem.as_fd().try_clone_to_owned()?.into(),
        };
        kernels.push(kernel);
        let bound = BoundSocket {
            socket: Arc::new(memory.into()),
            offsets: SocketOffsets {
                rx: OFFSETS,
                tx: OFFSETS,
                fill: OFFSETS,
                completion: OFFSETS,
            },
            zero_copy: false,
        };
        sockets.push((port, bound));
    }
    let handover = Handover {
        worker: 0,
        free: umem.chunks().collect(),
        umem: Arc::new(umem),
        sockets,
        tap: None,
        buffers: Buffers::Several,
    };
    Ok((adopt(handover, options)?, kernels))
}

/// Has a new owner take a worker's sockets over.
pub(crate) fn adopt(handover: Handover, options: &Options) -> io::Result<WorkerSockets> {
    // SAFETY: new memory or that of an owner who gave it up; the other end is a `Kernel`.
    unsafe { handover.adopt(options) }
}

impl Kernel {
    /// Receives a frame of these parts, a chunk each, without the worker seeing it. Returns `false` if there
    /// are too few chunks.
    pub(crate) fn receive(&mut self, parts: &[&[u8]]) -> bool {
        self.taken[0] += self.fill.look(u32::MAX);
        assert!(self.taken[0] <= self.ring_size, "the fill ring overflows");
        self.free.extend(std::iter::from_fn(|| self.fill.pop()));
        if self.free.len() < parts.len() {
            return false;
        }
        for (number, part) in parts.iter().enumerate() {
            let chunk = self.free.pop_front().expect("there are enough");
            let address = chunk / u64::from(CHUNK_SIZE) * u64::from(CHUNK_SIZE) + HEADROOM;
            self.umem.write_all_at(part, address).expect("memory");
            let is_last = number + 1 == parts.len();
            let descriptor = Descriptor {
                address,
                len: u32::try_from(part.len()).expect("short"),
                options: if is_last { 0 } else { CONTINUED },
            };
            self.rx.make_room(self.rx.next());
            assert!(self.rx.push(|| descriptor), "the receive ring overflows");
        }
        true
    }

    /// Lets the worker see the frames received.
    pub(crate) fn deliver(&mut self) {
        self.rx.submit();
    }

    /// Frees the entries of the fill ring.
    pub(crate) fn release_fill(&mut self) {
        self.fill.release();
        self.taken[0] = 0;
    }

    /// Sends a frame; returns its parts.
    pub(crate) fn transmit(&mut self) -> Option<Vec<Vec<u8>>> {
        self.tx.look(u32::MAX);
        let mut parts = Vec::new();
        while let Some(Descriptor {
            address,
            len,
            options,
        }) = self.tx.pop()
        {
            let mut part = vec![0; len as usize];
            self.umem.read_exact_at(&mut part, address).expect("memory");
            parts.push(part);
            self.sent.push_back(address);
            self.taken[1] += 1;
            assert!(
                self.taken[1] <= self.ring_size,
                "the transmit ring overflows"
            );
            if options & CONTINUED == 0 {
                return Some(parts);
            }
        }
        assert!(parts.is_empty(), "a frame's parts are submitted together");
        None
    }

    /// Frees the entries of the transmit ring.
    pub(crate) fn release_transmit(&mut self) {
        self.tx.release();
        self.taken[1] = 0;
    }

    /// Gives at most `count` chunks back that were sent.
    pub(crate) fn complete(&mut self, count: usize) {
        self.completion.make_room(self.completion.next());
        for address in self.sent.drain(..count.min(self.sent.len())) {
            assert!(
                self.completion.push(|| address),
                "the completion ring overflows"
            );
        }
        self.completion.submit();
    }

    /// Ends the kernel's part; returns the chunks that it has to receive into.
    pub(crate) fn into_chunks(mut self) -> Vec<u64> {
        self.fill.look(u32::MAX);
        self.free.extend(std::iter::from_fn(|| self.fill.pop()));
        assert!(self.sent.is_empty(), "not completed");
        self.free.into()
    }
}
