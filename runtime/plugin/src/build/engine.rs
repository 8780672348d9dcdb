//! The engines that compile and run modules, one for each kind, and the clocks that cut them off.
//!
//! Invariant: guest code runs only with an epoch deadline set and a budget of time (a policy's
//! [`Budget`], a health check's `checks::meter`), so every call into a module ends, whatever the
//! module does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
};
use waxwing_sdk::abi::Kind;

use crate::error::HostError;

/// How an epoch clock goes. The kernel's timer slack adds about 50 us to a tick.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// One tick while modules run.
    busy: Duration,
    /// One tick while no module has run for [`Pace::idle_after`] ticks, unless one is called: an idle
    /// balancer sleeps, and so does one that knows all of its flows. It goes on at all for a call that was
    /// not given a processor for that long.
    idle: Duration,
    /// How many ticks without a call make the clock slow down.
    idle_after: u32,
}

impl Pace {
    /// A policy's call is a matter of microseconds.
    const POLICIES: Self = Self {
        busy: Duration::from_micros(100),
        idle: Duration::from_millis(100),
        idle_after: 1_000,
    };
    /// A health check's tick is how long it may keep a thread of the executor to itself: fifty that
    /// loop make an honest one wait for 50 ms.
    const CHECKS: Self = Self {
        busy: Duration::from_millis(1),
        idle: Duration::from_millis(100),
        idle_after: 1_000,
    };
}

/// The stack of a module, in bytes. Modules are shallow; recursion ends here with a trap.
const STACK_BYTES: usize = 128 * 1024;

/// The stack that a health check and what it calls in the host share: a TLS handshake is the
/// deepest. Only touched pages take memory.
const ASYNC_STACK_BYTES: usize = 512 * 1024;

/// Address space of a policy's memory: all that 32 bits can address, so that guard pages replace
/// bounds checks (measured: a third faster). Only touched pages take memory.
const RESERVATION_BYTES: u64 = 1 << 32;

/// The same of a health check: there are many at once, and they wait rather than compute. It may not
/// grow further.
pub(crate) const CHECK_MEMORY_BYTES: usize = 16 << 20;

/// Behind it, instead of the 32 MiB that are usual: more costs address space, less nothing.
const CHECK_GUARD_BYTES: u64 = 64 << 10;

/// How much of what a finished check has written to is cleared by writing zeros, for the next one. The
/// rest is given back to the kernel, which interrupts all processors.
const KEPT_BYTES: usize = 128 << 10;

/// The most entries of a module's table.
pub(crate) const TABLE_ENTRIES_MAX: usize = 10_000;

/// What an instance may execute where that is counted: ample for any measurement, and an end to an
/// endless loop within a minute or so.
const FUEL_MAX: u64 = 1 << 36;

/// The time for setting an instance up, and what each of its services adds. Tables are built in it,
/// which takes some milliseconds.
const SET_UP: Duration = Duration::from_secs(1);
const SET_UP_PER_SERVICE: Duration = Duration::from_millis(100);

/// How many times longer than that it may take in real time.
const SET_UP_WALL_FACTOR: u32 = 10;

/// The processor time that this thread has used.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// How long a call into a module may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Budget {
    /// For so many clock ticks after the deadline.
    ///
    /// Ticks are counted only while the module itself is running: if the kernel takes the CPU away
    /// from the worker for a while, that costs the call one tick and not its whole budget. So a busy
    /// machine does not make good modules look like endless loops.
    Ticks(u32),
    /// Until the calling thread has used this much of processor time in its life, and in any case until
    /// then: on a busy machine ticks come late, and a thread that stands back waits long.
    SetUp { cpu: Duration, wall: Instant },
}

impl Budget {
    /// Of a call on the packet's way: two ticks to the deadline, two more to be sure.
    pub(crate) const BATCH: Self = Self::Ticks(2);

    /// Of all calls together that set an instance up, on the control thread.
    pub(crate) fn set_up(services: usize) -> Self {
        let services = u32::try_from(services).unwrap_or(u32::MAX);
        let time = SET_UP.saturating_add(SET_UP_PER_SERVICE.saturating_mul(services));
        Self::SetUp {
            cpu: thread_time() + time,
            wall: Instant::now() + SET_UP_WALL_FACTOR * time,
        }
    }

