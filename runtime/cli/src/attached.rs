//! The attached ports, shared between steering and status.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use waxwing_control::admin::ports::{AttachedPorts, Followed, GivenPorts};
use waxwing_control::admin::status::{PortStatus, QueueStatus};
use waxwing_dataplane::capture::Capture;
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use waxwing_xdp::{
    Attached, Changes, Handover, PortLinks, PortReport, Statistics, WorkerSockets, XdpError,
};

use crate::priority::{lower_priority, raise_priority};
use crate::service_manager::ServiceManager;
use crate::upgrade;
use crate::workers::Gate;

/// The attached ports, shared between the control plane's steering and its status.
#[derive(Clone)]
pub(crate) struct SharedAttached {
    attached: Arc<Mutex<Attached>>,
    /// Set once the workers run.
    workers: Arc<OnceLock<Arc<Gate>>>,
    manager: Arc<ServiceManager>,
}

impl SharedAttached {
    pub(crate) fn new(attached: Attached, manager: &Arc<ServiceManager>) -> Self {
        Self {
            attached: Arc::new(Mutex::new(attached)),
            workers: Arc::default(),
            manager: Arc::clone(manager),
        }
    }

    /// Names the workers whose sockets are replaced when ports are attached again.
    pub(crate) fn set_workers(&self, workers: Arc<Gate>) {
        let _ = self.workers.set(workers);
    }

    /// See [`Attached::hold`]. A failure is logged.
    pub(crate) fn hold(&self, span: Duration) {
        if let Err(error) = self.lock().hold(span) {
            tracing::warn!(
                "{error}; until the next start, replies of live sessions pass unchanged"
            );
        }
    }

    /// See [`Attached::take`].
    pub(crate) fn take(&self, given: Vec<Handover>) -> Result<Vec<WorkerSockets>, XdpError> {
        self.lock().take(given)
    }

    /// See [`Attached::take_links`].
    pub(crate) fn take_links(&self, links: Vec<PortLinks>) -> Result<(), XdpError> {
        let mut attached = self.lock();
        attached.take_links(links)?;
        attached.reports().iter().for_each(log_port);
        Ok(())
    }

    /// See [`Attached::release`].
    pub(crate) fn release(&self) {
        self.lock().release();
    }

    fn lock(&self) -> MutexGuard<'_, Attached> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Steering for SharedAttached {
    fn apply(&mut self, rules: &Rules) -> Result<(), SteeringError> {
        self.lock().apply(rules)
    }
}

impl AttachedPorts for SharedAttached {
    fn ports(&self) -> Vec<PortStatus> {
        let attached = self.lock();
        let statistics = attached.statistics();
        let port_status = |(id, report): (u8, &PortReport)| PortStatus {
            interface: report.interface.name.clone(),
            mode: report.attach_mode.label().to_owned(),
            queues: report
                .queues
                .iter()
                .map(|queue| QueueStatus {
                    queue: queue.queue,
                    zero_copy: queue.zero_copy,
                    reason: queue.why.clone(),
                    statistics: statistics
                        .iter()
                        .find(|s| s.port.0 == id && s.queue == queue.queue)
                        .and_then(|s| s.counts)
                        .map_or_else(BTreeMap::new, by_name),
                })
                .collect(),
            ..PortStatus::default()
        };
        (0..).zip(attached.reports()).map(port_status).collect()
    }

    fn frames(&self) -> BTreeMap<String, u64> {
        let classes = self.lock().classes().into_iter();
        classes
            .map(|(class, count)| (class.label().to_owned(), count))
            .collect()
    }

    fn mtu_max(&self) -> u32 {
        self.lock().mtu_max()
    }

    fn layout(&self) -> Vec<(String, String)> {
        self.lock().layout()
    }

    fn capture(&self, capture: Option<&Capture>) {
        if let Some(workers) = self.workers.get() {
            workers.capture(capture);
        }
    }

    fn give(&self) -> io::Result<GivenPorts> {
        raise_priority();
        let attached = self.lock();
        let workers = self.workers.get().ok_or(io::ErrorKind::NotConnected)?;
        let links = attached.links()?;
        let stopped_us = upgrade::monotonic_us();
        let given = workers.hand_over();
        upgrade::given(given, links, (self.manager.contact(), stopped_us))
    }

    fn take_back(&self) -> Result<(), String> {
        lower_priority();
        let mut attached = self.lock();
        let Some(workers) = self.workers.get() else {
            return Ok(());
        };
        let sockets = attached.bind_again();
        let error = sockets.as_ref().err().map(ToString::to_string);
        workers.open(sockets.ok());
        error.map_or(Ok(()), Err)
    }

    fn follow(&self) -> Followed {
        let mut attached = self.lock();
        let Changes {
            must_bind,
            problems,
        } = attached.follow();
        let mut followed = Followed {
            attached_again: false,
            problems,
        };
        let Some(workers) = self.workers.get().filter(|_| must_bind) else {
            return followed;
        };
        workers.close();
        match attached.bind_again() {
            Ok(sockets) => {
                attached.reports().iter().for_each(log_port);
                workers.open(Some(sockets));
                followed.attached_again = true;
            }
            Err(error) => {
                workers.open(None);
                let text = format!("no port is served: {error}; tried again every second");
                followed.problems.push(text);
            }
        }
        followed
    }
}

/// Returns a socket's statistics by their kernel names (`struct xdp_statistics`).
fn by_name(statistics: Statistics) -> BTreeMap<String, u64> {
    let Statistics {
        rx_dropped,
        rx_invalid,
        tx_invalid,
        rx_ring_full,
        fill_ring_empty,
        tx_ring_empty,
    } = statistics;
    [
        ("rx_dropped", rx_dropped),
        ("rx_invalid_descs", rx_invalid),
        ("tx_invalid_descs", tx_invalid),
        ("rx_ring_full", rx_ring_full),
        ("rx_fill_ring_empty_descs", fill_ring_empty),
        ("tx_ring_empty_descs", tx_ring_empty),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .collect()
}

/// Logs how a port was attached.
pub(crate) fn log_port(report: &PortReport) {
    let mode = report.attach_mode.label();
    let why = report
        .attach_why
        .as_ref()
        .map_or(String::new(), |why| format!(" ({why})"));
    tracing::info!("{}: {mode} XDP{why}", report.interface.name);
    for queue in &report.queues {
        let mode = if queue.zero_copy {
            "zero-copy"
        } else {
            "copy mode"
        };
        let why = queue
            .why
            .as_ref()
            .map_or(String::new(), |why| format!(" ({why})"));
        tracing::info!(
            "{} queue {}: {mode}{why}",
            report.interface.name,
            queue.queue
        );
    }
}
