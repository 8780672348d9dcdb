//! The worker loop: one thread that runs each batch to completion.
//!
//! Invariant: an epoch changes only between two batches, and only after every worker has been sent its own
//! (see [`crate::model::Release`]). A batch is sent before background work, which is bounded per turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::capture::Capture;
use crate::counters::WorkerCounters;
use crate::path::Announcements;
use crate::path::{Forwarder, SharedState};
use crate::path::{RemovalCause, is_over};
use crate::policy::TickContext;
use crate::{BATCH, Epoch, FrameIo, Now};

/// The longest sleep of an idle worker, and so the longest delay until it sees a new epoch.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// How long a sweep of all slots ever used takes, in microseconds. An expired session keeps its slot
/// for up to that long (longer on an idle worker with a large table: [`SWEEP_MAX`] bounds each turn). Its
/// packets see its end at once.
const SWEEP_ROUND_US: u64 = 4_000_000;
/// Slots per step: few enough that no packet waits long.
const SWEEP_STEP: u64 = 64;
/// The longest pause between two steps: a small table is swept more often.
const SWEEP_PAUSE_US: u64 = 4000;
/// The most slots visited between two batches.
const SWEEP_MAX: u64 = 4096;

/// What a worker is built from.
pub struct WorkerSetup {
    /// Its number: the first queue that it serves on each port.
    pub number: usize,
    /// The number of workers, which share the sweep of the session table.
    pub workers: usize,
    pub shared: SharedState,
    pub counters: Arc<WorkerCounters>,
    /// The key of the hash that policies see; equal on all balancers of a cluster.
    pub cluster_key: [u64; 4],
    /// Receives new epochs.
    pub mailbox: Receiver<Epoch>,
    /// Returns old epochs, to be dropped outside the hot path.
    pub returned: Sender<Epoch>,
}

/// One worker with its I/O and its epoch.
pub struct Worker<I: FrameIo> {
    io: I,
    setup: WorkerSetup,
    forwarder: Forwarder,
    epoch: Epoch,
    next_epoch: Option<Epoch>,
    announcements: Announcements,
    frames: Vec<I::Frame>,
    swept_at: Now,
    /// The pause between two sweep steps, in microseconds.
    sweep_pause: u64,
    /// When the previous turn began, if it had a batch.
    batch_began: Option<Now>,
    capture: Option<Capture>,
}

impl<I: FrameIo> Worker<I> {
    pub fn new(io: I, setup: WorkerSetup, epoch: Epoch) -> Self {
        let mut announcements = Announcements::default();
        if setup.number == 0 {
            announcements.schedule();
        }
        Self {
            forwarder: Forwarder::new(
                setup.shared.clone(),
                Arc::clone(&setup.counters),
                setup.number,
                setup.cluster_key,
                &epoch,
            ),
            io,
            setup,
            epoch,
            next_epoch: None,
            announcements,
            frames: Vec::with_capacity(BATCH),
            swept_at: Now::default(),
            sweep_pause: 1,
            batch_began: None,
            capture: None,
        }
    }

