//! The admin socket: [`server`], [`client`], and the [`status`] that travels between them.

pub mod client;
pub mod log;
pub(crate) mod rates;
pub mod report;
pub mod server;
pub mod signals;
pub mod status;
