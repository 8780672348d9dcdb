//! The wasmtime engines, one per kind of module, and the epoch clocks that stop their modules.
//!
//! Invariant: guest code runs only with an epoch deadline and a time budget (a policy's
//! [`CallBudget`], a health check's `checks::cpu_budget`), so every call into a module ends,
//! whatever the module does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
};
use waxwing_sdk::abi::Kind;

use crate::error::HostError;

/// The pace of an epoch clock. The kernel's timer slack adds about 50 us to a tick.
#[derive(Clone, Copy, Debug)]
struct ClockPace {
    /// The tick while modules run.
    busy: Duration,
    /// The tick after [`ClockPace::idle_after`] ticks without a call, so that an idle balancer, or
    /// one with only known flows, sleeps. A call wakes the clock. It keeps ticking so that a
    /// descheduled call still times out.
    idle: Duration,
    idle_after: u32,
}

impl ClockPace {
    /// A policy's call takes microseconds.
    const POLICIES: Self = Self {
        busy: Duration::from_micros(100),
        idle: Duration::from_millis(100),
        idle_after: 1_000,
    };
    /// A tick is how long a health check may occupy a thread of the executor: 50 checks in endless
    /// loops delay an honest one by 50 ms.
    const CHECKS: Self = Self {
        busy: Duration::from_millis(1),
        idle: Duration::from_millis(100),
        idle_after: 1_000,
    };
}

/// The stack of a module, in bytes. Modules are shallow; deep recursion traps.
const STACK_BYTES: usize = 128 * 1024;

/// The stack that a health check shares with the host functions it calls, in bytes; a TLS handshake
/// is the deepest. Only touched pages take memory.
const ASYNC_STACK_BYTES: usize = 512 * 1024;

/// The address space of a policy's memory: all that 32 bits can address, so that guard pages
/// replace bounds checks (measured: a third faster). Only touched pages take memory.
const RESERVATION_BYTES: u64 = 1 << 32;

/// The memory limit of a health check, all of which is reserved. It is small because many checks
/// exist at once, and they mostly wait.
pub(crate) const CHECK_MEMORY_BYTES: usize = 16 << 20;

/// The guard region behind a health check's memory, instead of wasmtime's default of 32 MiB: a
/// larger one costs address space, a smaller one saves nothing.
const CHECK_GUARD_BYTES: u64 = 64 << 10;

/// How many bytes of a finished check's memory are zeroed for the next check. The kernel takes back
/// the rest, which interrupts all processors.
const KEPT_BYTES: usize = 128 << 10;

pub(crate) const TABLE_ENTRIES_MAX: usize = 10_000;

/// The fuel of an instance, if the engine counts it: ample for any measurement, and ends an endless
/// loop within about a minute.
const FUEL_MAX: u64 = 1 << 36;

/// The time for setting up an instance, plus the time for each of its services. Policies build
/// tables then, which takes some milliseconds.
const SET_UP: Duration = Duration::from_secs(1);
const SET_UP_PER_SERVICE: Duration = Duration::from_millis(100);

/// The set-up's limit of wall-clock time, as a multiple of its processor time.
const SET_UP_WALL_FACTOR: u32 = 10;

/// Returns the processor time that this thread has used.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The time budget of a call into a module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CallBudget {
    /// This many clock ticks after the deadline.
    ///
    /// A tick counts only while the module runs: if the kernel deschedules the worker for a while,
    /// that costs the call one tick, not its whole budget. So on a busy machine good modules do not
    /// look like endless loops.
    Ticks(u32),
    /// Until the calling thread has used this much processor time in its life, or until `wall`: on
    /// a busy machine ticks come late, and a thread of low priority waits long.
    SetUp { cpu: Duration, wall: Instant },
}

impl CallBudget {
    /// A call on the hot path: two ticks to the deadline, and two more.
    pub(crate) const BATCH: Self = Self::Ticks(2);

