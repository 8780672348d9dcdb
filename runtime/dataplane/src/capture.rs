//! Copies packets as they came and as they left, with what became of them, for a reader outside.
//!
//! Invariant: a worker that does not capture pays one comparison a batch. One that does never waits for the
//! reader: what there is no room for is counted as missed.
//!
//! A packet to be captured is forwarded alone, so that what is counted meanwhile is its own (see [`Fate`]).
//! Frames of our own accord, such as announcements, are not captured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use waxwing_packet::{Packet, Prefix, parse};

pub use crate::fate::Fate;
use crate::fate::Marks;
use crate::path::{Forwarder, find_session, tuple_of};
use crate::session::{Session, Tuple};
use crate::{BackendId, DropReason, Epoch, FrameBuf, FrameIo, Now, PortId, ServiceId, Snapshot};

/// The most packets of a batch that are captured; the others that may pass the filter go on together, and are
/// counted as missed.
const PER_BATCH: usize = 16;

/// The most packets that wait for the reader.
const QUEUED_MAX: usize = 4096;

/// Which packets are captured: those that pass all of these.
#[derive(Clone, Debug)]
pub struct CaptureFilter {
    /// From or to a client in this network.
    pub client: Option<Prefix>,
    /// Of these services.
    pub services: Option<Vec<ServiceId>>,
    /// Of these backends.
    pub backends: Option<Vec<BackendId>>,
    /// Only those that are dropped.
    pub dropped: bool,
    /// Only those that open a session.
    pub opens: bool,
    /// The most bytes that are copied of a frame.
    pub bytes_max: usize,
}

/// A captured packet.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The worker's number.
    pub worker: usize,
    /// By the workers' clock.
    pub at: Now,
    pub arrived: CapturedFrame,
    /// What was sent because of it; by its own port too if its sender is answered.
    pub left: Vec<CapturedFrame>,
    pub fate: Fate,
    /// `None`: none that is known.
    pub service: Option<ServiceId>,
    /// Its session after it, or before it if it ended that.
    pub session: Option<Session>,
    /// Whether it opened the session.
    pub opens: bool,
    /// Whether it is a server's.
    pub is_reply: bool,
}

/// A frame as it came or left.
#[derive(Clone, Debug)]
pub struct CapturedFrame {
    pub port: PortId,
    /// Its length, in bytes.
    pub len: usize,
    /// Its first bytes.
    pub bytes: Box<[u8]>,
}

/// A worker's end of a capture.
#[derive(Clone)]
pub struct Capture {
    filter: Arc<CaptureFilter>,
    queue: Sender<Captured>,
    missed: Arc<AtomicU64>,
}

/// The reader's end.
pub struct CaptureReader {
    /// The packets, those of each worker in order.
    pub packets: Receiver<Captured>,
    missed: Arc<AtomicU64>,
}

impl CaptureReader {
    /// The packets that may have passed the filter, and were not captured for lack of time or room so far.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl Capture {
    /// Returns both ends. The reader's ends when all workers' ends are dropped.
    #[must_use]
    pub fn new(filter: CaptureFilter) -> (Self, CaptureReader) {
        let (queue, packets) = bounded(QUEUED_MAX);
        let missed = Arc::default();
        let reader = CaptureReader {
            packets,
            missed: Arc::clone(&missed),
        };
        let capture = Self {
            filter: Arc::new(filter),
            queue,
            missed,
        };
        (capture, reader)
    }

