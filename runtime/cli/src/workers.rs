//! The worker threads.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use waxwing_control::config::Config;
use waxwing_control::publish::modules;
use waxwing_control::run::WorkerChannels;
use waxwing_dataplane::capture::Capture;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{Epoch, Now};
use waxwing_xdp::{Handover, WorkerSockets, XdpIo};

use crate::calls;
use crate::priority::WORKER_NICE;

/// The longest that a worker should take for a command: much longer than a batch, or than closing sockets.
const COMMAND_MAX: Duration = Duration::from_secs(5);

/// What starts the workers, one thread each.
pub(crate) struct Launch {
    shared: SharedState,
    counters: Vec<Arc<WorkerCounters>>,
    cluster_key: [u64; 4],
    /// The CPUs for the workers in turn; empty for no pinning.
    cpus: Vec<usize>,
    /// The zero of the workers' clock.
    zero: Instant,
}

impl Launch {
    pub(crate) fn new(
        config: &Config,
        shared: &SharedState,
        counters: &[Arc<WorkerCounters>],
        zero: Instant,
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
            zero,
        }
    }

    /// Starts the workers, which wait for their sockets ([`Gate::open`]).
    pub(crate) fn start(self, channels: Vec<WorkerChannels>) -> Result<WorkerThreads> {
        let (mut threads, mut turns) = (Vec::new(), Vec::new());
        let mut gate = Gate::new();
        let count = channels.len();
        for (number, channels) in channels.into_iter().enumerate() {
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
            let (zero, gated) = (self.zero, gate.add());
            let turn = Arc::new(LastTurn::default());
            turns.push(Arc::clone(&turn));
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    prepare_thread(number, cpu);
                    work(setup, epoch, (zero, &turn), &gated)
                })
                .context("cannot start a worker's thread")?;
            threads.push(thread);
        }
        let gate = Arc::new(gate);
        Ok(WorkerThreads {
            gate,
            threads,
            turns,
        })
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
    if let Err(error) = calls::filter_worker() {
        tracing::warn!("worker {number}: {error:#}");
    }
}

/// Runs a worker until it is told to stop. Returns whether it gave all its frames back.
fn work(
    setup: WorkerSetup,
    epoch: Epoch,
    (zero, turn): (Instant, &LastTurn),
    gated: &Gated,
) -> bool {
    let number = setup.number;
    let mut worker = Worker::new(XdpIo::closed(), setup, epoch);
    let mut all_back = true;
    let clock = || {
        let now = Now::from_start(zero.elapsed());
        turn.0.store(now.micros(), Ordering::Relaxed);
        now
    };
    gated.obey(|step| match step {
        Step::Do(Command::Close) => {
            let account = worker.io().account();
            all_back &= account.is_balanced();
            tracing::debug!(?account, "worker {number} closes its sockets");
            worker.replace_io(XdpIo::closed());
        }
        Step::Do(Command::HandOver) => {
            all_back &= worker.io().account().is_balanced();
            let io = std::mem::replace(worker.io(), XdpIo::closed());
            let _ = gated.given.send(io.hand_over());
        }
        Step::Do(Command::Open(sockets)) => {
            let mut io = sockets.into_io();
            let wake = gated.wake.iter();
            wake.for_each(|wake| io.wake_by(Arc::clone(wake)));
            worker.replace_io(io);
        }
        Step::Do(Command::Capture(capture)) => worker.set_capture(capture),
        Step::Do(Command::Continue | Command::Stop) => {}
        Step::Run => worker.run(clock, &gated.interrupt),
    });
    let account = worker.into_io().account();
    all_back &= account.is_balanced();
    let outcome = if all_back {
        "all accounted for"
    } else {
        "SOME LOST"
    };
    tracing::info!(?account, "worker {number} ended, frames: {outcome}");
    all_back
}

/// When a worker's loop turned last, by its clock; on a cache line of its own, because it is written at every
/// turn.
#[derive(Default)]
#[repr(align(128))]
struct LastTurn(AtomicU64);

/// What the control thread tells an interrupted worker, which then waits for the next command.
enum Command {
    /// Drop the sockets.
    Close,
    /// Give the sockets up for another process.
    HandOver,
    /// Serve these sockets.
    Open(WorkerSockets),
    /// Capture packets, or no longer.
    Capture(Option<Capture>),
    /// Run with what there is, until the next interruption.
    Continue,
    Stop,
}

