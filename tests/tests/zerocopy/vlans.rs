//! Backends behind a VLAN device of the kernel. The machine's kernel has VLAN devices; a host's may not.

use anyhow::{Result, ensure};
use waxwing_tests::topology::{VIP4, VIP6, server4};
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Waxwing, vlan};

use crate::traffic::{curl, nginx};
use crate::{assert_zero_copy, config_of_turns, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] = &[scenario!(backends_behind_a_vlan_device_are_reached)];

fn backends_behind_a_vlan_device_are_reached(report: &Report) -> Result<()> {
    let topology = topology()?;
    vlan::move_servers(&topology)?;
    let _servers = nginx(&topology)?;
    let waxwing = Waxwing::start(&topology, &config_of_turns(&topology)?)?;
    for root in [format!("http://{VIP4}/"), format!("http://[{VIP6}]/")] {
        let answers = [curl(&topology, &root)?, curl(&topology, &root)?];
        ensure!(answers[0] != answers[1], "{root}: {answers:?}");
    }
    let hop = waxwing.status()?.next_hop("web", server4(1)).clone();
    ensure!(
        hop["vlans"] == serde_json::json!([vlan::ID]),
        "next hop: {hop}"
    );
    // The kernel routes its own traffic through the device too.
    curl(&topology, &format!("http://{}:8080/", server4(1)))?;
    assert_zero_copy(&topology, &waxwing, report)?;
    waxwing.stop().map(drop)
}
