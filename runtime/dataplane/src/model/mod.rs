//! What the control plane tells the workers: services, backends, ports, and the policies for them.
//!
//! Each value is immutable once it is published. A [`Snapshot`] and the policies bound to it travel to a
//! worker as one [`Epoch`].

mod backend;
mod epoch;
mod fast;
mod ids;
mod port;
mod ports;
mod service;
mod snapshot;
mod source_nat;
mod timeouts;

pub use backend::{Backend, SessionAction};
pub use epoch::{Epoch, Release};
pub(crate) use fast::{BackendPath, Egress, Side};
pub use ids::{BackendId, PortId, SOURCES_MAX, ServiceId, SourceId};
pub use port::{Bridge, Faces, Port};
pub use ports::Ports;
pub use service::{MidStream, NoBackend, Service, SourceUse};
pub use snapshot::Snapshot;
pub(crate) use source_nat::Pool;
pub use source_nat::{SourcePool, Sources};
pub use timeouts::{TimeoutTicks, Timeouts};
