//! A packet's path, in the order in which it is walked. Start with `forward.rs`.
//!
//! Invariant: no file here is imported by one that it imports.

mod adopt;
mod announce;
mod batch;
mod classify;
mod context;
mod direct;
mod eviction;
mod fast_path;
mod flow;
mod forward;
mod fragment_out;
mod general_path;
mod handshake;
mod icmp_errors;
mod ingress;
mod linearize;
mod nat;
mod new_flows;
mod no_session;
mod rate_limit;
mod reject;
mod return_hop;
mod service_share;
mod session_check;
mod session_close;
mod session_open;
mod session_restore;
mod session_sample;
mod session_update;
mod shared;
mod slow_path;
mod verdict;
mod vip_responder;

pub(crate) use announce::Announcements;
pub(crate) use batch::{Arrived, Batch, PacketSet, Slot};
pub(crate) use context::WorkerContext;
pub(crate) use flow::{find_session, tuple_of};
pub use forward::Forwarder;
pub(crate) use session_check::is_over;
pub(crate) use session_close::RemovalCause;
pub use session_close::kill;
pub use session_restore::{RecordIds, RecordRefusal, Restorer};
pub use shared::SharedState;
pub(crate) use verdict::Verdict;
pub(crate) use vip_responder::is_ping;
