//! The balancer: its workers, what they share, and the control side that sends them epochs.
//!
//! Invariant: as in `runtime/control/src/publish/controller/mod.rs`, the next epoch is made only when every
//! worker has taken up the last one, is sent to all, and then released to all at once.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::epoch::Release;
use waxwing_dataplane::forward::Shared;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::snapshot::NextHops;
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{
    BackendId, Epoch, FragmentLimits, FragmentTable, Gauges, NextHop, Now, Snapshot,
};

use crate::config::{BACKENDS_MAX, Config, server_mac, server_port};
use crate::plan::Plan;
use crate::policy::Chooser;
use crate::random::Random;
use crate::wire::Wire;

/// Frames of each worker's pool.
const FRAMES: usize = 512;

pub(crate) struct Balancer {
    pub(crate) shared: Shared,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    pub(crate) config: Config,
    /// The snapshot that each worker works by.
    pub(crate) current: Vec<Arc<Snapshot>>,
    next: Arc<Snapshot>,
    release: Release,
    unacknowledged: usize,
    /// Epochs that were not sent yet.
    drafts: Vec<Option<Epoch>>,
    workers: Vec<Worker<Wire>>,
    mailboxes: Vec<Sender<Epoch>>,
    returned: Receiver<Epoch>,
}

impl Balancer {
    pub(crate) fn new(plan: &Plan, random: &mut Random) -> Self {
        let key = std::array::from_fn(|_| random.next());
        let shared = Shared {
            sessions: Arc::new(SessionTable::new(plan.sessions_max, key).expect("it is small")),
            next_hops: Arc::new(NextHops::new(BACKENDS_MAX)),
            gauges: Arc::new(Gauges::new(BACKENDS_MAX, plan.workers)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), key)),
        };
        let mut config = Config::new(plan, random);
        let (snapshot, new) = config.snapshot(&shared.gauges);
        let snapshot = Arc::new(snapshot);
        let (give_back, returned) = unbounded();
        let mut balancer = Self {
            shared,
            counters: Vec::new(),
            config,
            current: vec![Arc::clone(&snapshot); plan.workers],
            next: snapshot,
            release: Release::held(),
            unacknowledged: 0,
            drafts: Vec::new(),
            workers: Vec::new(),
            mailboxes: Vec::new(),
            returned,
        };
        balancer.resolve(&new);
        for number in 0..plan.workers {
            let (mailbox, inbox) = unbounded();
            let counters = Arc::new(WorkerCounters::new(BACKENDS_MAX));
            let setup = WorkerSetup {
                number,
                workers: plan.workers,
                shared: balancer.shared.clone(),
                counters: Arc::clone(&counters),
                cluster_key: key,
                mailbox: inbox,
                returned: give_back.clone(),
            };
            let epoch = balancer.epoch(random);
            balancer
                .workers
                .push(Worker::new(Wire::new(FRAMES), setup, epoch));
            balancer.mailboxes.push(mailbox);
            balancer.counters.push(counters);
        }
        balancer
    }

    fn epoch(&self, random: &mut Random) -> Epoch {
        let policy = Chooser {
            kind: self.config.policy,
            random: Random::new(random.next()),
        };
        Epoch {
            snapshot: Arc::clone(&self.next),
            policies: vec![Box::new(policy)],
            kept: Vec::new(),
            release: self.release.clone(),
        }
    }

    fn resolve(&self, new: &[BackendId]) {
        for id in new {
            self.shared.gauges.forget(*id);
        }
        for backend in self.next.backends() {
            let hop = NextHop {
                port: server_port(backend.address).0,
                mac: server_mac(backend.address),
            };
            self.shared.next_hops.set(backend.id, Some(hop));
        }
    }

    /// Whether every worker works by what was published last.
    pub(crate) fn is_settled(&mut self) -> bool {
        while self.returned.try_recv().is_ok() {
            self.unacknowledged -= 1;
        }
        self.unacknowledged == 0
    }

    /// Makes every worker an epoch of the config as it is now.
    pub(crate) fn draft(&mut self, random: &mut Random) {
        let (snapshot, new) = self.config.snapshot(&self.shared.gauges);
        self.next = Arc::new(snapshot);
        self.release = Release::held();
        self.resolve(&new);
        self.drafts = self
            .mailboxes
            .iter()
            .map(|_| Some(self.epoch(random)))
            .collect();
        self.unacknowledged = self.mailboxes.len();
    }

    /// Sends a worker its epoch, which it does not take up before the release.
    pub(crate) fn send(&mut self, worker: usize) {
        if let Some(epoch) = self.drafts[worker].take() {
            let sent = self.mailboxes[worker].send(epoch);
            assert!(sent.is_ok(), "the worker is there");
        }
    }

    pub(crate) fn release(&self) {
        self.release.give();
    }

    pub(crate) fn wire(&mut self, worker: usize) -> &mut Wire {
        self.workers[worker].io()
    }

    /// One turn of a worker, at its own reading of the clock.
    pub(crate) fn turn(&mut self, worker: usize, now_us: u64) -> Now {
        let epochs = self.counters[worker].epochs.get();
        let now = Now::from_start(Duration::from_micros(now_us));
        self.workers[worker].turn(now);
        if self.counters[worker].epochs.get() > epochs {
            self.current[worker] = Arc::clone(&self.next);
        }
        now
    }

    /// Dropped frames under each reason, of all workers.
    pub(crate) fn drops(&self, worker: usize) -> u64 {
        let reasons = waxwing_dataplane::DropReason::ALL.iter();
        reasons
            .map(|reason| self.counters[worker].dropped(*reason).get())
            .sum()
    }
}
