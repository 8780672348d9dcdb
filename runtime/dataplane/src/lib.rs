//! The core of Waxwing: services, sessions, NAT and the worker loop.
//!
//! It knows no I/O, no clock and no Wasm. Frames come and go through [`FrameIo`], a [`Policy`] chooses
//! backends, time is an argument. So the whole core runs in memory under a simulated clock, exactly as it
//! runs on a wire.
//!
//! Read [`worker`] first, then `path/forward.rs`: a packet's path, top to bottom. The rooms:
//!
//! - [`model`]: what the control plane publishes: services, backends, ports;
//! - [`session`]: the session table; `fragments`: the table of fragmented datagrams;
//!   `direct`: the connections that bypass the services; `source_rates`: new sessions by network;
//! - [`path`]: a packet's path; [`egress`]: where a packet leaves;
//! - [`counters`]: what happened; [`dry_run`]: what would happen to a packet.

mod atomics;
pub mod capture;
pub mod counters;
mod direct;
pub mod dry_run;
pub mod egress;
mod fallback;
mod fate;
mod fragments;
pub mod io;
pub mod locks;
mod mix;
pub mod model;
pub mod path;
pub mod policy;
mod prefetch;
pub mod session;
mod source_rates;
pub mod steering;
pub mod time;
pub mod worker;

pub use counters::{DropReason, Gauges};
pub use direct::DirectFlows;
pub use egress::{HopTable, NextHop};
pub use fragments::{FragmentLimits, FragmentTable};
pub use io::{FrameBuf, FrameIo};
pub use model::{
    Backend, BackendId, Epoch, PortId, Ports, SOURCES_MAX, Service, ServiceId, Snapshot, SourceId,
    Sources,
};
pub use policy::{NewFlow, Pick, Policy, PolicyFault};
pub use source_rates::{SourceLimit, SourceRates};
pub use time::{Now, Tick};

/// The most frames that one turn of the worker loop processes.
pub const BATCH: usize = 64;
