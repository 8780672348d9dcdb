//! What one run of one contender measured.
//!
//! Invariant: each value is a whole run's, and the use of the processors beside it is of the same time.

use anyhow::Result;
use serde::Serialize;

use crate::cpu::{Cores, Times};
use crate::histogram::Histogram;

/// A run's values.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sample {
    /// How much passed, each second: packets, requests or bits.
    pub(crate) rate: f64,
    /// How much was sent, where more may be sent than passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offered: Option<f64>,
    /// How long it took to pass, or to be answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Latency>,
    /// How busy the contender's processor was, from 0 to 1.
    pub(crate) cpu: f64,
    /// How busy the load's was.
    pub(crate) load_cpu: f64,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    /// The median.
    pub(crate) p50: f64,
    /// What 99 % did not exceed.
    pub(crate) p99: f64,
    /// What 99.9 % did not exceed.
    pub(crate) p999: f64,
}

impl Latency {
    /// Of what the sink counted; nothing where it counted nothing.
    #[expect(clippy::cast_precision_loss, reason = "latencies of a minute at most")]
    pub(crate) fn of(histogram: &Histogram) -> Option<Self> {
        let [p50, p99, p999] =
            [50_000, 99_000, 99_900].map(|rank| histogram.rank(rank) as f64 / 1e3);
        (histogram.count() > 0).then_some(Self { p50, p99, p999 })
    }
}

/// A look at the processors, for the time from it on.
pub(crate) struct Watch {
    cores: Cores,
    before: [Times; 2],
}

impl Watch {
    pub(crate) fn begin(cores: Cores) -> Result<Self> {
        let before = cores.times()?;
        Ok(Self { cores, before })
    }

    /// How busy the load's and the contender's were since.
    pub(crate) fn end(self) -> Result<[f64; 2]> {
        let after = self.cores.times()?;
        Ok([0, 1].map(|core| after[core].busy_since(self.before[core])))
    }
}
