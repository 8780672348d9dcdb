//! The cases of the wire benchmark, and the contenders of each.

use anyhow::Result;
use waxwing_report::{count, figure};

use super::generator::Load;
use super::packets::{self, FLOWS};
use super::run::Run;
use super::tcp;
use crate::contender::{Contender, Variant};
use crate::network::Offloads;
use crate::outcome::{Outcome, Series, Unit, order_of};
use crate::sample::Sample;

/// Waxwing with the cheapest policy, which balances as its peers do.
pub(super) const WAXWING: Contender = Contender::Waxwing(Variant::RoundRobin);
/// Waxwing with a policy that looks up a table.
const WAXWING_MAGLEV: Contender = Contender::Waxwing(Variant::Maglev);

const FORWARDERS: [Contender; 4] = [
    Contender::Bare,
    WAXWING,
    WAXWING_MAGLEV,
    Contender::Nftables,
];
const ALL: [Contender; 5] = [
    Contender::Bare,
    WAXWING,
    Contender::Nftables,
    Contender::Haproxy,
    Contender::NginxStream,
];
/// Contenders that benefit from the kernel's offloads.
const KERNEL_BASED: [Contender; 3] = [
    Contender::Nftables,
    Contender::Haproxy,
    Contender::NginxStream,
];
/// The end of a contender's name when offloads are on.
pub(super) const WITH_OFFLOADS: &str = ", with offloads";
/// Requests a second at light load: the CPUs are idle most of the time.
const LIGHT: u32 = 2000;
/// Least seconds of a response time measurement: at the light load, 10 of 10,000 requests exceed p99.9.
const LATENCY_SECONDS: u32 = 5;

/// A case, as named by `--only`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Case {
    /// UDP packets a second of established flows
    Established,
    /// UDP packets a second, each the first of its flow
    NewSessions,
    /// One-way latency of UDP packets at half of each contender's maximum rate
    PacketLatency,
    /// HTTP requests a second, one per connection
    ShortConnections,
    /// HTTP requests a second on connections that are kept
    KeepAlive,
    /// Response times on kept connections at light load
    LightLatency,
    /// Response times on kept connections at half of the clients' maximum rate
    HalfLatency,
    /// Bits a second of one TCP connection
    Bulk,
}

/// A contender's name in a case, and its measurement.
type Entry<'a> = (String, Box<dyn Fn() -> Result<Sample> + 'a>);

/// The parameters of the benchmark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bench {
    pub(super) run: Run,
    pub(super) rounds: u32,
}

impl Case {
    /// The case in one word, as in file names.
    pub(super) const fn word(self) -> &'static str {
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
    /// Measures a case; `previous` are the outcomes of the cases before.
    pub(super) fn measure(&self, case: Case, previous: &[Outcome]) -> Result<Outcome> {
        let (title, unit, entries) = self.plan(case, previous)?;
        println!("\n=> {title}");
        let series = self.run_rounds(&entries, unit)?;
        Ok(Outcome {
            case: case.word(),
            title,
            unit,
            series,
        })
    }

    fn plan(&self, case: Case, previous: &[Outcome]) -> Result<(String, Unit, Vec<Entry<'_>>)> {
        use Unit::{BitsPerSecond, Latency, PacketsPerSecond, RequestsPerSecond};
        Ok(match case {
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
                self.at_half_load(previous)?,
            ),
            Case::ShortConnections => (
                "Short TCP connections: each HTTP request on one of its own".to_owned(),
                RequestsPerSecond,
                self.flat_out(false),
            ),
            Case::KeepAlive => (
                "HTTP requests on connections that are kept".to_owned(),
                RequestsPerSecond,
                self.flat_out(true),
            ),
            Case::LightLatency => (
                format!("Latency of HTTP requests on kept connections, {LIGHT} a second"),
                Latency,
                self.paced(LIGHT),
            ),
            Case::HalfLatency => {
                let rate = self.half_request_rate()?;
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
        })
    }

