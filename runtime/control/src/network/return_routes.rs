//! The kernel's routes to clients, published to the workers if replies follow them.
//!
//! Invariant: a published table is the kernel's whole main table at one time. Without a table, replies
//! go to the last hop: the neighbour that the client's packets came from. A replaced table is kept
//! until no worker uses it.
//!
//! The routes' gateways are tracked in both modes: in last-hop mode they are the last hops, and a
//! failover to another MAC must be noticed even if no packet comes from the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use tokio::time::{Duration, Instant};
use waxwing_dataplane::HopTable;
use waxwing_dataplane::egress::routes::{Path, Routes};
use waxwing_dataplane::{NextHop, PortId};
use waxwing_packet::{Address, Prefix};

use crate::network::hop_state::HopState;
use crate::network::kernel::routes::{RouteHop, best};
use crate::network::kernel::{Kernel, NeighbourKey};

/// The pause between two reads of the table in last-hop mode, which needs only its gateways.
const PAUSE_LAST_HOP: Duration = Duration::from_secs(1);

/// The most slots that the gateways of one route share.
const SLOTS_MAX: usize = 64;

/// Where replies to clients should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReturnPlan {
    /// Along the kernel's routes; otherwise to the last hop.
    pub by_routes: bool,
    /// The most routes to read.
    pub routes_max: usize,
}

/// The state of the return path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReturnState {
    /// Whether replies currently follow the kernel's routes.
    pub by_routes: bool,
    /// The number of routes.
    pub routes: usize,
    /// The gateways behind our ports.
    pub gateways: Vec<(Address, HopState)>,
    /// Why replies do not follow the routes, or not exactly as the kernel would.
    pub problem: Option<String>,
}

pub(crate) struct ReturnRoutes {
    plan: ReturnPlan,
    /// Whether the kernel's table may have changed since the last read.
    changed: bool,
    not_before: Option<Instant>,
    routes: BTreeMap<Prefix, Vec<RouteHop>>,
    /// In the order of their numbers in the table.
    gateways: Vec<NeighbourKey>,
    /// The current table.
    table: Option<Arc<Routes>>,
    is_published: bool,
    retired: Vec<Arc<Routes>>,
    problem: Option<String>,
}

impl ReturnRoutes {
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

    pub(crate) fn set_plan(&mut self, plan: ReturnPlan) {
        if self.plan != plan {
            self.plan = plan;
            self.changed = true;
            self.not_before = None;
        }
    }

    /// Notes that the kernel's routes may have changed.
    pub(crate) fn note_change(&mut self) {
        self.changed = true;
    }

    /// Returns the gateways that client traffic may use.
    pub(crate) fn gateways(&self) -> &[NeighbourKey] {
        &self.gateways
    }

