//! A worker's instance of a policy: one per worker, for all services that name the module.
//!
//! Invariant: a call on the hot path allocates only when it fails; everything that the guest wrote
//! is checked before use; after a failure the instance is never called again.
//!
//! Invalid answers: a backend index out of range, or a wrong count, means a broken module: the
//! whole batch goes to the native fallback with [`PolicyFault::BadAnswer`]. A backend that takes no
//! new sessions (weight 0, or down) is an answer that a simple policy may give, because it ignores
//! weights: only that flow goes to the fallback, and is counted.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waxwing_dataplane::policy::{Closed, PickContext, TickContext};
use waxwing_dataplane::{NewFlow, Pick, Policy, PolicyFault, ServiceId};
use waxwing_sdk::abi::{ClosedRecord, PICK_DROP, PICK_FALLBACK, PICK_KEEP};

use crate::build::engine::CallBudget;
use crate::build::module::CompiledModule;
use crate::policy::guest::{CallFailure, PolicyExports, PolicyGuest};
use crate::policy::hosted::HostedService;
use crate::policy::module_log::ModuleLog;
use crate::policy::recent_flows::RecentFlows;
use crate::policy::records::{closed_record, write_flows, write_host, write_live};
use crate::policy::saving::Saving;
use crate::policy::shared_cells::CELLS_PER_TURN;
use crate::policy::worker_share::WorkerShare;

/// Up to this many backends, the live numbers are written before every call; above it, once a
/// millisecond.
const REFRESH_ALWAYS_MAX: usize = 64;

/// The most services that get upkeep between two batches, and the most that get their tick; the
/// others follow after the next batch.
const UPKEEP_MAX: usize = 1024;
const TICKS_MAX: usize = 4;

/// How often a module is asked for its lines, in milliseconds.
const LOG_MS: u64 = 250;

/// A failed call.
#[derive(Clone, Debug)]
pub struct FaultReport {
    /// The module.
    pub module: Arc<CompiledModule>,
    /// The worker of the instance, which is disabled until it is replaced.
    pub worker: u32,
    /// The service that the call was for.
    pub service: Arc<str>,
    /// The kind of failure.
    pub fault: PolicyFault,
    /// What happened, with the module's error text.
    pub text: String,
    /// Whether a new instance serves already, because the failed call told this one of changed backends.
    pub replaced: bool,
}

/// Receives failed calls, on the worker's thread: it must not block.
pub(crate) type FaultSink = Arc<dyn Fn(FaultReport) + Send + Sync>;

pub(crate) struct WasmPolicy {
    pub(crate) module: Arc<CompiledModule>,
    pub(crate) worker: u32,
    pub(crate) guest: PolicyGuest,
    pub(crate) functions: PolicyExports,
    pub(crate) hosted: Box<[HostedService]>,
    /// Index into `hosted` by service id; `u32::MAX` for services of other modules.
    pub(crate) by_service: Box<[u32]>,
    pub(crate) disabled: bool,
    pub(crate) faults: FaultSink,
    pub(crate) recent_flows: Arc<RecentFlows>,
    pub(crate) log: Arc<ModuleLog>,
    /// When the module is asked for its lines next.
    pub(crate) log_due_ms: u64,
    pub(crate) share: WorkerShare,
    pub(crate) saving: Saving,
    /// The next service due for upkeep, and when upkeep was done last.
    pub(crate) next_upkeep: usize,
    pub(crate) upkeep_ms: u64,
}

impl Policy for WasmPolicy {
    fn payload_len(&self) -> usize {
        self.module.payload_len()
    }

    fn pick(
        &mut self,
        service: ServiceId,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), PolicyFault> {
        let Some(at) = self.place(service) else {
            return Err(PolicyFault::Disabled);
        };
        let Some(start) = self.share.start() else {
            self.skip(flows.len(), picks);
            return Ok(());
        };
        let picked = self.try_pick(at, context, flows, picks);
        self.share.end(start);
        picked.map_err(|failure| self.fail(at, failure))
    }

    fn wants_closed(&self) -> bool {
        !self.disabled
            && self.functions.closed.is_some()
            && self
                .hosted
                .iter()
                .any(|hosted| hosted.regions.closed_capacity > 0)
    }

    fn closed(&mut self, service: ServiceId, events: &[Closed]) {
        let Some(at) = self.place(service) else {
            return;
        };
        // Told also when the module has used its share: an end that is not told is never made up for.
        let start = self.share.start_anyway();
        let reported = self.try_closed(at, events);
        self.share.end(start);
        if let Err(failure) = reported {
            self.fail(at, failure);
        }
    }