/// What a worker does next.
enum Step {
    Do(Command),
    /// Run until it is interrupted.
    Run,
}

/// Interrupts the workers, and replaces their sockets.
///
/// Invariant: an interrupted worker runs again only by [`Command::Continue`]. If it looked at the flag
/// instead, one that is slow to look would miss the interruption, run on, and never take its command.
#[derive(Default)]
pub(crate) struct Gate {
    interrupt: Arc<AtomicBool>,
    /// Readable while the workers are interrupted, so that none sleeps then.
    wake: Option<Arc<OwnedFd>>,
    workers: Vec<(Sender<Command>, Receiver<()>)>,
    given: Vec<Receiver<Option<Handover>>>,
    /// Held for a whole command: the workers take one at a time.
    state: Mutex<State>,
}

/// What the workers do.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// They wait for the next command.
    #[default]
    Interrupted,
    Running,
    Stopped,
}

/// A worker's end of the gate.
struct Gated {
    interrupt: Arc<AtomicBool>,
    wake: Option<Arc<OwnedFd>>,
    commands: Receiver<Command>,
    done: Sender<()>,
    given: Sender<Option<Handover>>,
}

impl Gated {
    /// Takes commands until the end.
    fn obey(&self, mut step: impl FnMut(Step)) {
        while let Ok(command) = self.commands.recv() {
            let (continues, stops) = (
                matches!(command, Command::Continue),
                matches!(command, Command::Stop),
            );
            step(Step::Do(command));
            if stops {
                break;
            }
            // Nobody waits for it at the end.
            let _ = self.done.send(());
            if continues {
                step(Step::Run);
            }
        }
    }
}

impl Gate {
    fn new() -> Self {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let gate = Self {
            // Without one, an interruption takes as long as an idle worker sleeps.
            wake: wake.ok().map(Arc::new),
            ..Self::default()
        };
        gate.interrupt(true);
        gate
    }

    fn interrupt(&self, is_interrupted: bool) {
        self.interrupt.store(is_interrupted, Ordering::Relaxed);
        let Some(wake) = &self.wake else { return };
        let mut count = 1_u64.to_ne_bytes();
        let _ = match is_interrupted {
            true => rustix::io::write(wake, &count),
            false => rustix::io::read(wake, &mut count),
        };
    }

    fn add(&mut self) -> Gated {
        let (tell, commands) = unbounded();
        let (done, wait) = unbounded();
        self.workers.push((tell, wait));
        let (given, take) = unbounded();
        self.given.push(take);
        Gated {
            interrupt: Arc::clone(&self.interrupt),
            wake: self.wake.clone(),
            commands,
            done,
            given,
        }
    }

    /// Has every worker close its sockets, and returns when all have. The workers stay interrupted.
    pub(crate) fn close(&self) {
        self.interrupt_for(&mut self.state(), || Command::Close);
    }

    /// Has every worker give its sockets up between two batches. Returns what another process needs of each;
    /// `None` for one that has no sockets. The workers stay interrupted.
    pub(crate) fn hand_over(&self) -> Vec<Option<Handover>> {
        self.interrupt_for(&mut self.state(), || Command::HandOver);
        let given = self.given.iter();
        given.map(|it| it.try_recv().ok().flatten()).collect()
    }

    /// Has the workers go on with new sockets, or without any.
    pub(crate) fn open(&self, sockets: Option<Vec<WorkerSockets>>) {
        let mut state = self.state();
        if let Some(sockets) = sockets {
            let mut sockets = sockets.into_iter();
            self.interrupt_for(&mut state, || {
                sockets.next().map_or(Command::Close, Command::Open)
            });
        }
        self.go_on(&mut state);
    }

    /// Has the workers capture packets between two batches from now on, or no longer. Those that are
    /// interrupted stay so.
    pub(crate) fn capture(&self, capture: Option<&Capture>) {
        let mut state = self.state();
        let before = *state;
        if before == State::Stopped {
            return;
        }
        self.interrupt_for(&mut state, || Command::Capture(capture.cloned()));
        if before == State::Running {
            self.go_on(&mut state);
        }
    }

