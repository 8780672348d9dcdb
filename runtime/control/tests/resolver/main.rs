//! The resolver against a real kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../bed/mod.rs"]
mod bed;
mod next_hops;
mod return_path;
mod setup;

use std::process::ExitCode;

use crate::next_hops::{
    announced_mac, behind_bridge, behind_gateway, changed_mac, gone_and_back, link_down,
    neighbour_flush, unreachable, untracked,
};
use crate::return_path::{gateway_moves, routes, unfollowed_routes};
use crate::setup::Bed;

fn main() -> ExitCode {
    let tests: &[(&str, fn())] = &[
        ("an IPv4 neighbour is resolved", || {
            Bed::new().resolves("10.77.0.2");
        }),
        ("an IPv6 neighbour is resolved", || {
            Bed::new().resolves("fd77::2");
        }),
        (
            "a backend behind a gateway gets the gateway's MAC",
            behind_gateway,
        ),
        (
            "a changed MAC is noticed without a packet from the server",
            changed_mac,
        ),
        ("an announced MAC is used at once", announced_mac),
        (
            "a server that disappears clears the next hop, and its return sets it",
            gone_and_back,
        ),
        (
            "flushing the neighbour table does not clear the next hop",
            neighbour_flush,
        ),
        ("a link that goes down clears the next hop", link_down),
        (
            "a backend without a route through a port reports why",
            unreachable,
        ),
        (
            "a backend that is no longer tracked loses its next hop",
            untracked,
        ),
        (
            "behind a bridge, a backend is at the port where its MAC was seen",
            behind_bridge,
        ),
        (
            "a route's gateway is kept resolved, and its moves are reported",
            gateway_moves,
        ),
        ("return routes follow the kernel's routes", routes),
        (
            "too many routes are not followed, and routing rules are reported",
            unfollowed_routes,
        ),
    ];
    bed::run(libtest_mimic::Arguments::from_args(), tests, false)
}