    /// All calls together that set up an instance, on the control thread.
    pub(crate) fn set_up(services: usize) -> Self {
        let services = u32::try_from(services).unwrap_or(u32::MAX);
        let time = SET_UP.saturating_add(SET_UP_PER_SERVICE.saturating_mul(services));
        Self::SetUp {
            cpu: thread_time() + time,
            wall: Instant::now() + SET_UP_WALL_FACTOR * time,
        }
    }

    /// Uses up a tick. Returns whether one was left.
    pub(crate) fn take_tick(&mut self) -> bool {
        match self {
            Self::Ticks(left) => {
                let less = left.checked_sub(1);
                *left = less.unwrap_or(0);
                less.is_some()
            }
            Self::SetUp { cpu, wall } => thread_time() < *cpu && Instant::now() < *wall,
        }
    }
}

/// The ticks to the first deadline. At least 2, because the next tick may be due at once.
pub(crate) const DEADLINE_TICKS: u64 = 2;

/// Wakes the epoch clock when a module is called.
#[derive(Clone, Default, Debug)]
pub(crate) struct ClockWaker(Arc<ClockState>);

#[derive(Default, Debug)]
struct ClockState {
    called: AtomicBool,
    /// The clock is slow, or is about to slow down.
    slow: AtomicBool,
    clock: OnceLock<Thread>,
}

impl ClockWaker {
    /// Notes a call. Usually this only reads a shared cache line; it writes once a tick.
    #[inline]
    pub(crate) fn mark_call(&self) {
        if !self.0.called.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Ordered with [`ClockWaker::slow_down`]: either the clock sees the call, or the caller sees
    /// that the clock is slow.
    #[cold]
    fn wake(&self) {
        self.0.called.store(true, Ordering::SeqCst);
        if self.0.slow.load(Ordering::SeqCst)
            && let Some(clock) = self.0.clock.get()
        {
            clock.unpark();
        }
    }

    /// Sleeps for `at_most`, or until a call.
    fn slow_down(&self, at_most: Duration) {
        self.0.slow.store(true, Ordering::SeqCst);
        if !self.0.called.load(Ordering::SeqCst) {
            std::thread::park_timeout(at_most);
        }
        self.0.slow.store(false, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        let called = self.0.called.load(Ordering::Relaxed);
        if called {
            self.0.called.store(false, Ordering::Relaxed);
        }
        called
    }
}

/// A wasmtime engine and its clock thread, which ends when the engine is dropped.
pub(crate) struct Engine {
    inner: wasmtime::Engine,
    kind: Kind,
    waker: ClockWaker,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
    /// The fuel of each instance, if the engine counts fuel instead of time.
    fuel: Option<u64>,
}

impl Engine {
    /// Starts an engine for policies.
    pub(crate) fn new() -> Result<Self, HostError> {
        Self::start(Kind::Policy, &config(Kind::Policy), ClockPace::POLICIES)
    }

    /// Starts an engine for health checks, with room for this many instances.
    pub(crate) fn for_checks(instances: u32) -> Result<Self, HostError> {
        let mut config = config(Kind::Health);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)));
        Self::start(Kind::Health, &config, ClockPace::CHECKS)
    }

    fn start(kind: Kind, config: &Config, pace: ClockPace) -> Result<Self, HostError> {
        let inner =
            wasmtime::Engine::new(config).map_err(|e| HostError::Engine(format!("{e:#}")))?;
        let waker = ClockWaker::default();
        let stop = Arc::new(AtomicBool::new(false));
        let ticker = std::thread::Builder::new()
            .name("waxwing-epoch".into())
            .spawn({
                let (engine, waker, stop) = (inner.clone(), waker.clone(), Arc::clone(&stop));
                move || tick(&engine, pace, &waker, &stop)
            })
            .map_err(HostError::Thread)?;
        Ok(Self {
            inner,
            kind,
            waker,
            stop,
            ticker: Some(ticker),
            fuel: None,
        })
    }

    /// Returns an engine without a clock, to compile with.
    pub(crate) fn compile_only(kind: Kind) -> wasmtime::Result<wasmtime::Engine> {
        wasmtime::Engine::new(&config(kind))
    }

    /// Returns an engine for policies that counts fuel: one unit or none per instruction. It has no
    /// clock; an instance that has used up its fuel traps.
    pub(crate) fn counting() -> Result<Self, HostError> {
        let mut config = config(Kind::Policy);
        config.epoch_interruption(false).consume_fuel(true);
        let inner =
            wasmtime::Engine::new(&config).map_err(|e| HostError::Engine(format!("{e:#}")))?;
        Ok(Self {
            inner,
            kind: Kind::Policy,
            waker: ClockWaker::default(),
            stop: Arc::default(),
            ticker: None,
            fuel: Some(FUEL_MAX),
        })
    }

    /// Returns the kind of module that it runs.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the fuel of each instance, if this engine counts it.
    pub(crate) fn fuel(&self) -> Option<u64> {
        self.fuel
    }

    /// Returns the wasmtime engine.
    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// Returns a handle by which callers wake the clock.
    pub(crate) fn waker(&self) -> ClockWaker {
        self.waker.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            // The thread ends within a tick. If it panicked, there is nothing left to stop.
            let _ = ticker.join();
        }
    }
}

