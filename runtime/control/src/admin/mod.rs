//! The admin socket: [`server`], [`client`], and the [`status`] that travels between them; and the metrics.

pub(crate) mod availability;
pub(crate) mod caller;
pub(crate) mod changes;
pub mod client;
pub(crate) mod connections;
pub mod events;
pub mod explain;
pub(crate) mod filter;
pub(crate) mod flood;
mod health_facts;
pub mod listener;
pub mod log;
pub(crate) mod metrics;
pub mod metrics_listener;
pub mod ports;
pub(crate) mod rates;
pub mod report;
pub mod requests;
pub mod resources;
pub mod server;
mod sessions;
pub mod signals;
pub mod socket;
pub mod status;
pub(crate) mod stream;
pub(crate) mod tcp_port;