    /// Reads the kernel's table if it changed, and returns whether it did so. A storm of changes costs
    /// at most a tenth of the time.
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
                self.set_problem(problem.filter(|_| self.plan.by_routes));
                self.compile(port_of);
            }
            Ok(None) => {
                let max = self.plan.routes_max;
                self.routes.clear();
                self.gateways.clear();
                self.replace_table(None);
                self.set_problem(self.plan.by_routes.then(|| {
                    format!(
                        "the kernel has more than `routes_max = {max}` routes, so replies go to the last \
                         hop; raise `routes_max`"
                    )
                }));
            }
            Err(e) => {
                self.changed = true;
                self.set_problem(Some(format!(
                    "cannot read the kernel's routes: {e}; replies follow the routes read before"
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

    /// Builds the table that workers search, from the routes through our ports.
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
        self.replace_table(table);
    }

    fn replace_table(&mut self, table: Option<Arc<Routes>>) {
        self.is_published = self.table.is_none() && table.is_none();
        self.retired
            .extend(std::mem::replace(&mut self.table, table));
    }

    fn set_problem(&mut self, problem: Option<String>) {
        if let Some(text) = problem.as_ref().filter(|_| self.problem != problem) {
            tracing::warn!("return path: {text}");
        }
        self.problem = problem;
    }

    /// Writes the gateways' next hops, publishes a new table, and returns the state of the return path.
    /// `gateways` are in the order of their numbers.
    pub(crate) fn publish(
        &mut self,
        hops: &HopTable,
        gateways: Vec<(Address, HopState)>,
    ) -> ReturnState {
        if let Some(table) = &self.table {
            for (number, (_, state)) in gateways.iter().enumerate() {
                let hop = state.port.zip(state.mac);
                table.set_gateway(number, hop.map(|(port, mac)| NextHop { port, mac }));
            }
        }
        if !std::mem::replace(&mut self.is_published, true) {
            // The old table is in `retired`.
            let _ = hops.routes().replace(self.table.clone());
        }
        ReturnState {
            by_routes: self.table.is_some(),
            routes: self.routes.len(),
            gateways,
            problem: self.problem.clone(),
        }
    }

    /// Frees the replaced tables that no worker uses.
    pub(crate) fn free_retired(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }
}

/// Reads the routes, and which part of the kernel's routing is not followed. `None`: more than `max`.
async fn read(
    kernel: &Kernel,
    max: usize,
) -> io::Result<Option<(BTreeMap<Prefix, Vec<RouteHop>>, Option<String>)>> {
    let Some(entries) = kernel.routes(max).await? else {
        return Ok(None);
    };
    let problem = kernel.has_policy_routing().await?.then(|| {
        "this host has routing rules (`ip rule`), which replies do not follow: they use the main table \
         only"
            .to_owned()
    });
    Ok(Some((best(entries), problem)))
}

/// Returns what workers do with a route: use its gateways behind our ports; without such a gateway,
/// the first port on which the client may be a neighbour.
fn path(
    hops: &[RouteHop],
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
        return Path::Gateways(slots(&gateways).into());
    }
    let mut neighbours = plain().filter(|hop| hop.via.is_none());
    neighbours
        .find_map(|hop| port_of(hop.link))
        .map_or(Path::Elsewhere, Path::OnLink)
}

/// Returns the smallest list in which each number appears in proportion to its weight. If that exceeds
/// [`SLOTS_MAX`], weights are rounded down, to at least one.
fn slots(weighted: &[(u32, u16)]) -> Vec<u32> {
    let sum = |weights: &[usize]| weights.iter().sum::<usize>();
    let mut weights: Vec<usize> = weighted.iter().map(|(_, w)| (*w).max(1).into()).collect();
    let common = weights.iter().copied().fold(0, greatest_common_divisor);
    weights.iter_mut().for_each(|weight| *weight /= common);
    let all = sum(&weights);
    if all > SLOTS_MAX {
        weights
            .iter_mut()
            .for_each(|weight| *weight = (*weight * SLOTS_MAX / all).max(1));
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

    fn hop(link: u32, via: Option<u8>, weight: u16) -> RouteHop {
        RouteHop {
            link,
            via: via.map(|n| Address::v4([10, 0, 0, n])),
            weight,
            plain: true,
        }
    }

    /// Links 2 and 3 are ports 0 and 1; a gateway's number is the last octet of its address.
    fn path_of(hops: &[RouteHop]) -> Path {
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
    fn a_route_uses_gateways_and_links_of_our_ports_only() {
        let tunnel = RouteHop {
            plain: false,
            ..hop(2, Some(1), 1)
        };
        let gateways = |numbers: &[u32]| Path::Gateways(numbers.into());
        let scenarios: [(&str, &[RouteHop], Path); 8] = [
            ("to a gateway", &[hop(2, Some(7), 1)], gateways(&[7])),
            (
                "to several gateways, by weight",
                &[hop(2, Some(7), 2), hop(3, Some(8), 4)],
                gateways(&[7, 8, 8]),
            ),
            (
                "to one gateway behind a port and one elsewhere",
                &[hop(9, Some(7), 1), hop(3, Some(8), 1)],
                gateways(&[8]),
            ),
            ("on link", &[hop(3, None, 1)], Path::OnLink(PortId(1))),
            (
                "on link, but not on a port",
                &[hop(9, None, 1)],
                Path::Elsewhere,
            ),
            (
                "to a gateway that is not behind a port",
                &[hop(9, Some(7), 1)],
                Path::Elsewhere,
            ),
            ("into a tunnel", &[tunnel], Path::Elsewhere),
            ("rejecting", &[], Path::Refused),
        ];
        for (what, hops, expected) in scenarios {
            assert_eq!(path_of(hops), expected, "{what}");
        }
    }

    #[test]
    fn slots_follow_the_weights_and_are_bounded() {
        assert_eq!(slots(&[(0, 100), (1, 50)]), [0, 0, 1]);
        assert_eq!(slots(&[(0, 1)]), [0]);
        let many = slots(&[(0, 256), (1, 255), (2, 1)]);
        assert!(many.len() <= SLOTS_MAX + 3, "{}", many.len());
        assert!((0..3).all(|number| many.contains(&number)));
    }
}
