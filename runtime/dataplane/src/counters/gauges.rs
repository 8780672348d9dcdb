//! Live numbers by backend, shared by all workers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{SampleCounters, moving_average};
use crate::atomics::{copy_u32, copy_u64};
use crate::session::{Phase, WORKER_UNCOUNTED};
use crate::{BackendId, SOURCES_MAX, SourceId};

/// Signals per backend: numbers for its policy, set from outside or by health checks.
pub const SIGNALS: usize = 4;

/// Live numbers per backend, which policies read.
///
/// Workers count sessions and measure the connect latency; the control plane writes rates and signals. All
/// are read without a lock, each by itself.
#[derive(Debug)]
pub struct Gauges {
    measured: Box<[Measured]>,
    assigned: Box<[Assigned]>,
    /// Sessions by the worker that opened them: a row of all backends per worker below [`WORKER_UNCOUNTED`].
    here: Box<[Phases]>,
    /// Sessions that failed, in the same rows.
    failed: Box<[AtomicU32]>,
    /// Sessions by source address.
    sources: Box<[AtomicU32]>,
    samples: SampleCounters,
}

/// What workers write.
#[derive(Default, Debug)]
#[repr(align(64))]
struct Measured {
    phases: Phases,
    latency_us: AtomicU32,
    opened: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
}

/// What the control plane writes.
#[derive(Default, Debug)]
#[repr(align(64))]
struct Assigned {
    sessions_per_s: AtomicU32,
    failures_ppm: AtomicU32,
    failure_samples: AtomicU32,
    signals: [AtomicU32; SIGNALS],
}

/// Sessions by phase. A worker that ends a session may count that before another has counted the session's
/// last change, so a number can be below zero for a moment.
#[derive(Default, Debug)]
struct Phases([AtomicU32; 3]);

impl Measured {
    fn copy(&self) -> Self {
        Self {
            phases: self.phases.copy(),
            latency_us: copy_u32(&self.latency_us),
            opened: copy_u64(&self.opened),
            refused: copy_u64(&self.refused),
            unanswered: copy_u64(&self.unanswered),
        }
    }
}

impl Assigned {
    fn copy(&self) -> Self {
        Self {
            sessions_per_s: copy_u32(&self.sessions_per_s),
            failures_ppm: copy_u32(&self.failures_ppm),
            failure_samples: copy_u32(&self.failure_samples),
            signals: self.signals.each_ref().map(copy_u32),
        }
    }
}

impl Phases {
    fn copy(&self) -> Self {
        Self(self.0.each_ref().map(copy_u32))
    }

    #[inline]
    fn of(&self, phase: Phase) -> &AtomicU32 {
        &self.0[match phase {
            Phase::HalfOpen => 0,
            Phase::Established => 1,
            Phase::Closing => 2,
        }]
    }

    #[inline]
    fn add(&self, phase: Phase) {
        self.of(phase).fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn remove(&self, phase: Phase) {
        self.of(phase).fetch_sub(1, Ordering::Relaxed);
    }

    #[inline]
    fn read(&self) -> SessionCounts {
        let read = |phase| {
            let count = self.of(phase).load(Ordering::Relaxed).cast_signed();
            count.max(0).cast_unsigned()
        };
        SessionCounts {
            half_open: read(Phase::HalfOpen),
            active: read(Phase::Established),
            closing: read(Phase::Closing),
        }
    }
}

/// The sessions in the table, each in one of these numbers (see [`Phase`]). UDP has no closing ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionCounts {
    pub half_open: u32,
    pub active: u32,
    pub closing: u32,
}

impl SessionCounts {
    /// The sessions that the backend has to serve: half-open and active ones.
    #[inline]
    #[must_use]
    pub const fn load(self) -> u32 {
        self.half_open.saturating_add(self.active)
    }

    #[inline]
    #[must_use]
    pub const fn total(self) -> u32 {
        self.load().saturating_add(self.closing)
    }
}

/// The failures among a backend's latest sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FailureRate {
    /// Failures per million sessions.
    pub ppm: u32,
    /// The number of sessions that it rests on, older ones weighted less.
    pub samples: u32,
}

