//! Where a packet leaves: next hop, port, VLAN tags, MAC addresses.

mod exit;
mod hop;
mod hop_table;
mod next_hop;
pub mod routes;

pub(crate) use exit::{Exit, bridge_exit, untagged_exit};
pub use hop::NextHop;
pub(crate) use hop::is_resolved;
pub use hop_table::HopTable;
pub(crate) use next_hop::{EgressHop, HopLookup};
