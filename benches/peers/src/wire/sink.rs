//! The servers' end: counts the frames that arrive, looks at their checksums, and drops them.
//!
//! Invariant: a frame is counted before anything in the servers' network sees it; all but the measured
//! ones pass.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::EbpfLoader;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TcAttachType};
use waxwing_tests::Namespace;

use crate::generator::OBJECT;
use crate::histogram::{BUCKETS, Histogram};

/// The sink, on a wire that comes from the balancer. Dropped, it is off.
pub(crate) struct Sink {
    counts: PerCpuArray<MapData, [u64; 6]>,
    latencies: PerCpuArray<MapData, u64>,
    /// Its link is what keeps the program on the wire.
    _ebpf: Ebpf,
}

/// What has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    /// Frames.
    pub(crate) packets: u64,
    /// Those with a wrong checksum.
    pub(crate) bad: u64,
    /// By the last two bits of their destination address.
    pub(crate) by_server: [u64; 4],
    /// How long those with a time stamp took.
    pub(crate) latencies: Histogram,
}

impl Sink {
    /// Puts it on an interface, for UDP to this port.
    pub(crate) fn attach(namespace: &Namespace, interface: &str, port: u16) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("measured_port", &port, true)
            .load(OBJECT)
            .context("the sink's object")?;
        let program: &mut SchedClassifier =
            ebpf.program_mut("sink").context("no sink")?.try_into()?;
        program.load().context("the kernel refuses the sink")?;
        namespace
            .enter(|| program.attach(interface, TcAttachType::Ingress))?
            .with_context(|| format!("cannot attach the sink to {interface} (tcx: Linux 6.6)"))?;
        let mut map = |name| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name}"))
        };
        Ok(Self {
            counts: map("counts")?.try_into()?,
            latencies: map("latencies")?.try_into()?,
            _ebpf: ebpf,
        })
    }

    /// What has arrived since it was attached.
    pub(crate) fn arrivals(&self) -> Result<Arrivals> {
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
