//! The kernel's routes to clients: read, published to the workers where replies go by them, and their
//! gateways known in either mode.
//!
//! Invariant: a published table is the kernel's main table at one time, whole, or there is none and
//! replies go to the last hop. A table that workers had is kept until none has it.
//!
//! The gateways are known also where replies go to the last hop: they are the last hops, and one that
//! fails over to another MAC is to be noticed though no packet comes from it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use tokio::time::{Duration, Instant};
use waxwing_dataplane::routes::{Path, Routes};
use waxwing_dataplane::snapshot::NextHops;
use waxwing_dataplane::{NextHop, PortId};
use waxwing_packet::{Address, Prefix};

use crate::network::hop_state::HopState;
use crate::network::kernel::table::{Hop, best};
use crate::network::kernel::{Kernel, NeighbourKey};

/// The pause between two readings of the table where nothing but its gateways counts.
const PAUSE_LAST_HOP: Duration = Duration::from_secs(1);

/// The most places that the gateways of one route share.
const SHARES_MAX: usize = 64;

/// Where replies are to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReturnPlan {
    /// By the kernel's routes; else to where the client's packets come from.
    pub by_routes: bool,
    /// The most routes that are read.
    pub routes_max: usize,
}

/// What is known of the ways back to clients.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReturnState {
    /// Whether replies go by the kernel's routes at the moment.
    pub by_routes: bool,
    /// How many routes there are.
    pub routes: usize,
    /// The gateways that lead out of our ports.
    pub gateways: Vec<(Address, HopState)>,
    /// Why not, or not quite as the kernel would.
    pub problem: Option<String>,
}

pub(crate) struct Returns {
    plan: ReturnPlan,
    /// Whether the kernel's table may be another one since it was read.
    changed: bool,
    not_before: Option<Instant>,
    routes: BTreeMap<Prefix, Vec<Hop>>,
    /// By their numbers in the table.
    gateways: Vec<NeighbourKey>,
    /// The table to be published, and the one that is.
    table: Option<Arc<Routes>>,
    is_published: bool,
    retired: Vec<Arc<Routes>>,
    problem: Option<String>,
}

impl Returns {
    pub(crate) fn new() -> Self {
        Self {
            plan: ReturnPlan {
                by_routes: false,
                routes_max: 0,
            },
            changed: false,
            not_before: None,
            routes: BTreeMap::new(),
            gateways: Vec::new(),
            table: None,
            is_published: true,
            retired: Vec::new(),
            problem: None,
        }
    }

    pub(crate) fn follow(&mut self, plan: ReturnPlan) {
        if self.plan != plan {
            self.plan = plan;
            self.changed = true;
            self.not_before = None;
        }
    }

    /// Something of the kernel's routes is different now.
    pub(crate) fn note_change(&mut self) {
        self.changed = true;
    }

    /// The gateways that replies may go to, or come from.
    pub(crate) fn gateways(&self) -> &[NeighbourKey] {
        &self.gateways
    }

    /// Reads the kernel's table, if that changed; under a storm of changes it takes at most a tenth of
    /// the time. Says whether it was read.
    pub(crate) async fn read(
        &mut self,
        kernel: &Kernel,
        now: Instant,
        port_of: impl Fn(u32) -> Option<PortId>,
    ) -> bool {
        let is_due = self.changed && self.not_before.is_none_or(|at| now >= at);
        if !is_due || self.plan.routes_max == 0 {
            return false;
        }
        self.changed = false;
        match read(kernel, self.plan.routes_max).await {
            Ok(Some((routes, problem))) => {
                self.routes = routes;
                self.say(problem.filter(|_| self.plan.by_routes));
                self.compile(port_of);
            }
            Ok(None) => {
                let max = self.plan.routes_max;
                self.routes.clear();
                self.gateways.clear();
                self.offer(None);
                self.say(self.plan.by_routes.then(|| {
                    format!(
                        "the kernel has more than `routes_max = {max}` routes, so replies go to the last \
                         hop; write a higher `routes_max`"
                    )
                }));
            }
            Err(e) => {
                self.changed = true;
                self.say(Some(format!(
                    "the kernel's routes cannot be read: {e}; replies go by those known before"
                )));
            }
        }
        let pause = match self.plan.by_routes {
            true => Duration::ZERO,
            false => PAUSE_LAST_HOP,
        };
        self.not_before = Some(Instant::now() + (now.elapsed() * 10).max(pause));
        true
    }

    /// Makes the table that workers search: of what leaves by our ports.
    fn compile(&mut self, port_of: impl Fn(u32) -> Option<PortId>) {
        let keys: BTreeSet<NeighbourKey> = self
            .routes
            .values()
            .flatten()
            .filter(|hop| hop.plain && port_of(hop.link).is_some())
            .filter_map(|hop| Some((hop.link, hop.via?)))
            .collect();
        self.gateways = keys.into_iter().collect();
        let number = |key| {
            let at = self.gateways.binary_search(&key).ok()?;
            u32::try_from(at).ok()
        };
        let table = self.plan.by_routes.then(|| {
            let paths = self.routes.iter();
            let paths = paths.map(|(prefix, hops)| (*prefix, path(hops, number, &port_of)));
            Arc::new(Routes::new(&paths.collect(), self.gateways.len()))
        });
        self.offer(table);
    }

    fn offer(&mut self, table: Option<Arc<Routes>>) {
        self.is_published = self.table.is_none() && table.is_none();
        self.retired
            .extend(std::mem::replace(&mut self.table, table));
    }

    fn say(&mut self, problem: Option<String>) {
        if let Some(text) = problem.as_ref().filter(|_| self.problem != problem) {
            tracing::warn!("return path: {text}");
        }
        self.problem = problem;
    }