    fn inherit(&mut self, old: &mut dyn Policy, context: TickContext<'_>) {
        if self.module.info.keep
            && let Some(old) = old.as_any().and_then(|old| old.downcast_mut())
        {
            self.take_over(old, context);
        }
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn tick(&mut self, context: TickContext<'_>) {
        let now_ms = context.now.millis();
        if now_ms == self.upkeep_ms {
            return;
        }
        self.upkeep_ms = now_ms;
        self.save_if_asked(now_ms);
        if self.disabled {
            return;
        }
        if now_ms >= self.log_due_ms {
            self.log_due_ms = now_ms + LOG_MS;
            self.collect_log();
        }
        let (mut ticks, mut cells) = (0, 0);
        for _ in 0..self.hosted.len().min(UPKEEP_MAX) {
            let at = self.next_upkeep;
            let due = self.is_tick_due(at, now_ms);
            if due && ticks == TICKS_MAX {
                return;
            }
            self.next_upkeep = (at + 1) % self.hosted.len();
            if due && let Some(start) = self.share.start() {
                ticks += 1;
                let ticked = self.try_tick(at, context);
                self.share.end(start);
                if let Err(failure) = ticked {
                    self.fail(at, failure);
                    return;
                }
            }
            let hosted = &mut self.hosted[at];
            cells += hosted
                .shared
                .add_up_if_due(self.guest.memory(), &hosted.regions, now_ms);
            let (counters, regions) = (&mut hosted.counters, &hosted.regions);
            if counters.publish_if_due(self.guest.memory(), regions, now_ms) {
                let (outcomes, worker) = (&hosted.outcomes, self.worker as usize);
                let backends = hosted.backends.iter().map(|backend| backend.id);
                outcomes.copy_failures(context.gauges, worker, backends);
            }
            if cells >= CELLS_PER_TURN {
                return;
            }
        }
    }
}

impl Drop for WasmPolicy {
    /// Publishes the last counts and lines. Instances are dropped outside the hot path.
    fn drop(&mut self) {
        self.collect_log();
        self.publish_counters();
        for hosted in &mut self.hosted {
            hosted.shared.add_up(self.guest.memory(), &hosted.regions);
        }
    }
}

impl WasmPolicy {
    pub(crate) fn publish_counters(&mut self) {
        for hosted in &mut self.hosted {
            hosted
                .counters
                .publish(self.guest.memory(), &hosted.regions);
        }
    }

    /// Returns a service's index in `hosted`; `None` if the instance is disabled or does not serve
    /// it.
    #[inline]
    pub(crate) fn place(&self, service: ServiceId) -> Option<usize> {
        let at = self
            .by_service
            .get(service.index())
            .map_or(u32::MAX, |at| *at) as usize;
        (!self.disabled && at < self.hosted.len()).then_some(at)
    }

    fn try_pick(
        &mut self,
        at: usize,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), CallFailure> {
        let hosted = &mut self.hosted[at];
        let regions = hosted.regions;
        let now_ms = context.now.millis();
        let count = i32::try_from(flows.len()).unwrap_or(i32::MAX);
        let memory = self.guest.memory();
        write_host(memory, &hosted.regions, hosted, now_ms);
        if hosted.available.len() <= REFRESH_ALWAYS_MAX || hosted.refreshed_ms != now_ms {
            hosted.refreshed_ms = now_ms;
            write_live(memory, &regions, hosted, self.worker as usize, context);
        }
        write_flows(memory, &regions, flows).ok_or_else(|| bad("the batch is too large"))?;
        hosted.counters.dirty = true;
        let answered = self.guest.call(
            &self.functions.pick,
            (regions.header, count),
            CallBudget::BATCH,
        )?;
        if answered != count {
            return Err(bad(&format!(
                "waxwing_pick returned {answered} for {count} flows"
            )));
        }
        self.read_picks(at, picks)?;
        let hosted = &self.hosted[at];
        hosted.outcomes.count(flows, picks, context.backends);
        self.recent_flows.sample(hosted.service, flows, now_ms);
        Ok(())
    }

    /// Leaves a batch to the native fallback, because the module has used its share of the worker.
    #[cold]
    fn skip(&self, flows: usize, picks: &mut [Pick]) {
        picks.fill(Pick::Fallback);
        self.module
            .counters
            .over_share_flows
            .fetch_add(flows as u64, Ordering::Relaxed);
    }

