//! What is counted of worlds.

#[cfg(doc)]
use waxwing_dataplane::DropReason;

/// What a world has come to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Frames that the workers took.
    pub packets: u64,
    /// Sessions that were made.
    pub sessions: u64,
    /// Sessions evicted, and sessions whose time was up.
    pub evicted: u64,
    /// See [`Tally::evicted`].
    pub expired: u64,
    /// Connections and exchanges of datagrams that came to their good end.
    pub completed: u64,
    /// Changes of the config that all workers took up.
    pub changes: u64,
    /// Dropped frames, in the order of [`DropReason::ALL`].
    pub drops: Vec<u64>,
}

impl Tally {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.sessions += other.sessions;
        self.evicted += other.evicted;
        self.expired += other.expired;
        self.completed += other.completed;
        self.changes += other.changes;
        self.drops.resize(other.drops.len(), 0);
        for (sum, n) in self.drops.iter_mut().zip(&other.drops) {
            *sum += n;
        }
    }
}
