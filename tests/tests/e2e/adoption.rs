//! After a kill nothing is left of a session: a service that adopts replies goes on with its connections all
//! the same.

use anyhow::Result;
use waxwing_tests::topology::{CLIENT4, CLIENT6};
use waxwing_tests::{Layout, Topology, Waxwing};

use crate::recovery::{DOWNLOADS, Downloads, start_nginx};
use crate::traffic::{await_both_served, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[scenario!(
    downloads_go_on_after_a_kill,
    "nginx",
    "curl",
    "nft"
)];

/// What keeps the kernel from routing the servers' replies past NAT while nobody balances.
const FIREWALL: &str = "table inet adoption { chain forward { type filter hook forward priority 0; \
    ip saddr 10.2.0.0/24 tcp sport 8080 drop; ip6 saddr fd00:2::/64 tcp sport 8080 drop; }; }";

fn downloads_go_on_after_a_kill() -> Result<()> {
    for policy in ["maglev", "round_robin"] {
        let topology = Topology::new(Layout::default())?;
        topology.balancer.run("nft", &[FIREWALL])?;
        let servers = start_nginx(&topology)?;
        let mut config = web(&topology);
        for service in &mut config.services {
            service.policy = policy.to_owned();
            service.adopt_replies = true;
        }
        let mut waxwing = Waxwing::start(&topology, &config)?;
        let mut downloads = Downloads::start(&topology, servers, [CLIENT4, CLIENT6])?;
        waxwing.wait_status("the downloads' sessions", |status| {
            status.sessions() == 2 * DOWNLOADS as u64
        })?;
        waxwing.kill();
        waxwing.restart()?;
        downloads.are_under_way()?;
        await_both_served(&topology)?;
        downloads.finish()?;
        waxwing.stop()?;
    }
    Ok(())
}