    /// Runs until `stop` is set. Reads the clock once per turn.
    pub fn run(&mut self, clock: impl Fn() -> Now, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if !self.turn(clock()) {
                self.io.wait(IDLE_WAIT);
            }
        }
    }

    /// Captures packets from the next turn on, or no longer.
    pub fn set_capture(&mut self, capture: Option<Capture>) {
        self.capture = capture;
    }

    /// One turn: receive, switch to a new epoch, forward one batch, do bounded background work. Returns
    /// whether there was a frame. If so, call it again at once: the start of the next turn is taken as the
    /// end of this one.
    pub fn turn(&mut self, now: Now) -> bool {
        if let Some(began) = self.batch_began.take() {
            let took = now.nanos().saturating_sub(began.nanos());
            self.setup.counters.count_batch_time(took / 1000);
        }
        // In this order, so that no frame meets a snapshot older than the one that caused it: an epoch that
        // another worker already acted on was in the mailbox before the frame arrived.
        self.io.receive(&mut self.frames);
        self.take_epoch(now);
        self.forwarder.refresh_routes();
        let busy = !self.frames.is_empty();
        if busy {
            self.batch_began = Some(now);
            self.setup.counters.batches.add(1);
            let Self {
                io,
                setup,
                forwarder,
                epoch,
                frames,
                capture,
                ..
            } = self;
            match capture {
                None => forwarder.forward(io, epoch, frames, now),
                Some(capture) => {
                    let worker = (setup.number, forwarder);
                    capture.forward(worker, io, epoch, frames, now);
                }
            }
            self.io.flush();
        }
        self.sweep(now);
        self.forwarder
            .sweep_fragments(&mut self.io, &self.epoch.snapshot, now);
        self.tick_policies(now);
        self.announcements.send(
            &mut self.io,
            &self.epoch.snapshot,
            &self.setup.counters,
            now,
        );
        self.io.flush();
        busy
    }

    /// The I/O, to account for its frames between two turns.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }

    /// Replaces the I/O between two turns, when its ports were attached again. Sessions stay. Worker 0
    /// announces the VIPs, because a port may have another MAC address now.
    pub fn replace_io(&mut self, io: I) {
        self.io = io;
        if self.setup.number == 0 {
            self.announcements.schedule();
        }
    }

    /// Ends the worker and returns its I/O, to account for its frames.
    pub fn into_io(self) -> I {
        self.io
    }

    fn take_epoch(&mut self, now: Now) {
        if self.next_epoch.is_none() {
            self.next_epoch = self.setup.mailbox.try_recv().ok();
        }
        if let Some(next) = self.next_epoch.take_if(|next| next.release.is_given()) {
            let (new, old) = (&next.snapshot, &self.epoch.snapshot);
            let differ = new.vips() != old.vips() || new.ports() != old.ports();
            if self.setup.number == 0 && differ {
                self.announcements.schedule();
            }
            let mut old = std::mem::replace(&mut self.epoch, next);
            self.epoch.take_kept(&mut old);
            let context = TickContext {
                now,
                snapshot: &self.epoch.snapshot,
                gauges: &self.setup.shared.gauges,
            };
            for policy in &mut self.epoch.policies {
                for before in &mut old.policies {
                    policy.inherit(&mut **before, context);
                }
            }
            self.forwarder.context.closed.take_epoch(&self.epoch);
            self.setup.counters.epochs.add(1);
            // At shutdown the receiver is gone, and the epoch is dropped here.
            let _ = self.setup.returned.send(old);
        }
    }

    /// Removes expired sessions in this worker's share of the table for the time that has passed.
    fn sweep(&mut self, now: Now) {
        let elapsed = now.nanos().saturating_sub(self.swept_at.nanos()) / 1000;
        if elapsed < self.sweep_pause {
            return;
        }
        self.swept_at = now;
        // One whole round is enough after a long sleep.
        let round = self.setup.shared.sessions.slots_taken() as u64;
        let quota = (elapsed * SWEEP_STEP / self.sweep_pause).min(SWEEP_MAX.min(round));
        let steps = round.div_ceil(SWEEP_STEP * self.setup.workers.max(1) as u64);
        self.sweep_pause = (SWEEP_ROUND_US / steps.max(1)).clamp(1, SWEEP_PAUSE_US);
        let context = &mut self.forwarder.context;
        let snapshot = &self.epoch.snapshot;
        let tick = now.tick();
        let counters = &self.setup.counters;
        context.shared.sessions.sweep(
            &mut context.slots,
            usize::try_from(quota).unwrap_or(usize::MAX),
            |session| {
                // A backend that this epoch does not know belongs to the next one.
                snapshot
                    .backend(session.backend)
                    .is_some_and(|backend| is_over(session, backend, tick))
                    // Its client's address is ours now.
                    || snapshot.is_own(session.client)
            },
            |removed| {
                context
                    .closed
                    .record_removal(snapshot, &removed, RemovalCause::Over, tick);
                counters.expired.add(1);
            },
        );
    }

    /// Reports closed sessions to policies, and runs their upkeep.
    fn tick_policies(&mut self, now: Now) {
        self.forwarder.context.closed.deliver(&mut self.epoch);
        let context = TickContext {
            now,
            snapshot: &self.epoch.snapshot,
            gauges: &self.setup.shared.gauges,
        };
        for policy in &mut self.epoch.policies {
            policy.tick(context);
        }
    }
}