    /// Takes a tick, and says whether there was one left.
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

/// The ticks to the first deadline. One would do, but the first may be about to pass.
pub(crate) const DEADLINE_TICKS: u64 = 2;

/// Wakes the epoch clock: a caller says that a module is about to run.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pulse(Arc<Marks>);

#[derive(Default, Debug)]
struct Marks {
    called: AtomicBool,
    /// The clock is slow, or about to be.
    slow: AtomicBool,
    clock: OnceLock<Thread>,
}

impl Pulse {
    /// Marks a call. Mostly a read of a shared line; a write only once a tick.
    #[inline]
    pub(crate) fn mark(&self) {
        if !self.0.called.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// In one order with [`Pulse::slow_down`]: either the clock sees the call, or the caller that it is slow.
    #[cold]
    fn wake(&self) {
        self.0.called.store(true, Ordering::SeqCst);
        if self.0.slow.load(Ordering::SeqCst)
            && let Some(clock) = self.0.clock.get()
        {
            clock.unpark();
        }
    }

    /// Sleeps for so long, or until a call.
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

/// A wasmtime engine with its clock thread, which ends when the engine is dropped.
pub(crate) struct Engine {
    inner: wasmtime::Engine,
    kind: Kind,
    pulse: Pulse,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
    /// What an instance may use up in its life, where that is counted instead of time.
    fuel: Option<u64>,
}

impl Engine {
    /// Starts one for policies.
    pub(crate) fn new() -> Result<Self, HostError> {
        Self::start(Kind::Policy, &config(Kind::Policy), Pace::POLICIES)
    }

    /// Starts one for health checks: room for so many instances is set aside.
    pub(crate) fn for_checks(instances: u32) -> Result<Self, HostError> {
        let mut config = config(Kind::Health);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)));
        Self::start(Kind::Health, &config, Pace::CHECKS)
    }

    fn start(kind: Kind, config: &Config, pace: Pace) -> Result<Self, HostError> {
        let inner =
            wasmtime::Engine::new(config).map_err(|e| HostError::Engine(format!("{e:#}")))?;
        let pulse = Pulse::default();
        let stop = Arc::new(AtomicBool::new(false));
        let ticker = std::thread::Builder::new()
            .name("waxwing-epoch".into())
            .spawn({
                let (engine, pulse, stop) = (inner.clone(), pulse.clone(), Arc::clone(&stop));
                move || tick(&engine, pace, &pulse, &stop)
            })
            .map_err(HostError::Thread)?;
        Ok(Self {
            inner,
            kind,
            pulse,
            stop,
            ticker: Some(ticker),
            fuel: None,
        })
    }

    /// An engine without a clock, to compile with.
    pub(crate) fn compile_only(kind: Kind) -> wasmtime::Result<wasmtime::Engine> {
        wasmtime::Engine::new(&config(kind))
    }

    /// An engine that counts what policies execute: each instruction is a unit of fuel, or none.
    /// It has no clock; an instance that has used up its fuel traps.
    pub(crate) fn counting() -> Result<Self, HostError> {
        let mut config = config(Kind::Policy);
        config.epoch_interruption(false).consume_fuel(true);
        let inner =
            wasmtime::Engine::new(&config).map_err(|e| HostError::Engine(format!("{e:#}")))?;
        Ok(Self {
            inner,
            kind: Kind::Policy,
            pulse: Pulse::default(),
            stop: Arc::default(),
            ticker: None,
            fuel: Some(FUEL_MAX),
        })
    }

    /// The kind of module that it runs.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The fuel that each instance gets, if this engine counts it.
    pub(crate) fn fuel(&self) -> Option<u64> {
        self.fuel
    }

    /// The wasmtime engine.
    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// For those who call modules.
    pub(crate) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            // It ends within a tick; if it panicked there is nothing left to stop.
            let _ = ticker.join();
        }
    }
}

fn tick(engine: &wasmtime::Engine, pace: Pace, pulse: &Pulse, stop: &AtomicBool) {
    // It is needed most when a module loops on every processor. A user without the right to it has
    // a clock that is late then.
    let _ = rustix::process::nice(-20);
    let _ = pulse.0.clock.set(std::thread::current());
    let mut quiet = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        if quiet < pace.idle_after {
            std::thread::sleep(pace.busy);
        } else {
            pulse.slow_down(pace.idle);
        }
        engine.increment_epoch();
        quiet = if pulse.take() {
            0
        } else {
            quiet.saturating_add(1)
        };
    }
}

/// What modules may use is fixed here and, with a better message, in `validate.rs`.
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

/// Where the instances of health checks are: each lives for one run only, and the next one has its
/// place. (Measured: 9 us a run, against 49 us where memory is mapped and unmapped for each; and that
/// would interrupt all workers each time.)
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

/// Prepares the calling thread for running modules, which else happens in its first call.
pub fn prepare_thread() {
    wasmtime::Engine::tls_eager_initialize();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until the clock has taken a call's mark.
    fn wait_until_taken(pulse: &Pulse) {
        let start = Instant::now();
        while pulse.0.called.load(Ordering::Relaxed) {
            assert!(start.elapsed() < Duration::from_secs(60), "it sleeps on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_clock_runs_and_stops() {
        let engine = Engine::new().expect("an engine");
        engine.pulse().mark();
        wait_until_taken(&engine.pulse);
        drop(engine);
    }

    /// The clock of a quiet balancer sleeps for ever here, and each call finds it awake.
    #[test]
    fn a_call_wakes_a_slow_clock() {
        let pace = Pace {
            busy: Duration::from_micros(10),
            idle: Duration::from_secs(3600),
            idle_after: 1,
        };
        let inner = wasmtime::Engine::new(&config(Kind::Policy)).expect("an engine");
        let (pulse, stop) = (Pulse::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let clock = scope.spawn(|| tick(&inner, pace, &pulse, &stop));
            for round in 0..2_000_u32 {
                pulse.mark();
                wait_until_taken(&pulse);
                for _ in 0..round % 64 {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
            pulse.mark();
            clock.thread().unpark();
        });
    }
}
