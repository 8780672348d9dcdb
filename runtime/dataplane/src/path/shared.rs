//! What all workers share.

use std::sync::Arc;

use crate::counters::Gauges;
use crate::egress::HopTable;
use crate::fragments::FragmentTable;
use crate::session::SessionTable;
use crate::{DirectFlows, SourceRates};

/// The tables that all workers read and write.
#[derive(Clone)]
pub struct SharedState {
    pub sessions: Arc<SessionTable>,
    /// Next hops by backend.
    pub next_hops: Arc<HopTable>,
    /// Live numbers by backend.
    pub gauges: Arc<Gauges>,
    /// Fragmented datagrams.
    pub fragments: Arc<FragmentTable>,
    /// Connections to the backends' own addresses.
    pub direct: Arc<DirectFlows>,
    /// New sessions by the clients' networks.
    pub source_rates: Arc<SourceRates>,
}
