//! The host's network as the kernel reports it, and the next hops that workers send to.
//!
//! [`resolver`] is the task that keeps everything up to date; the other modules are its parts.

pub(crate) mod bridge;
pub(crate) mod gateway_failover;
pub mod hop_state;
pub mod host;
pub mod kernel;
pub(crate) mod next_hop;
pub mod port;
pub mod resolver;
pub mod return_routes;
pub(crate) mod vlans;
