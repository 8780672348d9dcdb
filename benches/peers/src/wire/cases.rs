//! What is measured, case by case.
//!
//! Invariant: the contenders of a case take turns, one run each in every round, and each begins a round
//! once: what disturbs the machine for a while disturbs all of them.

use anyhow::Result;
use serde::Serialize;
use waxwing_report::{Spread, count, figure};

use crate::bed::Offloads;
use crate::contender::{Contender, Poll};
use crate::cpu::Cores;
use crate::generator::Load;
use crate::packets::{self, FLOWS};
use crate::requests;
use crate::sample::Sample;

/// The policies that Waxwing is measured with: the cheapest, which is the peers' own, and one that looks up.
pub(crate) const POLICIES: [&str; 2] = ["round_robin", "maglev"];

const WAXWING: Contender = Contender::Waxwing(POLICIES[0]);
const FORWARDERS: [Contender; 4] = [
    Contender::Bare,
    WAXWING,
    Contender::Waxwing(POLICIES[1]),
    Contender::Nftables,
];
const ALL: [Contender; 5] = [
    Contender::Bare,
    WAXWING,
    Contender::Nftables,
    Contender::Haproxy,
    Contender::NginxStream,
];
/// What the names of contenders end with that the kernel's offloads help.
pub(crate) const WITH_OFFLOADS: &str = ", with offloads";
/// Requests a second at light load: a processor is idle most of the time.
const LIGHT: u32 = 2000;
/// The least seconds that latencies of requests are measured for: 10,000 of them, so that ten are above p99.9.
const LATENCY_SECONDS: u32 = 5;

/// A case, by the name that `--only` knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Case {
    /// UDP packets a second, all of flows that are open
    Established,
    /// UDP packets a second, each the first of its flow
    NewSessions,
    /// How long UDP packets take at half of what the contender can
    PacketLatency,
    /// HTTP requests a second, each on a connection of its own
    ShortConnections,
    /// HTTP requests a second on connections that are kept
    KeepAlive,
    /// How long requests on kept connections take, with little to do
    LightLatency,
    /// The same at half of what the clients can ask for
    HalfLatency,
    /// Bits a second of one connection
    Bulk,
}

/// What a case measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    PacketsPerSecond,
    RequestsPerSecond,
    BitsPerSecond,
    Latency,
}

/// What the runs of a case measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    /// The case, in a word.
    pub(crate) case: &'static str,
    /// In a line.
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// The contenders' runs.
    pub(crate) series: Vec<Series>,
}

/// The runs of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// One for each round.
    pub(crate) runs: Vec<Sample>,
}

impl Series {
    /// Of one value of each run.
    pub(crate) fn spread(&self, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(&self.values(value))
    }

    /// One value of each run.
    pub(crate) fn values(&self, value: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.runs.iter().map(value).collect()
    }
}

impl Outcome {
    /// The runs of a contender.
    pub(crate) fn series(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }
}

/// A contender in a case, and how to measure it.
type Entry<'a> = (String, Box<dyn Fn() -> Result<Sample> + 'a>);

/// What all cases share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench {
    pub(crate) cores: Cores,
    pub(crate) poll: Poll,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
}

impl Case {
    /// In one word, as in file names.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::NewSessions => "new-sessions",
            Self::PacketLatency => "packet-latency",
            Self::ShortConnections => "short-connections",
            Self::KeepAlive => "keep-alive",
            Self::LightLatency => "light-latency",
            Self::HalfLatency => "half-latency",
            Self::Bulk => "bulk",
        }
    }
}

impl Bench {
    /// Measures a case. `done` has what was measured before it.
    pub(crate) fn run(&self, case: Case, done: &[Outcome]) -> Result<Outcome> {
        use Unit::{BitsPerSecond, Latency, PacketsPerSecond, RequestsPerSecond};
        let (title, unit, entries) = match case {
            Case::Established => (
                format!("Established UDP: 64-byte packets of {FLOWS} open flows"),
                PacketsPerSecond,
                self.forwarders(Some(FLOWS)),
            ),
            Case::NewSessions => (
                "New sessions: every 64-byte UDP packet of a flow of its own".to_owned(),
                PacketsPerSecond,
                self.forwarders(None),
            ),
            Case::PacketLatency => (
                "Latency of UDP packets at half load, from wire to wire".to_owned(),
                Latency,
                self.at_half_load(done)?,
            ),
            Case::ShortConnections => (
                "Short TCP connections: each HTTP request on one of its own".to_owned(),
                RequestsPerSecond,
                self.of_all(|bench, contender| {
                    requests::flat_out(bench.cores, contender, bench.poll, false, bench.seconds)
                }),
            ),
            Case::KeepAlive => (
                "HTTP requests on connections that are kept".to_owned(),
                RequestsPerSecond,
                self.of_all(|bench, contender| {
                    requests::flat_out(bench.cores, contender, bench.poll, true, bench.seconds)
                }),
            ),
            Case::LightLatency => (
                format!("Latency of HTTP requests on kept connections, {LIGHT} a second"),
                Latency,
                self.paced(LIGHT),
            ),
            Case::HalfLatency => {
                let rate = self.half_of_the_clients()?;
                (
                    format!("Latency of HTTP requests on kept connections, {rate} a second"),
                    Latency,
                    self.paced(rate),
                )
            }
            Case::Bulk => (
                "Bulk: one TCP connection".to_owned(),
                BitsPerSecond,
                self.bulk(),
            ),
        };
        println!("\n=> {title}");
        let series = self.take_turns(&entries, unit)?;
        Ok(Outcome {
            case: case.word(),
            title,
            unit,
            series,
        })
    }