    /// Forwards a batch, and captures what passes the filter. `frames` is empty afterwards.
    #[cold]
    #[inline(never)]
    pub(crate) fn forward<I: FrameIo>(
        &self,
        (worker, forwarder): (usize, &mut Forwarder),
        io: &mut I,
        epoch: &mut Epoch,
        frames: &mut Vec<I::Frame>,
        now: Now,
    ) {
        // The forwarder is made for this I/O once more, so that the worker's own is as without captures.
        let mut io = Recorder {
            io,
            bytes_max: None,
            left: Vec::new(),
        };
        let mut room = PER_BATCH;
        let mut together = Vec::with_capacity(frames.len());
        for frame in frames.drain(..) {
            let packet = Arrival::of(forwarder, &epoch.snapshot, &frame);
            if !self.may_pass(&packet) {
                together.push(frame);
                continue;
            }
            if room == 0 {
                self.missed.fetch_add(1, Ordering::Relaxed);
                together.push(frame);
                continue;
            }
            room -= 1;
            if !together.is_empty() {
                forwarder.forward(&mut io, epoch, &mut together, now);
            }
            let at = (worker, now);
            let captured = self.forward_one(at, forwarder, &mut io, epoch, (frame, packet));
            if self.passes(&captured) && self.queue.try_send(captured).is_err() {
                self.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !together.is_empty() {
            forwarder.forward(&mut io, epoch, &mut together, now);
        }
    }

    fn forward_one<I: FrameIo>(
        &self,
        (worker, at): (usize, Now),
        forwarder: &mut Forwarder,
        io: &mut Recorder<'_, I>,
        epoch: &mut Epoch,
        (frame, packet): (I::Frame, Arrival),
    ) -> Captured {
        let bytes_max = self.filter.bytes_max;
        let arrived = CapturedFrame::of(frame.port(), &frame, bytes_max);
        let counters = Arc::clone(&forwarder.context.counters);
        let (marks, opened) = (Marks::of(&counters), counters.opened.get());
        io.bytes_max = Some(bytes_max);
        forwarder.forward(io, epoch, &mut vec![frame], at);
        io.bytes_max = None;
        let left = std::mem::take(&mut io.left);
        let snapshot = &epoch.snapshot;
        let after = packet
            .flow
            .and_then(|flow| session_of(forwarder, snapshot, &flow));
        let session = after.or(packet.session);
        let backend = session.and_then(|session| snapshot.backend(session.backend));
        let is_from = |flow: Tuple| backend.is_some_and(|it| it.address == flow.source);
        Captured {
            worker,
            at,
            arrived,
            left,
            fate: marks.fate(&counters),
            service: backend.map(|it| it.service).or(packet.service),
            session,
            opens: counters.opened.get() > opened,
            is_reply: packet.flow.is_some_and(is_from),
        }
    }

    /// Whether a packet may pass the filter, by what is known before it is forwarded.
    fn may_pass(&self, packet: &Arrival) -> bool {
        let filter = &self.filter;
        let services = filter.services.as_ref();
        let of_service =
            services.is_none_or(|of| packet.service.is_none_or(|service| of.contains(&service)));
        let backends = filter.backends.as_ref();
        let backend = packet.session.map(|session| session.backend);
        let of_backend =
            backends.is_none_or(|of| backend.is_none_or(|backend| of.contains(&backend)));
        of_service && of_backend && self.is_of_client(packet)
    }

    fn is_of_client(&self, packet: &Arrival) -> bool {
        self.filter.client.is_none_or(|network| {
            let ends = packet.flow.map(|flow| [flow.source, flow.destination]);
            let client = packet.session.map(|session| session.client);
            let mut known = ends.into_iter().flatten().chain(client);
            known.any(|address| network.contains(address))
        })
    }

    fn passes(&self, packet: &Captured) -> bool {
        let filter = &self.filter;
        let services = filter.services.as_ref();
        let of_service =
            services.is_none_or(|of| packet.service.is_some_and(|service| of.contains(&service)));
        let backend = packet.session.map(|session| session.backend);
        let backends = filter.backends.as_ref();
        let of_backend =
            backends.is_none_or(|of| backend.is_some_and(|backend| of.contains(&backend)));
        let is_dropped = matches!(packet.fate, Fate::Dropped(_));
        of_service
            && of_backend
            && (!filter.dropped || is_dropped)
            && (!filter.opens || packet.opens)
    }
}

/// What is known of a packet before it is forwarded.
struct Arrival {
    /// `None`: it is neither TCP nor UDP.
    flow: Option<Tuple>,
    session: Option<Session>,
    /// Its session's service, or the one that it is sent to.
    service: Option<ServiceId>,
}

impl Arrival {
    fn of(forwarder: &Forwarder, snapshot: &Snapshot, frame: &impl FrameBuf) -> Self {
        let flow = match parse(frame.bytes()) {
            Ok(Packet::Ip(packet)) => tuple_of(&packet),
            _ => None,
        };
        let session = flow.and_then(|flow| session_of(forwarder, snapshot, &flow));
        let backend = session.and_then(|session| snapshot.backend(session.backend));
        let service_at = |flow: Tuple| {
            let (vip, port) = (flow.destination, flow.destination_port);
            snapshot.service_at(vip, port, flow.protocol)
        };
        let sent_to = flow.and_then(service_at).map(|service| service.id);
        Self {
            flow,
            session,
            service: backend.map(|backend| backend.service).or(sent_to),
        }
    }
}

fn session_of(forwarder: &Forwarder, snapshot: &Snapshot, flow: &Tuple) -> Option<Session> {
    let sessions = &forwarder.context.shared.sessions;
    find_session(sessions, snapshot, flow).map(|(_, session)| session)
}

impl CapturedFrame {
    fn of(port: PortId, frame: &impl FrameBuf, bytes_max: usize) -> Self {
        let len = frame.frame_len();
        let mut bytes = vec![0; len.min(bytes_max)];
        frame.copy_to(&mut bytes);
        Self {
            port,
            len,
            bytes: bytes.into(),
        }
    }
}

/// Copies what is sent.
struct Recorder<'a, I> {
    io: &'a mut I,
    /// The most bytes of a copy; `None`: nothing is copied.
    bytes_max: Option<usize>,
    left: Vec<CapturedFrame>,
}

impl<I: FrameIo> FrameIo for Recorder<'_, I> {
    type Frame = I::Frame;

    fn receive(&mut self, into: &mut Vec<I::Frame>) {
        self.io.receive(into);
    }

    fn allocate(&mut self, port: PortId) -> Option<I::Frame> {
        self.io.allocate(port)
    }

    fn send(&mut self, port: PortId, frame: I::Frame) -> Result<(), DropReason> {
        let copy = self
            .bytes_max
            .map(|max| CapturedFrame::of(port, &frame, max));
        self.io.send(port, frame)?;
        self.left.extend(copy);
        Ok(())
    }

    fn pass_to_kernel(&mut self, frame: I::Frame) -> Result<(), DropReason> {
        self.io.pass_to_kernel(frame)
    }

    fn flush(&mut self) {
        self.io.flush();
    }

    fn wait(&mut self, timeout: Duration) {
        self.io.wait(timeout);
    }
}
