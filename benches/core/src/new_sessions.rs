//! New clients, one after the other, at one worker.

use std::time::Duration;

use waxwing_dataplane::Policy;

use crate::frames::Frames;
use crate::lane::Lane;
use crate::world::World;

/// A worker that meets clients who have no session yet.
pub struct Opening<'a> {
    lane: Lane<'a>,
    frames: Frames,
    /// The next one.
    client: u32,
    /// How many there were.
    clients: u32,
}

impl<'a> Opening<'a> {
    /// From client 0 on; these policies choose, or without one the native fallback.
    #[must_use]
    pub fn new(world: &'a World, policies: Vec<Box<dyn Policy>>) -> Self {
        Self::at(world, 0, policies, 0)
    }

    /// At the worker of this number, from client `first` on.
    pub(crate) fn at(
        world: &'a World,
        worker: usize,
        policies: Vec<Box<dyn Policy>>,
        first: u32,
    ) -> Self {
        Self {
            lane: Lane::new(world, worker, policies),
            frames: world.frames(),
            client: first,
            clients: 0,
        }
    }

    /// The time in which the next so many clients get their sessions.
    pub fn turn(&mut self, batch: u32) -> Duration {
        for client in self.client..self.client + batch {
            self.lane.put_request(self.frames.opening(client));
        }
        self.client += batch;
        self.clients += batch;
        self.lane.turn()
    }

    /// Ends it.
    ///
    /// # Panics
    /// A client got no session, or lost it: what was measured is something else.
    pub fn end(self) {
        let clients = u64::from(self.clients);
        assert_eq!(self.lane.opened(), clients, "each client gets a session");
        assert_eq!(self.lane.ended(), 0, "and keeps it");
    }
}