    fn take_turns(&self, entries: &[Entry<'_>], unit: Unit) -> Result<Vec<Series>> {
        let mut series: Vec<Series> = entries
            .iter()
            .map(|(name, _)| Series {
                name: name.clone(),
                runs: Vec::new(),
            })
            .collect();
        for round in 0..self.rounds as usize {
            for turn in 0..entries.len() {
                let at = (round + turn) % entries.len();
                let (name, measure) = &entries[at];
                let sample = measure()?;
                println!(
                    "   {}/{}  {name:<36} {}",
                    round + 1,
                    self.rounds,
                    line(&sample, unit)
                );
                series[at].runs.push(sample);
            }
        }
        Ok(series)
    }

    fn packets(&self, contender: Contender, load: Load) -> Result<Sample> {
        let duration = std::time::Duration::from_secs(self.seconds.into());
        packets::measure(self.cores, contender, self.poll, load, duration)
    }

    fn forwarders(&self, flows: Option<u32>) -> Vec<Entry<'_>> {
        let load = Load { flows, rate: None };
        let entry = |contender: Contender| -> Entry<'_> {
            let measure = move || self.packets(contender, load);
            (contender.to_string(), Box::new(measure))
        };
        FORWARDERS.map(entry).into()
    }

    /// Each at half of what it can; and the bare forwarder at half of what Waxwing can, too.
    fn at_half_load(&self, done: &[Outcome]) -> Result<Vec<Entry<'_>>> {
        let established = done
            .iter()
            .find(|outcome| outcome.case == Case::Established.word());
        let half_of = |contender: Contender| {
            let series = established.and_then(|outcome| outcome.series(&contender.to_string()));
            let load = Load {
                flows: Some(FLOWS),
                rate: None,
            };
            let all = match series {
                Some(series) => series.spread(|run| run.rate).median,
                None => self.packets(contender, load)?.rate,
            };
            Ok::<_, anyhow::Error>((all / 2.0).round())
        };
        let waxwing = half_of(WAXWING)?;
        let offered = [
            (Contender::Bare, waxwing),
            (WAXWING, waxwing),
            (Contender::Bare, half_of(Contender::Bare)?),
            (Contender::Nftables, half_of(Contender::Nftables)?),
        ];
        let entry = |(contender, rate): (Contender, f64)| -> Entry<'_> {
            let load = Load {
                flows: Some(FLOWS),
                rate: Some(rate),
            };
            let name = format!("{}, {}/s", contender.short(), count(rate));
            (name, Box::new(move || self.packets(contender, load)))
        };
        Ok(offered.map(entry).into())
    }

    fn of_all(
        &self,
        measure: impl Fn(&Self, Contender) -> Result<Sample> + Copy + 'static,
    ) -> Vec<Entry<'_>> {
        let entry = |contender: Contender| -> Entry<'_> {
            (
                contender.to_string(),
                Box::new(move || measure(self, contender)),
            )
        };
        ALL.map(entry).into()
    }

    fn paced(&self, rate: u32) -> Vec<Entry<'_>> {
        self.of_all(move |bench, contender| {
            let seconds = bench.seconds.max(LATENCY_SECONDS);
            requests::paced(bench.cores, contender, bench.poll, rate, seconds)
        })
    }

    /// Half of the requests that our clients get through Waxwing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "requests a second are some ten thousands"
    )]
    fn half_of_the_clients(&self) -> Result<u32> {
        let all = requests::paced(self.cores, WAXWING, self.poll, 0, 1)?.rate;
        Ok((all / 2.0).max(1.0) as u32)
    }

    /// As AF_XDP needs it, without offloads; and those that the kernel helps once more with its help.
    fn bulk(&self) -> Vec<Entry<'_>> {
        let entry = |contender: Contender, offloads: Offloads| -> Entry<'_> {
            let with = match offloads {
                Offloads::Off => "",
                Offloads::On => WITH_OFFLOADS,
            };
            let measure =
                move || requests::bulk(self.cores, contender, self.poll, offloads, self.seconds);
            (format!("{contender}{with}"), Box::new(measure))
        };
        let off = ALL.map(|contender| entry(contender, Offloads::Off));
        let kernels = [
            Contender::Nftables,
            Contender::Haproxy,
            Contender::NginxStream,
        ];
        let on = kernels.map(|contender| entry(contender, Offloads::On));
        off.into_iter().chain(on).collect()
    }
}

/// A run, while others are still to come.
fn line(sample: &Sample, unit: Unit) -> String {
    let cpu = format!("CPU {:.0} %", sample.cpu * 100.0);
    match (unit, sample.latency) {
        (Unit::Latency, Some(latency)) => format!(
            "p50 {} us, p99 {} us, p99.9 {} us, {cpu}",
            figure(latency.p50),
            figure(latency.p99),
            figure(latency.p999)
        ),
        _ => format!(
            "{} {}, {cpu}",
            figure(sample.rate * unit.factor()),
            unit.label()
        ),
    }
}

impl Unit {
    /// What people read it in.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::PacketsPerSecond => "M packets/s",
            Self::RequestsPerSecond => "k requests/s",
            Self::BitsPerSecond => "Gbit/s",
            Self::Latency => "us",
        }
    }

    /// From the unit that was measured in to the one that people read.
    pub(crate) const fn factor(self) -> f64 {
        match self {
            Self::PacketsPerSecond => 1e-6,
            Self::RequestsPerSecond => 1e-3,
            Self::BitsPerSecond => 1e-9,
            Self::Latency => 1.0,
        }
    }
}
