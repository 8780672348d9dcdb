//! A policy as native code at a worker, to compare with its module.

use waxwing_dataplane::policy::PickContext;
use waxwing_dataplane::{NewFlow, Policy, PolicyFault, ServiceId};
use waxwing_packet::{Family, Protocol};
use waxwing_sdk::abi::{BackendRecord, FlowRecord, PROTOCOL_TCP, PROTOCOL_UDP};
use waxwing_sdk::testing::{Driver, TestFlow};
use waxwing_sdk::{ConfigError, Pick, testing};

use crate::modules::SEED;

/// Lets an SDK policy pick, through the same records as its module.
pub struct Native<P: waxwing_sdk::Policy> {
    driver: Driver<P>,
    flows: Vec<TestFlow>,
    picks: Vec<Pick>,
}

impl<P: waxwing_sdk::Policy> Native<P> {
    /// Starts the policy for a service with these backends.
    pub fn new(config: &str, records: &[BackendRecord]) -> Result<Self, ConfigError> {
        Ok(Self {
            driver: Driver::start(config, records, SEED)?,
            flows: testing::flows(SEED)
                .take(waxwing_dataplane::BATCH)
                .collect(),
            picks: Vec::with_capacity(waxwing_dataplane::BATCH),
        })
    }
}

impl<P: waxwing_sdk::Policy> Policy for Native<P>
where
    Driver<P>: Send,
{
    fn payload_len(&self) -> usize {
        0
    }

    fn pick(
        &mut self,
        _: ServiceId,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [waxwing_dataplane::Pick],
    ) -> Result<(), PolicyFault> {
        self.driver.host_mut().now_ms = context.now.millis();
        for (room, flow) in self.flows.iter_mut().zip(flows) {
            room.record = record(flow);
        }
        self.driver
            .pick_into(&self.flows[..flows.len()], &mut self.picks);
        for (pick, picked) in picks.iter_mut().zip(&self.picks) {
            let index = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            *pick = match *picked {
                Pick::Backend(at) => waxwing_dataplane::Pick::Backend(index(at)),
                Pick::Keep(at) => waxwing_dataplane::Pick::Keep(index(at)),
                Pick::Drop => waxwing_dataplane::Pick::Drop,
                Pick::Fallback => waxwing_dataplane::Pick::Fallback,
            };
        }
        Ok(())
    }
}

fn record(flow: &NewFlow) -> FlowRecord {
    FlowRecord {
        source: flow.source.octets(),
        destination: flow.destination.octets(),
        hash: flow.hash,
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        protocol: match flow.protocol {
            Protocol::Tcp => PROTOCOL_TCP,
            Protocol::Udp => PROTOCOL_UDP,
        },
        family: match flow.source.family() {
            Family::V4 => 4,
            Family::V6 => 6,
        },
        ..FlowRecord::default()
    }
}