    fn run_rounds(&self, entries: &[Entry<'_>], unit: Unit) -> Result<Vec<Series>> {
        let mut series: Vec<Series> = entries.iter().map(|(name, _)| Series::new(name)).collect();
        for round in 0..self.rounds as usize {
            for at in order_of(round, entries.len()) {
                let (name, measure) = &entries[at];
                let sample = measure()?;
                println!(
                    "   {}/{}  {name:<36} {}",
                    round + 1,
                    self.rounds,
                    describe(&sample, unit)
                );
                series[at].runs.push(sample);
            }
        }
        Ok(series)
    }

    fn forwarders(&self, flows: Option<u32>) -> Vec<Entry<'_>> {
        let load = Load { flows, rate: None };
        self.each(FORWARDERS, move |run, contender| {
            packets::measure(run, contender, load)
        })
    }

    /// Each contender at half of its maximum rate; the bare forwarder also at half of Waxwing's.
    fn at_half_load(&self, previous: &[Outcome]) -> Result<Vec<Entry<'_>>> {
        let established = previous
            .iter()
            .find(|outcome| outcome.case == Case::Established.word());
        let half_of = |contender: Contender| {
            let series = established.and_then(|outcome| outcome.series(contender.label()));
            let load = Load {
                flows: Some(FLOWS),
                rate: None,
            };
            let maximum = match series {
                Some(series) => series.spread(|run| run.rate).median,
                None => packets::measure(self.run, contender, load)?.rate,
            };
            Ok::<_, anyhow::Error>((maximum / 2.0).round())
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
            let measure = move || packets::measure(self.run, contender, load);
            (name, Box::new(measure))
        };
        Ok(offered.map(entry).into())
    }

    fn flat_out(&self, keep_alive: bool) -> Vec<Entry<'_>> {
        self.each(ALL, move |run, contender| {
            tcp::flat_out(run, contender, keep_alive)
        })
    }

    fn paced(&self, rate: u32) -> Vec<Entry<'_>> {
        self.each(ALL, move |run, contender| {
            let seconds = run.seconds.max(LATENCY_SECONDS);
            tcp::paced(Run { seconds, ..run }, contender, rate)
        })
    }

    /// Half of the request rate that the clients reach through Waxwing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a request rate is some ten thousand a second"
    )]
    fn half_request_rate(&self) -> Result<u32> {
        let run = Run {
            seconds: 1,
            ..self.run
        };
        let maximum = tcp::paced(run, WAXWING, 0)?.rate;
        Ok((maximum / 2.0).max(1.0) as u32)
    }

    /// All without offloads, as AF_XDP needs it; kernel-based contenders also with offloads.
    fn bulk(&self) -> Vec<Entry<'_>> {
        let mut entries = self.each(ALL, |run, contender| {
            tcp::bulk(run, contender, Offloads::Off)
        });
        let with_offloads = self.each(KERNEL_BASED, |run, contender| {
            tcp::bulk(run, contender, Offloads::On)
        });
        let renamed = with_offloads
            .into_iter()
            .map(|(name, measure)| (name + WITH_OFFLOADS, measure));
        entries.extend(renamed);
        entries
    }

    /// One entry per contender, all measured in the same way.
    fn each(
        &self,
        contenders: impl IntoIterator<Item = Contender>,
        measure: impl Fn(Run, Contender) -> Result<Sample> + Copy + 'static,
    ) -> Vec<Entry<'_>> {
        let entry = |contender: Contender| -> Entry<'_> {
            let measure = move || measure(self.run, contender);
            (contender.to_string(), Box::new(measure))
        };
        contenders.into_iter().map(entry).collect()
    }
}

/// A sample in one line, for the log.
fn describe(sample: &Sample, unit: Unit) -> String {
    let cpu = sample.cpu.unwrap_or_default().contender * 100.0;
    match (unit, sample.latency) {
        (Unit::Latency, Some(latency)) => format!(
            "p50 {} us, p99 {} us, p99.9 {} us, CPU {cpu:.0} %",
            figure(latency.p50),
            figure(latency.p99),
            figure(latency.p999)
        ),
        _ => format!(
            "{} {}, CPU {cpu:.0} %",
            figure(sample.rate * unit.factor()),
            unit.label()
        ),
    }
}
