//! Names a flood: how many sessions a second are opened that no client ever proves, and from where.
//!
//! Invariant: once a second it reads counters; it looks at sessions only when a status is asked for during a
//! flood, and at no more than [`SAMPLES_MAX`] of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::session::SessionTable;
use waxwing_packet::{Address, Family, Prefix};

/// The share of the table in use from which on a flood is a problem, in percent.
const TABLE_FULL_PERCENT: usize = 90;
/// Fewer unassured sessions a second are no flood, and fewer evicted ones are no lack of room.
const PER_S_MIN: u32 = 100;
/// The most sessions that are looked at for their networks.
const SAMPLES_MAX: usize = 1 << 16;
/// A network is named if it has this share of the unassured sessions, in percent.
const NAMED_PERCENT: usize = 10;

/// The rates of sessions that are opened and not assured, and of evicted ones.
#[derive(Debug, Default)]
pub(crate) struct FloodWatch {
    unassured_per_s: AtomicU32,
    evicted_per_s: AtomicU32,
}

/// Sessions opened, assured and evicted so far, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct OpenedSessions {
    opened: u64,
    assured: u64,
    evicted: u64,
}

impl OpenedSessions {
    pub(crate) fn of<'a>(workers: impl IntoIterator<Item = &'a WorkerCounters>) -> Self {
        workers
            .into_iter()
            .fold(Self::default(), |sum, worker| Self {
                opened: sum.opened + worker.opened.get(),
                assured: sum.assured + worker.assured.get(),
                evicted: sum.evicted + worker.evicted.get(),
            })
    }
}

impl FloodWatch {
    /// Sets the rates from the counts of an interval's start and end.
    pub(crate) fn update(&self, [before, after]: [OpenedSessions; 2], seconds: f64) {
        let opened = after.opened.saturating_sub(before.opened);
        let assured = after.assured.saturating_sub(before.assured);
        let evicted = after.evicted.saturating_sub(before.evicted);
        let unassured = opened.saturating_sub(assured);
        let set = |rate: &AtomicU32, count| rate.store(per_s(count, seconds), Ordering::Relaxed);
        set(&self.unassured_per_s, unassured);
        set(&self.evicted_per_s, evicted);
    }

    /// The flood that takes other clients' room, for the operator.
    pub(crate) fn problem(&self, sessions: &SessionTable) -> Option<String> {
        let percent = sessions.len() * 100 / sessions.capacity().max(1);
        let unassured = self.unassured_per_s.load(Ordering::Relaxed);
        if unassured < PER_S_MIN {
            return None;
        }
        let full = if percent >= TABLE_FULL_PERCENT {
            format!("table {percent} % full")
        } else if self.evicted_per_s.load(Ordering::Relaxed) >= PER_S_MIN {
            // Sessions are evicted for no other reason while the table has room.
            "a service's share of the table, or a pool of source ports, is full".to_owned()
        } else {
            return None;
        };
        Some(format!(
            "{full}: {} unassured sessions/s from {}; they give way to each other, and assured ones stay",
            count_text(unassured),
            origin(sessions)
        ))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the value is not negative, and the cast saturates"
)]
fn per_s(count: u64, seconds: f64) -> u32 {
    (count as f64 / seconds.max(1e-3)).round() as u32
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

    fn watch(per_s: u64, evicted: u64) -> FloodWatch {
        let watch = FloodWatch::default();
        let after = OpenedSessions {
            opened: per_s + 50,
            assured: 50,
            evicted,
        };
        watch.update([OpenedSessions::default(), after], 1.0);
        watch
    }

    #[test]
    fn a_flood_is_named_by_its_rate_and_its_networks() {
        let one = |n: u16| Address::v4([198, 51, 100, (n % 250) as u8]);
        let table = table((0..920).map(one));
        let text = watch(41_300, 0).problem(&table).unwrap();
        assert!(
            text.starts_with(
                "table 92 % full: 41 k unassured sessions/s from 198.51.100.0/24 (100 %)"
            ),
            "{text}"
        );
        assert_eq!(watch(99, 500).problem(&table), None, "no flood");
    }

    #[test]
    fn a_flood_from_everywhere_is_named_so() {
        let any = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Address::v4([20, high, low, 1])
        };
        let text = watch(900, 0).problem(&table((0..950).map(any))).unwrap();
        assert!(
            text.contains("900 unassured sessions/s from 950 networks, none"),
            "{text}"
        );
        assert_eq!(
            watch(900, 0).problem(&table((0..800).map(any))),
            None,
            "there is room"
        );
    }

    #[test]
    fn a_flood_that_fills_a_pool_is_named_while_the_table_has_room() {
        let table = table((0..200).map(|n: u8| Address::v4([198, 51, 100, n])));
        let text = watch(300, 290).problem(&table).unwrap();
        assert!(
            text.starts_with(
                "a service's share of the table, or a pool of source ports, is full: 300 unassured \
                 sessions/s from 198.51.100.0/24 (100 %)"
            ),
            "{text}"
        );
        assert_eq!(watch(300, 10).problem(&table), None, "there is room");
    }
}
