//! Live numbers by backend, shared by all workers.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::session::WORKER_UNCOUNTED;
use crate::{BackendId, SOURCES_MAX, SourceId};

/// Signals per backend: numbers for its policy, set from outside or by health checks.
pub const SIGNALS: usize = 4;

/// Live numbers per backend, which policies read.
///
/// Workers count sessions and measure the connect latency; the control plane writes rates and signals. All
/// are read without a lock, each by itself.
#[derive(Debug)]
pub struct Gauges {
    backends: Box<[BackendGauges]>,
    /// Sessions by the worker that opened them: a row of all backends per worker below [`WORKER_UNCOUNTED`].
    here: Box<[AtomicU32]>,
    /// Sessions by source address.
    sources: Box<[AtomicU32]>,
}

#[derive(Default, Debug)]
#[repr(align(32))]
struct BackendGauges {
    active: AtomicU32,
    sessions_per_s: AtomicU32,
    latency_us: AtomicU32,
    failures_ppm: AtomicU32,
    signals: [AtomicU32; SIGNALS],
}

/// The inverse weight of a new measurement in the moving average, as in RFC 6298's smoothed round-trip time.
const LATENCY_GAIN: u32 = 8;

impl Gauges {
    /// For backend ids below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize, workers: usize) -> Self {
        let rows = workers.min(WORKER_UNCOUNTED.into());
        Self {
            backends: (0..backends_max)
                .map(|_| BackendGauges::default())
                .collect(),
            here: (0..backends_max * rows)
                .map(|_| AtomicU32::new(0))
                .collect(),
            sources: (0..=SOURCES_MAX).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Current sessions with this source address.
    #[must_use]
    pub fn active_from(&self, source: SourceId) -> u32 {
        self.sources[source.index()].load(Ordering::Relaxed)
    }

    /// Counts a new session's source address, unless that is the client's own.
    #[inline]
    pub fn begin_source(&self, source: SourceId) {
        if !source.is_client() {
            self.sources[source.index()].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Uncounts an ended session's source address.
    #[inline]
    pub fn end_source(&self, source: SourceId) {
        if !source.is_client() {
            self.sources[source.index()].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The backend's current sessions.
    #[inline]
    #[must_use]
    pub fn active(&self, backend: BackendId) -> u32 {
        self.of(backend).active.load(Ordering::Relaxed)
    }

    /// The backend's current sessions that this worker opened; 0 from [`WORKER_UNCOUNTED`] on.
    #[inline]
    #[must_use]
    pub fn active_here(&self, worker: usize, backend: BackendId) -> u32 {
        self.here(worker, backend)
            .map_or(0, |here| here.load(Ordering::Relaxed))
    }

    /// Counts a session that this worker opened.
    #[inline]
    pub fn begin(&self, worker: usize, backend: BackendId) {
        self.of(backend).active.fetch_add(1, Ordering::Relaxed);
        if let Some(here) = self.here(worker, backend) {
            here.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Uncounts a session that this worker opened. Any worker may call it.
    #[inline]
    pub fn end(&self, worker: usize, backend: BackendId) {
        self.of(backend).active.fetch_sub(1, Ordering::Relaxed);
        if let Some(here) = self.here(worker, backend) {
            here.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Moving average of the time from SYN to SYN-ACK, in microseconds; 0 if not measured.
    #[inline]
    #[must_use]
    pub fn latency_us(&self, backend: BackendId) -> u32 {
        self.of(backend).latency_us.load(Ordering::Relaxed)
    }

    /// Adds a latency measurement to the average. If two workers do so at once, one may be lost.
    #[inline]
    pub fn measure_latency(&self, backend: BackendId, sample_us: u32) {
        let average = &self.of(backend).latency_us;
        let sample = sample_us.max(1);
        let next = match average.load(Ordering::Relaxed) {
            0 => sample,
            old => old - old / LATENCY_GAIN + sample / LATENCY_GAIN,
        };
        average.store(next.max(1), Ordering::Relaxed);
    }

    /// New sessions per second; see [`Gauges::set_rates`].
    #[inline]
    #[must_use]
    pub fn sessions_per_s(&self, backend: BackendId) -> u32 {
        self.of(backend).sessions_per_s.load(Ordering::Relaxed)
    }

    /// Failed sessions per million new ones; see [`Gauges::set_rates`].
    #[inline]
    #[must_use]
    pub fn failures_ppm(&self, backend: BackendId) -> u32 {
        self.of(backend).failures_ppm.load(Ordering::Relaxed)
    }

    /// Sets what the control plane computes from the counters: new sessions per second, and how many per
    /// million of them were refused or unanswered.
    pub fn set_rates(&self, backend: BackendId, sessions_per_s: u32, failures_ppm: u32) {
        let gauges = self.of(backend);
        gauges
            .sessions_per_s
            .store(sessions_per_s, Ordering::Relaxed);
        gauges.failures_ppm.store(failures_ppm, Ordering::Relaxed);
    }

    #[inline]
    #[must_use]
    pub fn signals(&self, backend: BackendId) -> [u32; SIGNALS] {
        let signals = &self.of(backend).signals;
        std::array::from_fn(|at| signals[at].load(Ordering::Relaxed))
    }

    /// Sets a signal.
    ///
    /// # Panics
    /// If `at` is not below [`SIGNALS`].
    pub fn set_signal(&self, backend: BackendId, at: usize, value: u32) {
        self.of(backend).signals[at].store(value, Ordering::Relaxed);
    }

    /// Clears measurements and signals when the id is reused. All sessions of the old backend have ended by
    /// then.
    pub fn forget(&self, backend: BackendId) {
        let gauges = self.of(backend);
        let others = [
            &gauges.sessions_per_s,
            &gauges.latency_us,
            &gauges.failures_ppm,
        ];
        for gauge in others.into_iter().chain(&gauges.signals) {
            gauge.store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn of(&self, backend: BackendId) -> &BackendGauges {
        &self.backends[backend.index()]
    }

    #[inline]
    fn here(&self, worker: usize, backend: BackendId) -> Option<&AtomicU32> {
        self.here
            .get(worker * self.backends.len() + backend.index())
    }
}
