//! Round trips of datagrams.
//!
//! Invariant: the load waits for its answers and so floods no contender: client, contender and servers
//! share two emulated CPUs.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use waxwing_tests::echo::Pinger;

/// The load runs this long before the measurement starts: it fills caches and neighbour tables.
const WARM_UP: Duration = Duration::from_millis(500);
/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Flows, each with one datagram in flight.
const FLOWS: usize = 32;

/// Returns round trips a second: sends one datagram in each flow, waits for all answers, and repeats.
#[expect(
    clippy::cast_precision_loss,
    reason = "the count of some seconds is far below 2^52"
)]
pub(super) fn measure(server: SocketAddr, time: Duration) -> io::Result<f64> {
    let flows = (0..FLOWS).map(|_| Pinger::new(server, TIMEOUT));
    let flows = flows.collect::<io::Result<Vec<_>>>()?;
    let volley = |number| {
        flows.iter().try_for_each(|flow| flow.send(number))?;
        flows.iter().try_for_each(|flow| flow.wait(number))
    };
    let volleys_for = |time| {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < time {
            volley(count)?;
            count += 1;
        }
        let rate = (count * FLOWS as u64) as f64 / start.elapsed().as_secs_f64();
        io::Result::Ok(rate)
    };
    volleys_for(WARM_UP)?;
    volleys_for(time)
}
