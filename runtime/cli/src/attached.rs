//! The attached ports, shared between steering and status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waxwing_control::admin::report::AttachedPorts;
use waxwing_control::admin::status::{PortStatus, QueueStatus};
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use waxwing_xdp::{Attached, PortReport, Statistics};

/// The attached ports, shared between the control plane's steering and its status.
#[derive(Clone)]
pub(crate) struct SharedAttached(Arc<Mutex<Attached>>);

impl SharedAttached {
    pub(crate) fn new(attached: Attached) -> Self {
        Self(Arc::new(Mutex::new(attached)))
    }

    fn lock(&self) -> MutexGuard<'_, Attached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn mtu_max(&self) -> u32 {
        self.lock().mtu_max()
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
