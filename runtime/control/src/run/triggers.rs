//! The control loop: waits for whatever causes a change, and makes one change after the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use waxwing_plugin::{FaultReport, HostEvent};

use crate::admin::server::Request;
use crate::health::CheckFault;
use crate::network::host::HostNetwork;
use crate::network::resolver::HopStates;
use crate::publish::controller::Controller;
use crate::restart::upgrade::{Successor, hand_over};

/// The period of late acknowledgements, steering rules and retries.
const TICK: Duration = Duration::from_secs(1);

/// The period of freeing removed backends.
const RETIRED_EVERY: Duration = Duration::from_secs(10);

/// How long check results are collected for one change, which costs the same for one or many.
const HEALTH_COLLECT: Duration = Duration::from_millis(10);

/// The minimum time between two changes of health.
const HEALTH_PAUSE: Duration = Duration::from_millis(50);

/// Everything that causes a change.
pub(super) struct Triggers {
    /// From the policy host.
    pub(super) events: mpsc::UnboundedReceiver<HostEvent>,
    pub(super) host: watch::Receiver<Arc<HostNetwork>>,
    pub(super) next_hops: watch::Receiver<HopStates>,
    /// From the admin socket.
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) hangup: Signal,
    /// Failed check modules.
    pub(super) faults: mpsc::Receiver<CheckFault>,
    pub(super) health: watch::Receiver<()>,
}

impl Triggers {
    /// Makes changes, one after the other, until another process has taken over, which it returns.
    pub(super) async fn drive(self, controller: &mut Controller) -> Successor {
        let Self {
            mut events,
            mut host,
            mut next_hops,
            mut requests,
            mut hangup,
            mut faults,
            mut health,
        } = self;
        let mut tick = interval(TICK);
        let mut retired = interval(RETIRED_EVERY);
        // One task at a time: it compiles on all processors.
        let mut to_compile = controller.end_start();
        let mut compiling: JoinSet<BTreeSet<String>> = JoinSet::new();
        let mut health_due = None;
        let mut not_before = Instant::now();
        let mut checks_run = true;
        loop {
            if compiling.is_empty() && !to_compile.is_empty() {
                compiling.spawn_blocking(controller.compile(std::mem::take(&mut to_compile)));
            }
            tokio::select! {
                // In this order: a canary that has failed must not be promoted because its time is up
                // as well. What can trigger continuously comes last.
                biased;
                Some(event) = events.recv() => {
                    to_compile.append(&mut take_events(controller, event, &mut events).await);
                }
                // The result is in the log and in the status.
                _ = hangup.recv() => drop(controller.reload().await),
                Some(request) = requests.recv() => {
                    if let Some(successor) = serve(controller, request).await {
                        return successor;
                    }
                }
                () = sleep_until(controller.canary_ends()) => controller.canary_ended().await,
                Ok(()) = host.changed() => controller.network_changed().await,
                Ok(()) = next_hops.changed() => controller.record_reach(),
                _ = tick.tick() => controller.tick().await,
                _ = retired.tick() => controller.drop_retired().await,
                Some(Ok(names)) = compiling.join_next() => {
                    controller.modules_changed(&names).await;
                    controller.update_view();
                }
                () = sleep_until(health_due) => {
                    controller.health_changed().await;
                    health_due = None;
                    not_before = Instant::now() + HEALTH_PAUSE;
                }
                Ok(()) = health.changed(), if health_due.is_none() => {
                    health_due = Some(not_before.max(Instant::now() + HEALTH_COLLECT));
                }
                fault = faults.recv(), if checks_run => match fault {
                    Some(fault) => {
                        let mut all = vec![fault];
                        all.extend(std::iter::from_fn(|| faults.try_recv().ok()));
                        controller.checks_faulted(all).await;
                    }
                    None => {
                        tracing::error!(
                            "the thread of the health checks has ended, which is a bug in waxwing; \
                             restart it"
                        );
                        checks_run = false;
                    }
                },
            }
        }
    }
}

/// Serves an admin request. The requester may be gone by then. Returns the process that has taken over, if
/// one has.
async fn serve(controller: &mut Controller, request: Request) -> Option<Successor> {
    match request {
        Request::Reload(answer) => {
            let _ = answer.send(controller.reload().await);
        }
        Request::Validate(text, answer) => {
            let _ = answer.send(controller.validate(&text).await);
        }
        Request::Apply(request, answer) => {
            let _ = answer.send(controller.apply(request).await);
        }
        Request::SetBackend(request, answer) => {
            let _ = answer.send(controller.set_backend(&request).await);
        }
        Request::SetWeight(request, answer) => {
            let _ = answer.send(controller.set_weight(&request).await);
        }
        Request::AddBackend(request, answer) => {
            let _ = answer.send(controller.add_backend(request).await);
        }
        Request::RemoveBackend(request, answer) => {
            let _ = answer.send(controller.remove_backend(&request).await);
        }
        Request::RollBack(request, answer) => {
            let _ = answer.send(controller.roll_back(&request).await);
        }
        Request::Lift(request, answer) => {
            let _ = answer.send(controller.lift_quarantine(&request).await);
        }
        Request::HandOver(stream) => {
            return tokio::task::block_in_place(|| hand_over(controller, stream));
        }
    }
    None
}

/// Handles an event and all that are queued behind it, so that a burst costs one change. Returns the
/// names of modules whose files changed.
async fn take_events(
    controller: &mut Controller,
    first: HostEvent,
    events: &mut mpsc::UnboundedReceiver<HostEvent>,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut reports: Vec<FaultReport> = Vec::new();
    let mut next = Some(first);
    while let Some(event) = next {
        match event {
            HostEvent::Changed { name } => {
                names.insert(name);
            }
            HostEvent::Fault(report) => reports.push(report),
        }
        next = events.try_recv().ok();
    }
    if !reports.is_empty() {
        controller.instances_faulted(reports).await;
        controller.update_view();
    }
    names
}

/// Sleeps until `when`; forever without one.
async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns a timer that does not catch up on missed ticks.
fn interval(every: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
