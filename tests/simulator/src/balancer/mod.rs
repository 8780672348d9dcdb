//! The balancer: its workers, their shared state, and the control side that sends them epochs.
//!
//! Invariant, as in the control crate's controller: the next epoch is made only after every worker adopted
//! the last one; it is sent to all workers and then released to all at once.

mod config;
mod io;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use waxwing_dataplane::HopTable;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::model::Release;
use waxwing_dataplane::path::{RecordIds, Restorer, SharedState};
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{
    BackendId, DirectFlows, Epoch, FragmentLimits, FragmentTable, Gauges, NextHop, Now, Snapshot,
    SourceRates,
};

pub(crate) use self::config::BACKENDS_MAX;
use self::config::Config;
use self::io::TracedIo;
pub(crate) use self::io::{Generated, Handled, Outcome, is_fragment};
use self::policy::TestPolicy;
use crate::addresses::{server_mac, server_port};
use crate::plan::Plan;
use crate::random::Random;

/// Frames in each worker's pool.
const FRAMES: usize = 512;

/// The balancer under test.
pub(crate) struct Balancer {
    pub(crate) shared: SharedState,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    pub(crate) config: Config,
    /// The snapshot that each worker uses.
    pub(crate) current: Vec<Arc<Snapshot>>,
    /// The snapshot published last.
    next: Arc<Snapshot>,
    release: Release,
    /// Workers that have not adopted the last epoch.
    unacknowledged: usize,
    /// Epochs that were not sent yet, by worker.
    drafts: Vec<Option<Epoch>>,
    workers: Vec<Worker<TracedIo>>,
    mailboxes: Vec<Sender<Epoch>>,
    returned: Receiver<Epoch>,
}

impl Balancer {
    pub(crate) fn new(plan: &Plan, random: &mut Random) -> Self {
        let key = std::array::from_fn(|_| random.next());
        let shared = SharedState {
            sessions: Arc::new(
                SessionTable::new(plan.sessions_max, key).expect("a small table fits in memory"),
            ),
            next_hops: Arc::new(HopTable::new(BACKENDS_MAX)),
            gauges: Arc::new(Gauges::new(BACKENDS_MAX, plan.workers)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), key)),
            direct: Arc::new(DirectFlows::new(1024)),
            source_rates: Arc::new(SourceRates::new([13, 14, 15, 16])),
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
                .push(Worker::new(TracedIo::new(FRAMES), setup, epoch));
            balancer.mailboxes.push(mailbox);
            balancer.counters.push(counters);
        }
        balancer
    }

    fn epoch(&self, random: &mut Random) -> Epoch {
        let policy = TestPolicy {
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

    /// Resets the gauges of new backends and sets all next hops.
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

    /// Whether every worker adopted the last epoch.
    pub(crate) fn is_settled(&mut self) -> bool {
        while self.returned.try_recv().is_ok() {
            self.unacknowledged -= 1;
        }
        self.unacknowledged == 0
    }

    /// Makes an epoch of the current config for every worker.
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

    /// Sends a worker its epoch, which it adopts after the release.
    pub(crate) fn send_epoch(&mut self, worker: usize) {
        if let Some(epoch) = self.drafts[worker].take() {
            let sent = self.mailboxes[worker].send(epoch);
            assert!(sent.is_ok(), "the worker's mailbox is open");
        }
    }

    /// Lets all workers adopt the epochs that were sent.
    pub(crate) fn release_epochs(&self) {
        self.release.give();
    }

    /// Removes the sessions for which `is_lost` returns true. Returns their number.
    pub(crate) fn lose_sessions(&self, now: Now, mut is_lost: impl FnMut() -> bool) -> u64 {
        let ids = RecordIds {
            backends: (0..BACKENDS_MAX as u32).map(BackendId).map(Some).collect(),
            ..RecordIds::default()
        };
        let sessions = self.shared.sessions.records(now.tick());
        let lost: Vec<_> = sessions.filter(|_| is_lost()).collect();
        let mut restorer = Restorer::new(&self.shared, &self.next, &ids, self.workers.len());
        lost.iter().for_each(|record| restorer.end(record));
        lost.len() as u64
    }

    pub(crate) fn io(&mut self, worker: usize) -> &mut TracedIo {
        self.workers[worker].io()
    }

    /// Runs a turn of a worker at the worker's own clock.
    pub(crate) fn turn(&mut self, worker: usize, now_us: u64) -> Now {
        let epochs = self.counters[worker].epochs.get();
        let now = Now::from_start(Duration::from_micros(now_us));
        self.workers[worker].turn(now);
        if self.counters[worker].epochs.get() > epochs {
            self.current[worker] = Arc::clone(&self.next);
        }
        now
    }

    /// Frames that a worker dropped, for all reasons.
    pub(crate) fn drops(&self, worker: usize) -> u64 {
        let reasons = waxwing_dataplane::DropReason::ALL.iter();
        reasons
            .map(|reason| self.counters[worker].dropped(*reason).get())
            .sum()
    }
}
