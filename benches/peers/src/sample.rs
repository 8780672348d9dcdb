//! The result of one run of one contender.
//!
//! Invariant: all values of a sample were measured over the same time.

use anyhow::Result;
use serde::Serialize;

use crate::cpu::{Cores, Times};

/// The values of one run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sample {
    /// Packets, requests, round trips or bits a second that passed.
    pub(crate) rate: f64,
    /// The rate that was sent, if more can be sent than passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offered: Option<f64>,
    /// One-way or response times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Latency>,
    /// CPU use, if load and contender have a CPU each.
    #[serde(flatten)]
    pub(crate) cpu: Option<CpuUse>,
}

/// Busy shares of the two CPUs, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct CpuUse {
    #[serde(rename = "cpu")]
    pub(crate) contender: f64,
    #[serde(rename = "load_cpu")]
    pub(crate) load: f64,
}

/// Latency percentiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// Measures CPU use from [`CpuWatch::begin`] to [`CpuWatch::end`].
pub(crate) struct CpuWatch {
    cores: Cores,
    before: [Times; 2],
}

impl CpuWatch {
    pub(crate) fn begin(cores: Cores) -> Result<Self> {
        let before = cores.times()?;
        Ok(Self { cores, before })
    }

    pub(crate) fn end(self) -> Result<CpuUse> {
        let after = self.cores.times()?;
        let [load, contender] = [0, 1].map(|core| after[core].busy_since(self.before[core]));
        Ok(CpuUse { contender, load })
    }
}
