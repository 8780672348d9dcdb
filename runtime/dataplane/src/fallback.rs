//! The native fallback for policies: weighted rendezvous hashing.
//!
//! Invariant: the choice depends only on the flow's hash and the backends' endpoints and weights. So all
//! workers, and all balancers of a cluster, choose alike; and a change of one backend moves no flow between
//! two others (Thaler and Ravishankar, 1998).

use crate::mix::mix;
use crate::{BackendId, Snapshot};

/// Among the backends that take new sessions, the one with the highest score for the flow.
pub(crate) fn rendezvous(
    flow_hash: u64,
    backends: &[BackendId],
    snapshot: &Snapshot,
) -> Option<BackendId> {
    let mut best: Option<(Draw, BackendId)> = None;
    for backend in backends.iter().filter_map(|id| snapshot.backend(*id)) {
        if !backend.takes_new() {
            continue;
        }
        let draw = Draw {
            bits: mix(flow_hash ^ backend.hash) >> 11,
            weight: backend.weight,
        };
        if best.is_none_or(|(highest, _)| draw.beats(highest)) {
            best = Some((draw, backend.id));
        }
    }
    best.map(|(_, id)| id)
}

/// A backend's uniform random draw for a flow, with its weight.
#[derive(Clone, Copy)]
struct Draw {
    bits: u64,
    weight: u32,
}

impl Draw {
    /// Whether its score is higher. With equal weights the score grows with the draw and need not be
    /// computed.
    fn beats(self, other: Self) -> bool {
        if self.weight == other.weight {
            self.bits > other.bits
        } else {
            self.score() > other.score()
        }
    }

    /// `weight / -ln(u)` with `u` uniform in (0, 1): the highest of these is backend `i` with
    /// probability `weight_i / sum(weights)`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "an f64 holds the draw's 53 bits"
    )]
    fn score(self) -> f64 {
        let u = (self.bits as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(self.weight) / -u.ln()
    }
}

#[cfg(test)]
mod tests {
    use waxwing_packet::{Address, Protocol};

    use super::*;
    use crate::model::{Backend, Service, SourceUse};
    use crate::{Ports, ServiceId, Snapshot};

    fn snapshot(weights: &[u32]) -> (Vec<BackendId>, Snapshot) {
        let ids: Vec<BackendId> = (0..).take(weights.len()).map(BackendId).collect();
        let service = Service {
            id: ServiceId(0),
            name: "web".into(),
            vip: Address::v4([203, 0, 113, 10]),
            ports: Ports::one(80),
            protocol: Protocol::Tcp,
            source_nat: SourceUse::Auto,
            policy: 0,
            backends: ids.clone().into(),
            mid_stream: crate::model::MidStream::Pick,
            adopts_replies: false,
            no_backend: crate::model::NoBackend::Drop,
            sessions_max: None,
            timeouts: crate::model::Timeouts::default(),
        };
        let backends = (0_u32..)
            .zip(weights)
            .map(|(n, weight)| {
                let port = 8000 + u16::try_from(n).expect("a few");
                Backend::new(
                    BackendId(n),
                    &service,
                    Address::v4([10, 0, 0, 1]),
                    port,
                    *weight,
                )
            })
            .collect();
        (ids, Snapshot::new(1, vec![service], backends, Vec::new()))
    }

    #[test]
    fn shares_follow_weights() {
        let (ids, snapshot) = snapshot(&[1, 2, 3, 0]);
        let mut counts = [0_u32; 4];
        for flow in 0..60_000 {
            let id = rendezvous(mix(flow), &ids, &snapshot).expect("there are backends");
            counts[id.index()] += 1;
        }
        for (count, share) in counts.into_iter().zip([10_000_u32, 20_000, 30_000, 0]) {
            assert!(count.abs_diff(share) <= share / 25, "{counts:?}");
        }
    }

    #[test]
    fn a_drained_backend_moves_only_its_own_flows() {
        let (ids, before) = snapshot(&[1, 1, 1, 1]);
        let (_, after) = snapshot(&[1, 0, 1, 1]);
        for flow in (0..10_000).map(mix) {
            let old = rendezvous(flow, &ids, &before);
            if old != Some(BackendId(1)) {
                assert_eq!(rendezvous(flow, &ids, &after), old);
            }
        }
    }

    #[test]
    fn no_backend_with_weight_is_no_choice() {
        let (ids, snapshot) = snapshot(&[0, 0]);
        assert_eq!(rendezvous(7, &ids, &snapshot), None);
    }
}
