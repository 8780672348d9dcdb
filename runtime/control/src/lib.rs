//! The control side of the balancer: everything that is not a packet's way.
//!
//! It reads the config and the kernel's view of the network, decides what the workers forward by,
//! and tells people what goes on. It never touches a frame: what it decides reaches the workers as
//! one [`Epoch`](waxwing_dataplane::Epoch) at a time.
//!
//! Read [`controller`] first: it is the one owner of change.

pub mod admin;
mod bridge;
pub mod catalog;
pub mod check;
pub mod client;
pub mod config;
pub mod controller;
pub mod facts;
mod failover;
pub mod health;
pub mod kernel;
pub mod modules;
pub mod neighbours;
pub mod next_hop;
mod rates;
pub mod report;
pub mod returns;
pub mod run;
pub mod signals;
pub mod status;
pub mod vlans;
