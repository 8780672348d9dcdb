//! Traffic that opens sessions at one worker.

use std::time::Duration;

use waxwing_dataplane::Policy;

use crate::driver::WorkerDriver;
use crate::frames::Frames;
use crate::testbed::Testbed;

/// First packets of new clients, each of which opens a session.
pub struct NewSessions<'a> {
    driver: WorkerDriver<'a>,
    frames: Frames,
    /// The next client.
    client: u32,
    /// The number of clients so far.
    clients: u32,
}

impl<'a> NewSessions<'a> {
    /// Clients from 0 on, at worker 0; these policies pick, or the native fallback if there is none.
    pub fn new(testbed: &'a Testbed, policies: Vec<Box<dyn Policy>>) -> Self {
        Self::at(testbed, 0, policies, 0)
    }

    /// Clients from `first` on, at worker `worker`.
    pub(crate) fn at(
        testbed: &'a Testbed,
        worker: usize,
        policies: Vec<Box<dyn Policy>>,
        first: u32,
    ) -> Self {
        Self {
            driver: WorkerDriver::new(testbed, worker, policies),
            frames: testbed.frames(),
            client: first,
            clients: 0,
        }
    }

    /// Opens the sessions of the next `batch` clients. Returns the time it took.
    pub fn turn(&mut self, batch: u32) -> Duration {
        for client in self.client..self.client + batch {
            self.driver.inject_request(self.frames.opening(client));
        }
        self.client += batch;
        self.clients += batch;
        self.driver.turn()
    }

    /// Ends the traffic.
    pub fn end(self) {
        let clients = u64::from(self.clients);
        assert_eq!(self.driver.opened(), clients, "each client has a session");
        assert_eq!(self.driver.ended(), 0, "no session ended");
    }
}
