//! What sampled sessions show, as the status has it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waxwing_dataplane::counters::SampledSegments;

/// The data that sampled TCP sessions carried in one direction (`sample_sessions`), since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SampledStatus {
    /// Sessions with data.
    pub sessions: u64,
    /// Segments with data.
    pub segments: u64,
    /// Segments all of whose data had passed here before: they were lost behind the balancer, or their
    /// acknowledgment was.
    pub resent: u64,
    /// Sessions in which a packet of more than 1,280 bytes was sent four times and never acknowledged.
    pub stuck: u64,
    /// Sessions whose client ended them before the server's first data; none in the other direction.
    pub given_up: u64,
}

impl From<SampledSegments> for SampledStatus {
    fn from(counted: SampledSegments) -> Self {
        let SampledSegments {
            sessions,
            segments,
            resent,
            stuck,
            given_up,
        } = counted;
        Self {
            sessions,
            segments,
            resent,
            stuck,
            given_up,
        }
    }
}
