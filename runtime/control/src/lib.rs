//! The control plane of the balancer.
//!
//! It reads the config and the kernel's view of the network, decides what the workers forward by,
//! and reports status to operators. It never touches a frame: workers receive its decisions as
//! [`Epoch`](waxwing_dataplane::Epoch)s.
//!
//! - [`config`]: the config file, parsed and checked.
//! - [`health`]: health checks, and which backends take new sessions.
//! - [`network`]: the kernel's links, routes and neighbours, and the next hops made from them.
//! - [`publish`]: changes, made into epochs. Start with [`publish::controller`], the only place that
//!   changes the running state.
//! - [`admin`]: the admin socket, its client, and the status that it serves.
//! - [`restart`]: what goes on over a stop and a start.
//! - [`run`]: start-up and the control loop.

pub mod admin;
pub mod config;
pub mod health;
mod log_limit;
pub mod network;
mod parallel;
pub mod publish;
pub mod restart;
pub mod run;
mod time;
