//! The core of Waxwing: services, sessions, NAT and the worker loop.
//!
//! It knows no I/O, no clock and no Wasm. Frames come and go through [`FrameIo`], the choice of a
//! backend comes from a [`Policy`], time is an argument. So the whole core runs in memory, under a
//! simulated clock, exactly as it runs on a wire.
//!
//! Read [`forward`] first: it is a packet's way, top to bottom.

mod announce;
mod answers;
mod citizen;
pub mod counters;
mod ended;
pub mod epoch;
mod errors;
mod exit;
mod fallback;
mod flow;
pub mod forward;
mod fragments;
mod gather;
mod histogram;
mod hit;
pub mod io;
pub mod locks;
mod misses;
mod next_hops;
mod opening;
mod parts;
mod pieces;
pub mod policy;
pub mod ports;
mod prefetch;
mod refusals;
pub mod routes;
pub mod session;
pub mod snapshot;
pub mod source_nat;
mod standing;
pub mod steering;
pub mod time;
mod ways;
pub mod worker;

pub use counters::{DropReason, Gauges};
pub use epoch::Epoch;
pub use fragments::{FragmentLimits, FragmentTable};
pub use io::{FrameBuf, FrameIo};
pub use policy::{NewFlow, Pick, Policy, PolicyFault};
pub use ports::Ports;
pub use snapshot::{Backend, BackendId, NextHop, PortId, Service, ServiceId, Snapshot};
pub use source_nat::{SourceId, Sources};
pub use time::{Now, Tick};

/// The most frames one pass of the worker loop handles.
pub const BATCH: usize = 64;
