//! The worker threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use waxwing_control::config::Config;
use waxwing_control::publish::modules;
use waxwing_control::run::WorkerChannels;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{Epoch, Now};
use waxwing_xdp::WorkerSockets;

/// The scheduling priority of a worker, which leaves other threads on its CPU about a tenth of it. (Over a
/// thousand module swaps on two busy CPUs, the 99.9th percentile of batch times was 4 times that of a
/// quiet run without this, and is 1.4 times with it.)
const WORKER_NICE: i32 = -10;

/// What starts the workers, one thread each.
pub(crate) struct Launch {
    shared: SharedState,
    counters: Vec<Arc<WorkerCounters>>,
    cluster_key: [u64; 4],
    /// The CPUs for the workers in turn; empty for no pinning.
    cpus: Vec<usize>,
    started: Instant,
}

impl Launch {
    pub(crate) fn new(
        config: &Config,
        shared: &SharedState,
        counters: &[Arc<WorkerCounters>],
        started: Instant,
    ) -> Self {
        let chosen: Vec<usize> = config.workers.cpus.iter().map(|cpu| cpu.value).collect();
        let cpus = match (config.workers.pin, chosen.is_empty()) {
            (false, _) => Vec::new(),
            (true, false) => chosen,
            (true, true) => waxwing_xdp::allowed_cpus().unwrap_or_default(),
        };
        Self {
            shared: shared.clone(),
            counters: counters.to_vec(),
            cluster_key: modules::cluster_seed(config.cluster_key),
            cpus,
            started,
        }
    }

    pub(crate) fn start(
        self,
        parts: Vec<WorkerSockets>,
        channels: Vec<WorkerChannels>,
    ) -> Result<WorkerThreads> {
        let mut workers = WorkerThreads {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let count = parts.len();
        for ((number, parts), channels) in parts.into_iter().enumerate().zip(channels) {
            let WorkerChannels {
                epoch,
                mailbox,
                returned,
            } = channels;
            let setup = WorkerSetup {
                number,
                workers: count,
                shared: self.shared.clone(),
                counters: Arc::clone(&self.counters[number]),
                cluster_key: self.cluster_key,
                mailbox,
                returned,
            };
            let cpu = self.cpus.get(number % self.cpus.len().max(1)).copied();
            let (started, stop) = (self.started, Arc::clone(&workers.stop));
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    prepare_thread(number, cpu);
                    work(parts, setup, epoch, started, &stop)
                })
                .context("cannot start a worker's thread")?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

fn prepare_thread(number: usize, cpu: Option<usize>) {
    if let Some(cpu) = cpu
        && let Err(error) = waxwing_xdp::pin_current_thread(cpu)
    {
        tracing::warn!("cannot pin worker {number} to CPU {cpu}: {error}");
    }
    if let Err(error) = rustix::process::setpriority_process(None, WORKER_NICE) {
        tracing::warn!("cannot raise the priority of worker {number}: {error}");
    }
    waxwing_plugin::prepare_thread();
}

/// Runs a worker until `stop` is set. Returns whether it gave all its frames back.
fn work(
    parts: WorkerSockets,
    setup: WorkerSetup,
    epoch: Epoch,
    started: Instant,
    stop: &AtomicBool,
) -> bool {
    let number = setup.number;
    let mut worker = Worker::new(parts.into_io(), setup, epoch);
    worker.run(|| Now::from_start(started.elapsed()), stop);
    let account = worker.into_io().account();
    let outcome = if account.is_balanced() {
        "all accounted for"
    } else {
        "SOME LOST"
    };
    tracing::info!(?account, "worker {number} ended, frames: {outcome}");
    account.is_balanced()
}

/// The running workers. Dropping them stops them and waits for their end.
pub(crate) struct WorkerThreads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<bool>>,
}

impl WorkerThreads {
    /// Waits until a worker has ended by itself, which only a panic causes.
    pub(crate) async fn any_ended(&self) {
        while !self.threads.iter().any(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the workers and waits for their end.
    pub(crate) fn join(mut self) -> Result<()> {
        match self.end() {
            true => Ok(()),
            false => bail!("a worker lost frames or panicked, which is a bug in waxwing"),
        }
    }

    fn end(&mut self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        // Join all of them, even if the first one failed.
        let ends: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        ends.into_iter().all(|end| matches!(end, Ok(true)))
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.end();
    }
}
