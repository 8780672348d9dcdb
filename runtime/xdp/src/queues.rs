//! Which worker serves which queue.
//!
//! Invariant: each worker in use sends on a queue of its own of every port. Queue `q` of every port is served
//! by worker `q` modulo the number of workers in use, so every queue is served, however many a port has.

use std::mem;
use std::sync::Arc;

use waxwing_dataplane::PortId;

use crate::io::WorkerSockets;
use crate::socket::QueueSocket;
use crate::tap::TapQueue;
use crate::umem::Umem;
use crate::{Buffers, Interface, Options};

/// Returns the number of workers for these interfaces: as many as the one with the fewest queues has.
pub(crate) fn workers(interfaces: &[Interface]) -> usize {
    let queues = |interface: &Interface| interface.queues.min(interface.transmit_queues);
    let fewest = interfaces.iter().map(queues).min();
    fewest.unwrap_or(1) as usize
}

/// Shares the queues' values, by port and queue, out to `workers`, of whom at most `wanted` are in use. The
/// first ones of each worker in use are its own of each port, by port id.
pub(crate) fn share_out<T>(
    by_port: Vec<Vec<T>>,
    wanted: usize,
    workers: usize,
) -> Vec<Vec<(PortId, T)>> {
    let in_use = wanted.min(workers).max(1);
    let mut shares: Vec<Vec<(PortId, T)>> = (0..workers).map(|_| Vec::new()).collect();
    let ports = (0..).map(PortId).zip(by_port);
    let mut queues: Vec<(usize, PortId, T)> = ports
        .flat_map(|(port, queues)| {
            let numbered = queues.into_iter().enumerate();
            numbered.map(move |(queue, value)| (queue, port, value))
        })
        .collect();
    queues.sort_by_key(|(queue, port, _)| (*queue, *port));
    for (queue, port, value) in queues {
        shares[queue % in_use].push((port, value));
    }
    shares
}

/// Gives each worker its sockets with their chunks, and its queue of the TAP device.
pub(crate) fn by_worker(
    umem: &Arc<Umem>,
    shares: Vec<Vec<(PortId, QueueSocket)>>,
    taps: Vec<TapQueue>,
    options: &Options,
    buffers: Buffers,
) -> Vec<WorkerSockets> {
    let mut taps = taps.into_iter();
    let mut of_worker = |(worker, mut sockets): (u32, Vec<(PortId, QueueSocket)>)| {
        let free = |(_, socket): &mut (PortId, QueueSocket)| mem::take(&mut socket.free);
        WorkerSockets {
            worker,
            umem: Arc::clone(umem),
            free: sockets.iter_mut().flat_map(free).collect(),
            total: sockets.len() * options.frames_per_queue as usize,
            sockets: sockets
                .into_iter()
                .map(|(port, socket)| (port, socket.rings))
                .collect(),
            tap: taps.next(),
            poll: options.poll,
            buffers,
        }
    };
    (0..).zip(shares).map(&mut of_worker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the shares of two ports with `front` and `back` queues, as `port.queue`.
    fn shares(front: u32, back: u32, wanted: usize, workers: usize) -> Vec<Vec<String>> {
        let queues = |port: &str, count: u32| (0..count).map(|q| format!("{port}{q}")).collect();
        let shares = share_out(vec![queues("f", front), queues("b", back)], wanted, workers);
        let names = |share: Vec<(PortId, String)>| share.into_iter().map(|(_, name)| name);
        shares
            .into_iter()
            .map(|share| names(share).collect())
            .collect()
    }

    #[test]
    fn every_queue_is_served_and_every_worker_in_use_sends_on_every_port() {
        assert_eq!(shares(2, 2, 2, 2), [["f0", "b0"], ["f1", "b1"]]);
        let more = [["f0", "b0", "f2", "b2"], ["f1", "b1", "f3", "b3"]];
        assert_eq!(shares(4, 4, 4, 2), more);
        let uneven = [vec!["f0", "b0", "f2"], vec!["f1", "b1"]];
        assert_eq!(shares(3, 2, 2, 2), uneven);
        let fewer = [vec!["f0", "b0", "b1"], vec![]];
        assert_eq!(shares(1, 2, 1, 2), fewer);
    }
}
