//! The counts of simulated worlds.

#[cfg(doc)]
use waxwing_dataplane::DropReason;

/// The counts of one or more worlds.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Frames that the workers received.
    pub packets: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Sessions evicted.
    pub evicted: u64,
    /// Sessions expired.
    pub expired: u64,
    /// Connections and exchanges of datagrams that completed.
    pub completed: u64,
    /// Sessions that the balancer lost.
    pub lost: u64,
    /// Sessions that a server's reply opened again.
    pub adopted: u64,
    /// Changes of the config.
    pub changes: u64,
    /// Dropped frames, in the order of [`DropReason::ALL`].
    pub drops: Vec<u64>,
}

impl Tally {
    /// Adds the counts of another world.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.sessions += other.sessions;
        self.evicted += other.evicted;
        self.expired += other.expired;
        self.completed += other.completed;
        self.lost += other.lost;
        self.adopted += other.adopted;
        self.changes += other.changes;
        self.drops.resize(other.drops.len(), 0);
        for (sum, n) in self.drops.iter_mut().zip(&other.drops) {
            *sum += n;
        }
    }
}
