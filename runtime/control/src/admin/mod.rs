//! The admin socket: [`server`], [`client`], and the [`status`] that travels between them; and the metrics.

pub(crate) mod availability;
pub mod client;
pub(crate) mod connections;
pub mod events;
pub(crate) mod filter;
pub(crate) mod flood;
mod health_facts;
pub mod log;
pub(crate) mod metrics;
pub mod metrics_listener;
pub mod ports;
pub(crate) mod rates;
pub mod report;
pub mod resources;
pub mod server;
mod sessions;
pub mod signals;
pub mod status;
pub(crate) mod stream;
