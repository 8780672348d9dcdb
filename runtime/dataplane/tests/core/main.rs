//! The core in memory: no socket, no clock, no Wasm.
//!
//! Scenarios frame by frame, under a clock that the test advances.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests' own locks are not on the packet's way"
)]

mod adopt;
mod capture;
mod direct;
mod dry_run;
mod floods;
mod fragment_bounds;
mod fragment_ends;
mod fragments;
mod frames;
mod gauges;
mod health;
mod hosts;
mod icmp_errors;
mod icmp_errors_hostile;
mod icmp_sent;
mod jumbo;
mod kill;
mod new_flows;
mod no_allocation;
mod paths;
mod policies;
mod ranges;
mod records;
mod reject;
mod return_path;
mod samples;
mod sessions;
mod shares;
mod source_nat;
mod source_pools;
mod spoofed;
mod transparent;
mod verdicts;
mod vip_responder;
mod vlans;
mod world;