impl Gauges {
    /// For backend ids below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize, workers: usize) -> Self {
        let rows = workers.min(WORKER_UNCOUNTED.into());
        Self {
            measured: (0..backends_max).map(|_| Measured::default()).collect(),
            assigned: (0..backends_max).map(|_| Assigned::default()).collect(),
            here: (0..backends_max * rows)
                .map(|_| Phases::default())
                .collect(),
            failed: (0..backends_max * rows)
                .map(|_| AtomicU32::new(0))
                .collect(),
            sources: (0..=SOURCES_MAX).map(|_| AtomicU32::new(0)).collect(),
            samples: SampleCounters::new(backends_max),
        }
    }

    /// Keeps the times that sampled sessions show, too, for service ids below `services_max`.
    #[must_use]
    pub fn with_services(self, services_max: usize) -> Self {
        Self {
            samples: self.samples.with_services(services_max),
            ..self
        }
    }

    /// What the sampled sessions have shown.
    #[must_use]
    pub const fn samples(&self) -> &SampleCounters {
        &self.samples
    }

    /// The numbers as they are now.
    pub(crate) fn copy(&self) -> Self {
        Self {
            measured: self.measured.iter().map(Measured::copy).collect(),
            assigned: self.assigned.iter().map(Assigned::copy).collect(),
            here: self.here.iter().map(Phases::copy).collect(),
            failed: self.failed.iter().map(copy_u32).collect(),
            sources: self.sources.iter().map(copy_u32).collect(),
            // No policy reads them.
            samples: SampleCounters::default(),
        }
    }

    /// The sessions with this source address.
    #[must_use]
    pub fn sessions_from(&self, source: SourceId) -> u32 {
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

    /// The backend's sessions.
    #[inline]
    #[must_use]
    pub fn sessions(&self, backend: BackendId) -> SessionCounts {
        self.measured(backend).phases.read()
    }

    /// The backend's sessions that this worker opened; 0 from [`WORKER_UNCOUNTED`] on.
    #[inline]
    #[must_use]
    pub fn sessions_here(&self, worker: usize, backend: BackendId) -> SessionCounts {
        self.here(worker, backend)
            .map_or_else(SessionCounts::default, Phases::read)
    }

    /// Counts a session that this worker opened. Returns how many the backend had had before.
    #[inline]
    pub fn begin(&self, worker: usize, backend: BackendId, phase: Phase) -> u64 {
        let before = self
            .measured(backend)
            .opened
            .fetch_add(1, Ordering::Relaxed);
        self.resume(worker, backend, phase);
        before
    }

    /// Like [`Gauges::begin`], for a session that an earlier process opened.
    #[inline]
    pub fn resume(&self, worker: usize, backend: BackendId, phase: Phase) {
        self.measured(backend).phases.add(phase);
        if let Some(here) = self.here(worker, backend) {
            here.add(phase);
        }
    }

    /// Moves a session that this worker opened to another phase. Any worker may call it.
    #[inline]
    pub fn change(&self, worker: usize, backend: BackendId, [from, to]: [Phase; 2]) {
        let here = self.here(worker, backend);
        for phases in std::iter::once(&self.measured(backend).phases).chain(here) {
            phases.remove(from);
            phases.add(to);
        }
    }

    /// Uncounts a session that this worker opened. Any worker may call it.
    #[inline]
    pub fn end(&self, worker: usize, backend: BackendId, phase: Phase) {
        self.measured(backend).phases.remove(phase);
        if let Some(here) = self.here(worker, backend) {
            here.remove(phase);
        }
    }

    /// Sessions opened so far.
    #[inline]
    #[must_use]
    pub fn opened(&self, backend: BackendId) -> u64 {
        self.measured(backend).opened.load(Ordering::Relaxed)
    }

    /// Sessions whose SYN the backend answered with an RST before any SYN-ACK, so far.
    #[inline]
    #[must_use]
    pub fn refused(&self, backend: BackendId) -> u64 {
        self.measured(backend).refused.load(Ordering::Relaxed)
    }

    /// Sessions that timed out, or whose backend went down, before the backend answered, so far.
    #[inline]
    #[must_use]
    pub fn unanswered(&self, backend: BackendId) -> u64 {
        self.measured(backend).unanswered.load(Ordering::Relaxed)
    }

    pub fn count_refused(&self, backend: BackendId) {
        let refused = &self.measured(backend).refused;
        refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_unanswered(&self, backend: BackendId) {
        let unanswered = &self.measured(backend).unanswered;
        unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that a session that this worker opened was refused, or its SYN not answered. Any worker may
    /// call it.
    pub fn fail(&self, worker: usize, backend: BackendId) {
        if let Some(failed) = self.failed.get(self.row(worker, backend)) {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The backend's sessions so far that this worker opened and that failed; wraps around.
    #[must_use]
    pub fn failed_here(&self, worker: usize, backend: BackendId) -> u32 {
        let failed = self.failed.get(self.row(worker, backend));
        failed.map_or(0, |failed| failed.load(Ordering::Relaxed))
    }

    /// Moving average of the time from SYN to SYN-ACK, in microseconds; 0 if not measured.
    #[inline]
    #[must_use]
    pub fn latency_us(&self, backend: BackendId) -> u32 {
        self.measured(backend).latency_us.load(Ordering::Relaxed)
    }

    /// Adds a latency measurement to the average. If two workers do so at once, one may be lost.
    #[inline]
    pub fn measure_latency(&self, backend: BackendId, sample_us: u32) {
        moving_average(&self.measured(backend).latency_us, sample_us);
    }

    /// New sessions per second; see [`Gauges::set_rates`].
    #[inline]
    #[must_use]
    pub fn sessions_per_s(&self, backend: BackendId) -> u32 {
        self.assigned(backend)
            .sessions_per_s
            .load(Ordering::Relaxed)
    }

    /// The refused and unanswered sessions among new ones; see [`Gauges::set_rates`].
    #[inline]
    #[must_use]
    pub fn failure_rate(&self, backend: BackendId) -> FailureRate {
        let assigned = self.assigned(backend);
        FailureRate {
            ppm: assigned.failures_ppm.load(Ordering::Relaxed),
            samples: assigned.failure_samples.load(Ordering::Relaxed),
        }
    }

    /// Sets what the control plane computes from the counts.
    pub fn set_rates(&self, backend: BackendId, sessions_per_s: u32, failures: FailureRate) {
        let assigned = self.assigned(backend);
        for (gauge, value) in [
            (&assigned.sessions_per_s, sessions_per_s),
            (&assigned.failures_ppm, failures.ppm),
            (&assigned.failure_samples, failures.samples),
        ] {
            gauge.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    #[must_use]
    pub fn signals(&self, backend: BackendId) -> [u32; SIGNALS] {
        let signals = &self.assigned(backend).signals;
        std::array::from_fn(|at| signals[at].load(Ordering::Relaxed))
    }

    /// Sets a signal.
    ///
    /// # Panics
    /// If `at` is not below [`SIGNALS`].
    pub fn set_signal(&self, backend: BackendId, at: usize, value: u32) {
        self.assigned(backend).signals[at].store(value, Ordering::Relaxed);
    }

    /// Clears counts, measurements and signals when the id is reused. All sessions of the old backend have
    /// ended by then.
    pub fn forget(&self, backend: BackendId) {
        let measured = self.measured(backend);
        measured.latency_us.store(0, Ordering::Relaxed);
        for count in [&measured.opened, &measured.refused, &measured.unanswered] {
            count.store(0, Ordering::Relaxed);
        }
        self.set_rates(backend, 0, FailureRate::default());
        self.samples.forget(backend);
        for signal in &self.assigned(backend).signals {
            signal.store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn measured(&self, backend: BackendId) -> &Measured {
        &self.measured[backend.index()]
    }

    #[inline]
    fn assigned(&self, backend: BackendId) -> &Assigned {
        &self.assigned[backend.index()]
    }

    #[inline]
    fn here(&self, worker: usize, backend: BackendId) -> Option<&Phases> {
        self.here.get(self.row(worker, backend))
    }

    #[inline]
    fn row(&self, worker: usize, backend: BackendId) -> usize {
        worker * self.measured.len() + backend.index()
    }
}
