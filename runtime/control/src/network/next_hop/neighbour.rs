//! A neighbour of the kernel's table: its state, and when to have the kernel probe it.

use std::io;
use std::time::Duration;

use rtnetlink::packet_route::neighbour::NeighbourState;
use tokio::time::Instant;
use waxwing_packet::Mac;

use crate::network::kernel::Neighbour;

/// The pause between two probes of a neighbour that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The same pause while packets wait for the neighbour.
const RETRY_WANTED: Duration = Duration::from_millis(100);

/// The pause between two probes of a neighbour that stays stale. (One that just turned stale, by the
/// kernel's own timers, is probed at once.)
const RECHECK: Duration = Duration::from_secs(30);

/// The kernel's last report of a neighbour, reduced to what decides the next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    Resolving,
    Fresh,
    Stale,
    /// The kernel is verifying the MAC.
    Probing,
    /// Permanent, or on a link without resolution.
    Fixed,
    Failed,
    /// Removed from the kernel's table without a failed probe (`ip neigh flush`). The MAC stays in
    /// use while the kernel probes again, so a flush loses no packets.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NeighbourEntry {
    pub(super) mac: Option<Mac>,
    pub(super) reach: Reach,
}

impl NeighbourEntry {
    /// Returns the entry after a notification. The kernel reports "failed" both for a neighbour that
    /// did not answer and for one being deleted; only the first was being probed before.
    pub(super) fn next(before: Option<Self>, now: Neighbour) -> Self {
        let known = before.and_then(|entry| entry.mac);
        let was_probed = before.is_some_and(|entry| {
            !matches!(entry.reach, Reach::Fresh | Reach::Stale | Reach::Fixed)
        });
        let (reach, mac) = match now.state {
            NeighbourState::Reachable | NeighbourState::Delay => (Reach::Fresh, now.mac),
            NeighbourState::Probe => (Reach::Probing, now.mac),
            NeighbourState::Stale => (Reach::Stale, now.mac),
            NeighbourState::Permanent | NeighbourState::Noarp => (Reach::Fixed, now.mac),
            NeighbourState::Failed if was_probed || known.is_none() => (Reach::Failed, None),
            _ if known.is_some() => (Reach::Lost, known),
            _ => (Reach::Resolving, None),
        };
        Self { mac, reach }
    }
}

/// The probes of one neighbour in use.
#[derive(Debug, Default)]
pub(super) struct Probe {
    pub(super) at: Option<Instant>,
    /// Why the kernel refused the last probe.
    pub(super) refusal: Option<String>,
    /// The neighbour's last MAC, kept while it has none.
    pub(super) last_mac: Option<Mac>,
}

impl Probe {
    /// Returns whether to probe a neighbour in this state now; `wanted` while packets wait for it.
    pub(super) fn is_due(&self, reach: Option<Reach>, wanted: bool, now: Instant) -> bool {
        let pause = match reach {
            // A probe would turn a permanent entry into an ordinary one.
            Some(Reach::Fresh | Reach::Probing | Reach::Fixed) => return false,
            Some(Reach::Stale) => RECHECK,
            _ if wanted => RETRY_WANTED,
            _ => RETRY,
        };
        self.at.is_none_or(|at| now.duration_since(at) >= pause)
    }
}

/// `ENOBUFS`: the kernel's neighbour table is full.
const NO_BUFFERS: i32 = 105;

/// Returns the text for a probe that the kernel refused.
pub(super) fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(NO_BUFFERS) => "the kernel's neighbour table is full; raise \
                             net.ipv4.neigh.default.gc_thresh3 (net.ipv6.… for IPv6)"
            .into(),
        _ => error.to_string(),
    }
}
