//! The core in memory under load, for whatever measures it.
//!
//! A [`World`] is what workers share: services, backends, the session table. A [`Lane`] is one worker
//! of it with its ports in memory; frames are put in, and a turn is timed. [`Frames`] makes the frames,
//! of clients that [`Order`] chooses. [`Hits`], [`Opening`], [`Team`] and [`Openers`] are loads made of these.
//!
//! Invariant: what is timed is [`waxwing_dataplane::worker::Worker::turn`] and nothing else. Frames are
//! made and put in before it. A client's session is one whose handshake went through the worker, and
//! time goes on by a microsecond for each packet, so that upkeep is part of what is measured.

mod established;
mod frames;
mod lane;
mod opening;
mod order;
mod plan;
mod team;
mod world;

pub use established::{Established, Hits, of_packets};
pub use frames::Frames;
pub use lane::Lane;
pub use opening::Opening;
pub use order::{Order, Random};
pub use plan::Plan;
pub use team::{Openers, Team};
pub use world::{Size, World};
