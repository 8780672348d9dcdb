//! Flows and backends for tests of policies.
//!
//! Invariant: they follow from the numbers that the test passes.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::abi::{BACKEND_DRAINING, BACKEND_HEALTHY, BackendRecord, FlowRecord, PROTOCOL_TCP};
use crate::hash;

/// A flow to pick for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TestFlow {
    /// The flow's record; `payload_len` is set from the payload.
    pub record: FlowRecord,
    /// Start of the flow's payload.
    pub payload: Vec<u8>,
}

/// Returns endless TCP flows from random clients and ports to one VIP, without payload. The same
/// seed gives the same flows.
pub fn flows(seed: u64) -> impl Iterator<Item = TestFlow> {
    (0..).map(move |n| flow(seed, n))
}

/// Returns the `n`th flow of [`flows`].
pub(super) fn flow(seed: u64, n: u64) -> TestFlow {
    let random = hash::mix(seed ^ hash::mix(n)).to_le_bytes();
    let [a, b, c, port_low, port_high, ..] = random;
    TestFlow {
        record: FlowRecord {
            source: mapped(Ipv4Addr::new(10, a, b, c)),
            destination: mapped(Ipv4Addr::new(203, 0, 113, 10)),
            hash: hash::bytes(&random),
            source_port: u16::from_le_bytes([port_low, port_high]) | 1024,
            destination_port: 80,
            protocol: PROTOCOL_TCP,
            family: 4,
            ..FlowRecord::default()
        },
        payload: Vec::new(),
    }
}

impl TestFlow {
    /// Sets the client's address.
    #[must_use]
    pub fn from_address(mut self, address: IpAddr) -> Self {
        (self.record.source, self.record.family) = match address {
            IpAddr::V4(v4) => (mapped(v4), 4),
            IpAddr::V6(v6) => (v6.octets(), 6),
        };
        self
    }

    /// Sets the VIP and the service's port.
    #[must_use]
    pub fn to_destination(mut self, destination: SocketAddr) -> Self {
        self.record.destination = match destination.ip() {
            IpAddr::V4(v4) => mapped(v4),
            IpAddr::V6(v6) => v6.octets(),
        };
        self.record.destination_port = destination.port();
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn with_payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.into();
        self
    }
}

fn mapped(address: Ipv4Addr) -> [u8; 16] {
    address.to_ipv6_mapped().octets()
}

/// Returns a healthy backend with this id and weight; one of weight 0 drains.
#[must_use]
pub fn backend(id: u32, weight: u32) -> BackendRecord {
    let draining = if weight == 0 { BACKEND_DRAINING } else { 0 };
    BackendRecord {
        key: hash::mix(u64::from(id)),
        id,
        flags: BACKEND_HEALTHY | draining,
        weight,
        health_weight: 100,
        ..BackendRecord::default()
    }
}

/// Returns healthy backends with these weights and ids from 0.
#[must_use]
pub fn backends(weights: &[u32]) -> Vec<BackendRecord> {
    (0..)
        .zip(weights)
        .map(|(id, weight)| backend(id, *weight))
        .collect()
}
