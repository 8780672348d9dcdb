//! Opens sessions by complete handshakes.

use crate::driver::WorkerDriver;
use crate::frames::Stage;
use crate::testbed::Testbed;

/// Opens the sessions of clients 0 to `clients` - 1: by a TCP handshake, or by a UDP datagram and its answer.
/// Returns each client's backend.
pub fn open_sessions(testbed: &Testbed, clients: u32) -> Vec<u16> {
    let mut driver = WorkerDriver::keeping_sent(testbed, 0);
    let mut frames = testbed.frames();
    let mut backends = Vec::with_capacity(clients as usize);
    let batch = u32::try_from(waxwing_dataplane::BATCH).unwrap_or(1);
    for first in (0..clients).step_by(batch as usize) {
        let batch = first..clients.min(first + batch);
        for client in batch.clone() {
            driver.inject_request(frames.request(client, Stage::Handshake));
        }
        backends.extend(driver.backends_of_turn());
        for client in batch.clone() {
            let backend = backends[client as usize].into();
            driver.inject_reply(frames.answer(backend, client, Stage::Handshake));
        }
        driver.turn();
        for client in batch {
            driver.inject_request(frames.request(client, Stage::Established));
        }
        driver.turn();
        driver.discard_sent();
    }
    let clients = clients as usize;
    assert_eq!(backends.len(), clients, "every client has a backend");
    assert_eq!(testbed.sessions(), clients, "every client has a session");
    backends
}