    fn read_picks(&mut self, at: usize, picks: &mut [Pick]) -> Result<(), CallFailure> {
        let hosted = &self.hosted[at];
        let start = hosted.regions.picks;
        let memory = self.guest.memory();
        let bytes = memory
            .get(start..start + picks.len() * 4)
            .ok_or_else(|| bad("the batch is too large"))?;
        let mut unavailable = 0_u64;
        for (pick, bytes) in picks.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *pick = match u32::from_le_bytes(*bytes) {
                PICK_DROP => Pick::Drop,
                PICK_FALLBACK => Pick::Fallback,
                answer => {
                    let index = answer & !PICK_KEEP;
                    let (allowed, pick) = if answer == index {
                        (&hosted.available, Pick::Backend(index))
                    } else {
                        (&hosted.healthy, Pick::Keep(index))
                    };
                    match allowed.get(index as usize) {
                        Some(true) => pick,
                        Some(false) => {
                            unavailable += 1;
                            Pick::Fallback
                        }
                        None => return Err(out_of_range(index, allowed.len())),
                    }
                }
            };
        }
        if unavailable > 0 {
            self.module
                .counters
                .unavailable_picks
                .fetch_add(unavailable, Ordering::Relaxed);
        }
        Ok(())
    }

    #[inline]
    fn is_tick_due(&self, at: usize, now_ms: u64) -> bool {
        let every = u64::from(self.module.info.tick_ms);
        every > 0
            && self.functions.tick.is_some()
            && now_ms >= self.hosted[at].ticked_ms.saturating_add(every)
    }

    fn try_tick(&mut self, at: usize, context: TickContext<'_>) -> Result<(), CallFailure> {
        let TickContext {
            now,
            snapshot,
            gauges,
        } = context;
        let (Some(tick), hosted) = (&self.functions.tick, &mut self.hosted[at]) else {
            return Ok(());
        };
        // The instance was published with this snapshot, so the service is in it.
        let Some(service) = snapshot.service(hosted.service) else {
            return Ok(());
        };
        hosted.ticked_ms = now.millis();
        let context = PickContext {
            now,
            backends: &service.backends,
            gauges,
        };
        let (memory, regions) = (self.guest.memory(), hosted.regions);
        write_host(memory, &regions, hosted, now.millis());
        write_live(memory, &regions, hosted, self.worker as usize, context);
        hosted.counters.dirty = true;
        self.guest
            .call(tick, hosted.regions.header, CallBudget::BATCH)
    }

    fn try_closed(&mut self, at: usize, events: &[Closed]) -> Result<(), CallFailure> {
        let Some(closed) = &self.functions.closed else {
            return Ok(());
        };
        let regions = self.hosted[at].regions;
        if regions.closed_capacity == 0 {
            return Ok(());
        }
        for events in events.chunks(regions.closed_capacity) {
            let count = i32::try_from(events.len()).unwrap_or(i32::MAX);
            let records = self
                .guest
                .memory()
                .get_mut(regions.closed..)
                .ok_or_else(|| bad("the batch is too large"))?
                .as_chunks_mut::<{ ClosedRecord::SIZE }>()
                .0;
            for (record, event) in records.iter_mut().zip(events) {
                *record = closed_record(event).to_le_bytes();
            }
            self.guest
                .call(closed, (regions.header, count), CallBudget::BATCH)?;
        }
        Ok(())
    }

    /// Takes the lines that the module wrote.
    fn collect_log(&mut self) {
        if self.disabled || self.hosted.is_empty() {
            return;
        }
        match self.guest.log_text() {
            Ok([]) => {}
            Ok(text) => self.log.add(&self.module.name, self.worker, text),
            Err(failure) => {
                self.fail(0, failure);
            }
        }
    }

    /// Disables the instance and reports the failure.
    #[cold]
    pub(crate) fn fail(&mut self, at: usize, failure: CallFailure) -> PolicyFault {
        self.disabled = true;
        // What the module wrote before may explain a trap.
        if failure.fault == PolicyFault::Trap
            && let Ok(text @ [_, ..]) = self.guest.log_text()
        {
            self.log.add(&self.module.name, self.worker, text);
        }
        let fault = failure.fault;
        self.report(at, failure, false);
        fault
    }

    /// Counts and reports a failure.
    #[cold]
    pub(crate) fn report(&self, at: usize, failure: CallFailure, replaced: bool) {
        self.module.counters.faults.fetch_add(1, Ordering::Relaxed);
        (self.faults)(FaultReport {
            module: Arc::clone(&self.module),
            worker: self.worker,
            service: Arc::clone(&self.hosted[at].name),
            fault: failure.fault,
            text: failure.text,
            replaced,
        });
    }
}

#[cold]
fn bad(text: &str) -> CallFailure {
    CallFailure {
        fault: PolicyFault::BadAnswer,
        text: text.into(),
    }
}

#[cold]
fn out_of_range(index: u32, count: usize) -> CallFailure {
    bad(&format!("waxwing_pick chose backend {index} of {count}"))
}
