//! Names a flood: how many sessions a second are opened that no client ever proves, and from where.
//!
//! Invariant: once a second it reads counters; it looks at sessions only when a status is asked for while the
//! table is nearly full, and at no more than [`SAMPLES_MAX`] of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::session::SessionTable;
use waxwing_packet::{Address, Family, Prefix};

/// The share of the table in use from which on a flood is a problem, in percent.
const TABLE_FULL_PERCENT: usize = 90;
/// Fewer unassured sessions a second are no flood.
const UNASSURED_PER_S_MIN: u32 = 100;
/// The most sessions that are looked at for their networks.
const SAMPLES_MAX: usize = 1 << 16;
/// A network is named if it has this share of the unassured sessions, in percent.
const NAMED_PERCENT: usize = 10;

/// The rate of sessions that are opened and not assured.
#[derive(Debug, Default)]
pub(crate) struct FloodWatch {
    unassured_per_s: AtomicU32,
}

/// Sessions opened and assured so far, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct OpenedSessions {
    opened: u64,
    assured: u64,
}

impl OpenedSessions {
    pub(crate) fn of<'a>(workers: impl IntoIterator<Item = &'a WorkerCounters>) -> Self {
        workers
            .into_iter()
            .fold(Self::default(), |sum, worker| Self {
                opened: sum.opened + worker.opened.get(),
                assured: sum.assured + worker.assured.get(),
            })
    }
}

impl FloodWatch {
    /// Sets the rate from the counts of an interval's start and end.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the value is not negative, and the cast saturates"
    )]
    pub(crate) fn update(&self, [before, after]: [OpenedSessions; 2], seconds: f64) {
        let opened = after.opened.saturating_sub(before.opened);
        let assured = after.assured.saturating_sub(before.assured);
        let per_s = opened.saturating_sub(assured) as f64 / seconds.max(1e-3);
        self.unassured_per_s
            .store(per_s.round() as u32, Ordering::Relaxed);
    }

    /// The flood that fills the table, for the operator.
    pub(crate) fn problem(&self, sessions: &SessionTable) -> Option<String> {
        let percent = sessions.len() * 100 / sessions.capacity().max(1);
        let per_s = self.unassured_per_s.load(Ordering::Relaxed);
        if percent < TABLE_FULL_PERCENT || per_s < UNASSURED_PER_S_MIN {
            return None;
        }
        Some(format!(
            "table {percent} % full: {} unassured sessions/s from {}; they give way to each other, and \
             assured ones stay",
            count_text(per_s),
            origin(sessions)
        ))
    }
}

/// The networks that most of the unassured sessions in the table come from.
fn origin(sessions: &SessionTable) -> String {
    let step = sessions.capacity().div_ceil(SAMPLES_MAX).max(1);
    let mut networks: HashMap<Prefix, usize> = HashMap::new();
    let mut unassured = 0;
    for session in sessions.sample(step) {
        if !session.is_assured() {
            unassured += 1;
            *networks.entry(network(session.client)).or_default() += 1;
        }
    }
    let mut networks: Vec<_> = networks.into_iter().collect();
    networks.sort_by_key(|(network, count)| (usize::MAX - count, network.to_string()));
    let named = networks
        .iter()
        .take(3)
        .map(|(network, count)| (network, count * 100 / unassured.max(1)))
        .filter(|(_, percent)| *percent >= NAMED_PERCENT)
        .map(|(network, percent)| format!("{network} ({percent} %)"));
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        return format!(
            "{} networks, none with {NAMED_PERCENT} % of them",
            networks.len()
        );
    }
    named.join(", ")
}

/// The network that a client is named by.
fn network(client: Address) -> Prefix {
    let bits = match client.family() {
        Family::V4 => 24,
        Family::V6 => 48,
    };
    Prefix::new(client, bits)
}

/// A count with two digits or more, such as `950` or `41 k`.
fn count_text(count: u32) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{} k", count / 1_000),
        _ => format!("{} M", count / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_dataplane::session::{FlowHash, Insert, Session, TcpState};
    use waxwing_dataplane::{BackendId, NextHop, PortId, SourceId, Tick};
    use waxwing_packet::{Mac, Protocol, VlanTags};

    use super::*;

    fn table(clients: impl Iterator<Item = Address>) -> SessionTable {
        let table = SessionTable::new(1000, [1, 2, 3, 4]).unwrap();
        let mut slots = table.slot_cache();
        for (n, client) in (0_u64..).zip(clients) {
            let session = Session {
                client,
                client_port: 4000,
                service_port: 80,
                source: SourceId::CLIENT,
                source_port: 4000,
                protocol: Protocol::Tcp,
                worker: 0,
                backend: BackendId(0),
                hop: NextHop {
                    port: PortId(0),
                    mac: Mac::default(),
                },
                tags: VlanTags::default(),
                created: Tick(0),
                seen: Tick(0),
                tcp: TcpState::default(),
            };
            let hash =
                |side: u64| FlowHash::from_bits((2 * n + side).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let new = table.insert(&mut slots, hash(0), hash(1), &session, |_| false, |_| false);
            assert!(matches!(new, Insert::Created(_)));
        }
        table
    }

    fn watch(per_s: u64) -> FloodWatch {
        let watch = FloodWatch::default();
        let after = OpenedSessions {
            opened: per_s + 50,
            assured: 50,
        };
        watch.update([OpenedSessions::default(), after], 1.0);
        watch
    }

    #[test]
    fn a_flood_is_named_by_its_rate_and_its_networks() {
        let one = |n: u16| Address::v4([198, 51, 100, (n % 250) as u8]);
        let table = table((0..920).map(one));
        let text = watch(41_300).problem(&table).unwrap();
        assert!(
            text.starts_with(
                "table 92 % full: 41 k unassured sessions/s from 198.51.100.0/24 (100 %)"
            ),
            "{text}"
        );
        assert_eq!(watch(99).problem(&table), None, "no flood");
    }

    #[test]
    fn a_flood_from_everywhere_is_named_so() {
        let any = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Address::v4([20, high, low, 1])
        };
        let text = watch(900).problem(&table((0..950).map(any))).unwrap();
        assert!(
            text.contains("900 unassured sessions/s from 950 networks, none"),
            "{text}"
        );
        assert_eq!(
            watch(900).problem(&table((0..800).map(any))),
            None,
            "there is room"
        );
    }
}