    /// Ends every worker's thread.
    fn stop(&self) {
        let mut state = self.state();
        self.interrupt_for(&mut state, || Command::Stop);
        *state = State::Stopped;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interrupts the workers for a command. They stay interrupted.
    fn interrupt_for(&self, state: &mut State, command: impl FnMut() -> Command) {
        self.interrupt(true);
        self.tell(command);
        *state = State::Interrupted;
    }

    /// Ends the interruption.
    fn go_on(&self, state: &mut State) {
        self.interrupt(false);
        self.tell(|| Command::Continue);
        *state = State::Running;
    }

    /// Sends each worker a command and waits until all have done it. A worker whose thread has ended, which
    /// ends the process, is left out. One that hangs, which is a bug, is named in the log.
    fn tell(&self, mut command: impl FnMut() -> Command) {
        let workers = self.workers.iter().enumerate();
        let told = workers.filter(|(_, (tell, _))| tell.send(command()).is_ok());
        for (number, (_, done)) in told.collect::<Vec<_>>() {
            await_done(done, COMMAND_MAX, |waited| {
                let seconds = waited.as_secs();
                tracing::error!(
                    "a bug: worker {number} hangs; all wait for it, for {seconds} s now"
                );
            });
        }
    }
}

/// Waits until a worker has done a command, or its thread has ended. Calls `hangs` whenever `at_most` passes
/// meanwhile, with the time waited.
fn await_done(done: &Receiver<()>, at_most: Duration, hangs: impl Fn(Duration)) {
    let mut waited = Duration::ZERO;
    while done.recv_timeout(at_most) == Err(RecvTimeoutError::Timeout) {
        waited += at_most;
        hangs(waited);
    }
}

/// The running workers. Dropping them stops them and waits for their end.
pub(crate) struct WorkerThreads {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<bool>>,
    turns: Vec<Arc<LastTurn>>,
}

impl WorkerThreads {
    /// Returns what replaces the workers' sockets.
    pub(crate) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Returns when each worker's loop turned last.
    pub(crate) fn turns(&self) -> Vec<u64> {
        let last = |turn: &Arc<LastTurn>| turn.0.load(Ordering::Relaxed);
        self.turns.iter().map(last).collect()
    }

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
        self.gate.stop();
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const ROUNDS: u32 = 300;
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_worker_that_hangs_is_told_of_and_waited_for() {
        let (tell, done) = unbounded();
        let told = Cell::new(0);
        let late = || {
            told.set(told.get() + 1);
            if told.get() == 3 {
                tell.send(()).expect("it is waited for");
            }
        };
        await_done(&done, Duration::from_millis(1), |_| late());
        assert_eq!(told.get(), 3);
    }

    /// However slow a worker is to look at the flag.
    #[test]
    fn no_command_is_missed() {
        let mut gate = Gate::new();
        let gated: Vec<Gated> = (0..4).map(|_| gate.add()).collect();
        let workers = gated.into_iter().map(|gated| {
            thread::spawn(move || {
                let mut opened = 0;
                gated.obey(|step| match step {
                    Step::Do(Command::Capture(None)) => opened += 1,
                    Step::Do(_) => thread::yield_now(),
                    Step::Run => {
                        while !gated.interrupt.load(Ordering::Relaxed) {
                            thread::yield_now();
                        }
                    }
                });
                opened
            })
        });
        let workers: Vec<JoinHandle<u32>> = workers.collect();
        let (ended, end) = unbounded();
        thread::spawn(move || {
            let captures = || (0..ROUNDS).for_each(|_| gate.capture(None));
            thread::scope(|scope| {
                scope.spawn(captures);
                for _ in 0..ROUNDS {
                    gate.close();
                    gate.open(None);
                }
            });
            // An end of a capture may come when the workers are gone.
            gate.stop();
            gate.capture(None);
            let _ = ended.send(());
        });
        end.recv_timeout(PATIENCE)
            .expect("a worker missed a command");
        for worker in workers {
            assert_eq!(worker.join().expect("it ends"), ROUNDS);
        }
    }

    #[test]
    fn a_worker_whose_thread_has_ended_is_not_waited_for() {
        let gate = {
            let mut gate = Gate::new();
            drop(gate.add());
            gate
        };
        gate.close();
        gate.open(None);
        assert!(gate.hand_over().iter().all(Option::is_none));
        gate.stop();
    }
}
