//! New clients, one after the other, at one worker.

use std::time::Duration;

use waxwing_dataplane::Policy;

use crate::frames::Frames;
use crate::lane::Lane;
use crate::world::World;

/// A worker that meets clients who have no session yet.
pub struct Opening<'a> {
    world: &'a World,
    lane: Lane<'a>,
    frames: Frames,
    /// The next one.
    client: u32,
}

impl<'a> Opening<'a> {
    /// From client 0 on; these policies choose, or without one the native fallback.
    #[must_use]
    pub fn new(world: &'a World, policies: Vec<Box<dyn Policy>>) -> Self {
        Self {
            world,
            lane: Lane::new(world, 0, policies),
            frames: world.frames(),
            client: 0,
        }
    }

    /// The time in which the next so many clients get their sessions.
    pub fn turn(&mut self, batch: u32) -> Duration {
        for client in self.client..self.client + batch {
            self.lane.put_request(self.frames.opening(client));
        }
        self.client += batch;
        self.lane.turn()
    }

    /// Ends it.
    ///
    /// # Panics
    /// A client got no session: what was measured is something else.
    pub fn end(self) {
        let sessions = self.world.sessions();
        assert_eq!(sessions, self.client as usize, "each client gets a session");
    }
}
