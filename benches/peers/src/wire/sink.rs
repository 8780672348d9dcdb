//! The packet sink before the servers: counts arriving frames, verifies their checksums, and drops them.
//!
//! Invariant: the sink sees a frame before anything else in the servers' network does; frames that are not
//! measured pass.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::EbpfLoader;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TcAttachType};
use waxwing_tests::Namespace;

use super::generator::OBJECT;
use super::histogram::{BUCKETS, Histogram};

/// The attached sink; dropping it detaches the program.
pub(super) struct Sink {
    counts: PerCpuArray<MapData, [u64; 6]>,
    latencies: PerCpuArray<MapData, u64>,
    /// Owns the link that keeps the program attached.
    _ebpf: Ebpf,
}

/// The sink's counters.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    /// Frames.
    pub(super) packets: u64,
    /// Frames with a wrong checksum.
    pub(super) bad: u64,
    /// Frames by the last two bits of their destination address.
    pub(super) by_server: [u64; 4],
    /// Latencies of frames with a time stamp.
    pub(super) latencies: Histogram,
}

impl Sink {
    /// Attaches the sink to an interface, for UDP to `port`.
    pub(super) fn attach(namespace: &Namespace, interface: &str, port: u16) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("measured_port", &port, true)
            .load(OBJECT)
            .context("cannot load the BPF object with the sink")?;
        let program: &mut SchedClassifier = ebpf
            .program_mut("sink")
            .context("the BPF object has no program `sink`")?
            .try_into()?;
        program.load().context("the kernel rejects the sink")?;
        namespace
            .enter(|| program.attach(interface, TcAttachType::Ingress))?
            .with_context(|| {
                format!("cannot attach the sink to {interface}: tcx needs Linux 6.6")
            })?;
        let mut map = |name| {
            ebpf.take_map(name)
                .with_context(|| format!("the BPF object has no map `{name}`"))
        };
        Ok(Self {
            counts: map("counts")?.try_into()?,
            latencies: map("latencies")?.try_into()?,
            _ebpf: ebpf,
        })
    }

    /// Returns the counts since the sink was attached.
    pub(super) fn arrivals(&self) -> Result<Arrivals> {
        let mut total = [0; 6];
        for counts in self.counts.get(&0, 0)?.iter() {
            total
                .iter_mut()
                .zip(counts)
                .for_each(|(total, count)| *total += count);
        }
        let buckets = (0..BUCKETS).map(|bucket| Ok(self.latencies.get(&bucket, 0)?.iter().sum()));
        let [packets, bad, by_server @ ..] = total;
        Ok(Arrivals {
            packets,
            bad,
            by_server,
            latencies: Histogram::new(buckets.collect::<Result<_>>()?),
        })
    }
}
