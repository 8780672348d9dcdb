//! Drives the dataplane core in memory under load, for benchmarks.
//!
//! A [`Testbed`] is the state that workers share: services, backends, the session table. A [`WorkerDriver`]
//! drives one worker with ports in memory: it injects frames and times turns. [`Frames`] makes the frames of
//! clients, which [`Order`] draws. [`EstablishedTraffic`], [`NewSessions`], [`EstablishedScenario`],
//! [`OpenScenario`], [`CrowdScenario`] and [`Reloads`] are loads built on these.
//!
//! Invariant: only [`waxwing_dataplane::worker::Worker::turn`] is timed; frames are made and injected before
//! it. A session was opened by a complete handshake through the worker. Virtual time advances by one
//! microsecond per packet, so that the worker's upkeep is part of the measurement.

mod addresses;
mod driver;
mod established;
mod frames;
mod new_sessions;
mod open;
mod order;
mod reloads;
mod scenarios;
mod testbed;

pub use addresses::AddressPlan;
pub use driver::WorkerDriver;
pub use established::{EstablishedTestbed, EstablishedTraffic, time_packets};
pub use frames::Frames;
pub use new_sessions::NewSessions;
pub use open::open_sessions;
pub use order::{Order, Random};
pub use reloads::{Batches, Reloads};
pub use scenarios::{CrowdScenario, EstablishedScenario, OpenScenario, line_round_trip};
pub use testbed::{Size, Testbed};