fn tick(engine: &wasmtime::Engine, pace: ClockPace, waker: &ClockWaker, stop: &AtomicBool) {
    // The clock matters most when modules loop on every processor. Without the right to raise its
    // priority, it runs late then.
    let _ = rustix::process::nice(-20);
    let _ = waker.0.clock.set(std::thread::current());
    let mut quiet = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        if quiet < pace.idle_after {
            std::thread::sleep(pace.busy);
        } else {
            waker.slow_down(pace.idle);
        }
        engine.increment_epoch();
        quiet = if waker.take() {
            0
        } else {
            quiet.saturating_add(1)
        };
    }
}

/// The WebAssembly features of modules, as in `validate`, which has the better messages.
fn config(kind: Kind) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .max_wasm_stack(STACK_BYTES)
        .memory_may_move(false)
        .memory_reservation_for_growth(0);
    match kind {
        Kind::Policy => config.memory_reservation(RESERVATION_BYTES),
        Kind::Health => config
            .memory_reservation(CHECK_MEMORY_BYTES as u64)
            .memory_guard_size(CHECK_GUARD_BYTES)
            .async_stack_size(ASYNC_STACK_BYTES),
    };
    config
        .wasm_simd(false)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_extended_const(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

/// The pool of health check instances. Each lives for one run, and the next one reuses its slot.
/// (Measured: 9 us a run, against 49 us if memory is mapped and unmapped for each, which would also
/// interrupt all workers each time.)
fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(instances)
        .total_memories(instances)
        .total_tables(instances)
        .total_stacks(instances)
        .max_memory_size(CHECK_MEMORY_BYTES)
        .table_elements(TABLE_ENTRIES_MAX)
        .linear_memory_keep_resident(KEPT_BYTES)
        .table_keep_resident(KEPT_BYTES)
        .async_stack_keep_resident(KEPT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Prepares the calling thread for running modules, so that its first call does not have to.
pub fn prepare_thread() {
    wasmtime::Engine::tls_eager_initialize();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_until_taken(waker: &ClockWaker) {
        let start = Instant::now();
        while waker.0.called.load(Ordering::Relaxed) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "the clock did not wake"
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_clock_ticks_until_the_engine_is_dropped() {
        let engine = Engine::new().expect("an engine");
        engine.waker().mark_call();
        wait_until_taken(&engine.waker);
        drop(engine);
    }

    /// Here a slow clock would sleep for an hour: every call has to wake it.
    #[test]
    fn a_call_wakes_a_slow_clock() {
        let pace = ClockPace {
            busy: Duration::from_micros(10),
            idle: Duration::from_secs(3600),
            idle_after: 1,
        };
        let inner = wasmtime::Engine::new(&config(Kind::Policy)).expect("an engine");
        let (waker, stop) = (ClockWaker::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let clock = scope.spawn(|| tick(&inner, pace, &waker, &stop));
            for round in 0..2_000_u32 {
                waker.mark_call();
                wait_until_taken(&waker);
                for _ in 0..round % 64 {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
            waker.mark_call();
            clock.thread().unpark();
        });
    }
}
