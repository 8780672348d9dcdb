//! Reloads while packets flow: another thread makes snapshots of the whole config, and the worker takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use waxwing_dataplane::model::Release;
use waxwing_dataplane::{Epoch, Snapshot};

use crate::established::{EstablishedTestbed, EstablishedTraffic};
use crate::order::Order;
use crate::testbed::Testbed;

/// The times of a worker's batches, ascending.
pub struct Batches(Vec<Duration>);

impl Batches {
    /// The time that this share of the batches, in thousandths, did not exceed.
    pub fn quantile(&self, thousandths: usize) -> Duration {
        let at = (self.0.len() * thousandths).div_ceil(1000).max(1) - 1;
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// Batches of established sessions' packets, with or without reloads.
pub struct Reloads<'a> {
    /// The testbed.
    pub established: &'a EstablishedTestbed,
    /// Whether another thread reloads, one time after the other.
    pub reloads: bool,
}

impl Reloads<'_> {
    /// Forwards so many batches of requests. Returns their times, and how many reloads the worker took over.
    pub fn run(&self, batches: usize) -> (Batches, u64) {
        let testbed = &self.established.testbed;
        let mut traffic = EstablishedTraffic::new(self.established, 0, Order::Uniform);
        let (mailbox, returned) = traffic.epochs();
        let done = AtomicBool::new(false);
        let (mut times, taken) = thread::scope(|scope| {
            let done = &done;
            let reloading = scope.spawn(move || {
                let mut taken = 0;
                while self.reloads && !done.load(Ordering::Relaxed) {
                    let epoch = Epoch {
                        snapshot: Arc::new(again(testbed)),
                        policies: Vec::new(),
                        kept: Vec::new(),
                        release: Release::held(),
                    };
                    epoch.release.give();
                    if mailbox.send(epoch).is_err() {
                        break;
                    }
                    // The old one is freed here, as the control plane frees it.
                    while !done.load(Ordering::Relaxed) {
                        if let Ok(old) = returned.recv_timeout(Duration::from_millis(10)) {
                            drop(old);
                            taken += 1;
                            break;
                        }
                    }
                }
                taken
            });
            let all = 0..self.established.sessions;
            let times: Vec<_> = (0..batches)
                .map(|_| traffic.requests(all.clone()))
                .collect();
            done.store(true, Ordering::Relaxed);
            (times, reloading.join().expect("the reloads end"))
        });
        traffic.end();
        times.sort_unstable();
        (Batches(times), taken)
    }
}

/// A snapshot of the same services, backends and ports.
fn again(testbed: &Testbed) -> Snapshot {
    let snapshot = &testbed.snapshot;
    Snapshot::new(
        2,
        snapshot.services().cloned().collect(),
        snapshot.backends().cloned().collect(),
        snapshot.ports().to_vec(),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::addresses::AddressPlan;
    use crate::testbed::Size;

    #[test]
    fn packets_flow_while_snapshots_change() {
        let established = EstablishedTestbed::new(AddressPlan::V4, Size::default()).unwrap();
        let run = |reloads| {
            let scenario = Reloads {
                established: &established,
                reloads,
            };
            scenario.run(2_000)
        };
        let (batches, taken) = run(true);
        assert!(batches.quantile(999) >= batches.quantile(500));
        assert!(taken > 0);
        assert_eq!(run(false).1, 0);
    }
}
