//! What identifies services and backends across reloads and snapshots.

use waxwing_dataplane::{Backend, Ports, Service, Snapshot};
use waxwing_packet::{Address, Protocol};

use crate::config;

/// Identifies a service: VIP, ports, protocol. Its name may change.
pub(crate) type ServiceKey = (Address, Ports, Protocol);

/// Identifies a backend: its service, its address, and its port as the snapshot has it.
pub(crate) type BackendKey = (ServiceKey, Address, u16);

/// Returns the key of a config's service.
pub(crate) fn service_key(service: &config::Service) -> ServiceKey {
    (
        service.vip.value,
        service.ports.value,
        service.protocol.value,
    )
}

/// Returns the key of a config's backend.
pub(crate) fn backend_key(service: &config::Service, backend: &config::Backend) -> BackendKey {
    (
        service_key(service),
        backend.address.value,
        backend.snapshot_port(),
    )
}

/// Returns the key of a snapshot's backend.
pub(crate) fn snapshot_key(backend: &Backend) -> BackendKey {
    let service = (backend.vip, backend.vip_ports, backend.protocol);
    (service, backend.address, backend.port)
}

/// Finds a config's service in the snapshot made from that config.
pub(crate) fn service_in<'a>(
    snapshot: &'a Snapshot,
    service: &config::Service,
) -> Option<&'a Service> {
    let (vip, ports, protocol) = service_key(service);
    snapshot.service_of(vip, ports, protocol)
}