    /// Writes the next hops of the gateways, which are in this state, in the order of their numbers;
    /// puts a new table into effect; and gives the state of it all.
    pub(crate) fn publish(
        &mut self,
        hops: &NextHops,
        gateways: Vec<(Address, HopState)>,
    ) -> ReturnState {
        if let Some(table) = &self.table {
            for (number, (_, state)) in gateways.iter().enumerate() {
                let hop = state.port.zip(state.mac);
                table.set_gateway(number, hop.map(|(port, mac)| NextHop { port, mac }));
            }
        }
        if !std::mem::replace(&mut self.is_published, true) {
            // The one before is among the retired.
            let _ = hops.routes().replace(self.table.clone());
        }
        ReturnState {
            by_routes: self.table.is_some(),
            routes: self.routes.len(),
            gateways,
            problem: self.problem.clone(),
        }
    }

    /// Frees the tables that no worker has any more.
    pub(crate) fn free(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }
}

/// The routes that count, and what is not followed of the kernel's routing.
async fn read(
    kernel: &Kernel,
    max: usize,
) -> io::Result<Option<(BTreeMap<Prefix, Vec<Hop>>, Option<String>)>> {
    let Some(entries) = kernel.routes(max).await? else {
        return Ok(None);
    };
    let problem = kernel.has_policy_routing().await?.then(|| {
        "this host has routing rules (`ip rule`), which replies do not follow: only the main table \
         counts"
            .to_owned()
    });
    Ok(Some((best(entries), problem)))
}

/// What workers do with a route. Of several ways those to gateways behind our ports count, and where
/// there is none the first that the client may be a neighbour of.
fn path(
    hops: &[Hop],
    number: impl Fn(NeighbourKey) -> Option<u32>,
    port_of: impl Fn(u32) -> Option<PortId>,
) -> Path {
    if hops.is_empty() {
        return Path::Refused;
    }
    let plain = || hops.iter().filter(|hop| hop.plain);
    let to_gateways = plain().filter_map(|hop| Some((number((hop.link, hop.via?))?, hop.weight)));
    let gateways: Vec<(u32, u16)> = to_gateways.collect();
    if !gateways.is_empty() {
        return Path::Gateways(shares(&gateways).into());
    }
    let mut neighbours = plain().filter(|hop| hop.via.is_none());
    neighbours
        .find_map(|hop| port_of(hop.link))
        .map_or(Path::Elsewhere, Path::OnLink)
}

/// Each number as often as its weight says, in the smallest list that does so; where that would be too
/// long the weights are rounded, to one at least.
fn shares(weighted: &[(u32, u16)]) -> Vec<u32> {
    let sum = |weights: &[usize]| weights.iter().sum::<usize>();
    let mut weights: Vec<usize> = weighted.iter().map(|(_, w)| (*w).max(1).into()).collect();
    let common = weights.iter().copied().fold(0, greatest_common_divisor);
    weights.iter_mut().for_each(|weight| *weight /= common);
    let all = sum(&weights);
    if all > SHARES_MAX {
        weights
            .iter_mut()
            .for_each(|weight| *weight = (*weight * SHARES_MAX / all).max(1));
    }
    let each = weighted.iter().zip(weights);
    each.flat_map(|((number, _), weight)| std::iter::repeat_n(*number, weight))
        .collect()
}

const fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(link: u32, via: Option<u8>, weight: u16) -> Hop {
        Hop {
            link,
            via: via.map(|n| Address::v4([10, 0, 0, n])),
            weight,
            plain: true,
        }
    }

    /// Links 2 and 3 are ports 0 and 1; the gateways behind them are numbered from their addresses.
    fn path_of(hops: &[Hop]) -> Path {
        let port_of = |link: u32| match link {
            2 => Some(PortId(0)),
            3 => Some(PortId(1)),
            _ => None,
        };
        let number =
            |(link, via): NeighbourKey| port_of(link).map(|_| u32::from(via.v4_octets()[3]));
        path(hops, number, port_of)
    }

    #[test]
    fn a_route_becomes_what_workers_can_do_with_it() {
        let tunnel = Hop {
            plain: false,
            ..hop(2, Some(1), 1)
        };
        let gateways = |numbers: &[u32]| Path::Gateways(numbers.into());
        let scenarios: [(&str, &[Hop], Path); 8] = [
            ("to a gateway", &[hop(2, Some(7), 1)], gateways(&[7])),
            (
                "to several, by weight",
                &[hop(2, Some(7), 2), hop(3, Some(8), 4)],
                gateways(&[7, 8, 8]),
            ),
            (
                "to one behind a port and one that is not",
                &[hop(9, Some(7), 1), hop(3, Some(8), 1)],
                gateways(&[8]),
            ),
            ("on link", &[hop(3, None, 1)], Path::OnLink(PortId(1))),
            ("out of no port", &[hop(9, None, 1)], Path::Elsewhere),
            (
                "to a gateway of no port",
                &[hop(9, Some(7), 1)],
                Path::Elsewhere,
            ),
            ("into a tunnel", &[tunnel], Path::Elsewhere),
            ("nowhere", &[], Path::Refused),
        ];
        for (what, hops, expected) in scenarios {
            assert_eq!(path_of(hops), expected, "{what}");
        }
    }

    #[test]
    fn shares_are_the_weights_and_bounded() {
        assert_eq!(shares(&[(0, 100), (1, 50)]), [0, 0, 1]);
        assert_eq!(shares(&[(0, 1)]), [0]);
        let many = shares(&[(0, 256), (1, 255), (2, 1)]);
        assert!(many.len() <= SHARES_MAX + 3, "{}", many.len());
        assert!((0..3).all(|number| many.contains(&number)));
    }
}
