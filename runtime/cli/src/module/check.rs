//! `waxwing module check`.

use std::fmt::{self, Display, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use waxwing_plugin::workbench::{
    AtSize, CheckReport, Facts, HealthBench, Verdict, Workbench, WorkbenchError,
};

use super::backends::{Specs, specs};
use super::{Bytes, Config};
use crate::query::print;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The module.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    services: Services,
    /// As JSON: `passed`, and `module` or `error`.
    #[arg(long)]
    json: bool,
}

/// The services that a module is tried on.
#[derive(Args)]
pub(super) struct Services {
    #[command(flatten)]
    config: Config,
    /// What their backends are like: weights (`3,1,1`), with tags where wanted (`3@7,1@8`), over and
    /// over as far as a service's number of backends goes.
    #[arg(long, value_name = "SPEC", default_value = "1", value_parser = specs)]
    backends: Specs,
}

/// What is known of a module that passed.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Report {
    Policy(Box<CheckReport>),
    Health(Facts),
}

impl Services {
    pub(super) fn check(&self, module: &Path) -> Result<Report, WorkbenchError> {
        let config = &self.config.json;
        match Workbench::open(module) {
            Ok(policy) => {
                let report = policy.check(config, &self.backends.0)?;
                Ok(Report::Policy(report.into()))
            }
            Err(error) if error.is_health_check() => {
                let facts = HealthBench::open(module, config)?.facts();
                Ok(Report::Health(facts))
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        file,
        services,
        json,
    } = arguments;
    let outcome = services.check(file);
    if *json {
        print(&(serde_json::to_string_pretty(&verdict(&outcome))? + "\n"))?;
    } else if let Ok(report) = &outcome {
        print(&text(report))?;
    }
    outcome.map(|_| ()).map_err(Into::into)
}

pub(super) fn verdict(outcome: &Result<Report, WorkbenchError>) -> serde_json::Value {
    match outcome {
        Ok(report) => json!({ "passed": true, "module": report }),
        Err(error) => json!({ "passed": false, "error": error.to_string() }),
    }
}

/// The report, for people.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match report {
        Report::Policy(report) => write_report(&mut text, report),
        Report::Health(facts) => write_facts(&mut text, facts).and_then(|()| {
            let hint = "\nTry it on a server: waxwing module probe FILE ADDRESS:PORT";
            writeln!(text, "{hint}")
        }),
    };
    text
}

fn write_facts(out: &mut String, facts: &Facts) -> fmt::Result {
    let Facts {
        name,
        title,
        version,
        sdk,
        abi,
        bytes,
        hash,
        imports,
        exports,
        compile_ms,
    } = facts;
    let made_with = if sdk.is_empty() { "no SDK" } else { sdk };
    writeln!(out, "{name} passes\n")?;
    writeln!(out, "module    {title} {version}, {made_with}, ABI {abi}")?;
    writeln!(out, "file      {}, sha256 {hash}…", Bytes(*bytes))?;
    writeln!(out, "imports   {}", List(imports))?;
    writeln!(out, "exports   {}", List(exports))?;
    writeln!(out, "compiled  in {compile_ms:.0} ms")
}

fn write_report(out: &mut String, report: &CheckReport) -> fmt::Result {
    write_facts(out, &report.facts)?;
    writeln!(out, "wants     {}", Wants(report))?;
    writeln!(out, "memory    {}", Memory(report))?;
    writeln!(
        out,
        "\n{:>8}  {:>11}  {:>13}  slowest batch of 64",
        "backends", "fuel a pick", "at most alone"
    )?;
    report
        .sizes
        .iter()
        .try_for_each(|size| write_size(out, size))?;
    writeln!(
        out,
        "\nFuel is about one Wasm instruction: on average in full batches, and of the most \
         expensive\ncall for one flow. It is the same on every machine; time is this one's."
    )
}

fn write_size(out: &mut String, size: &AtSize) -> fmt::Result {
    let AtSize { backends, verdict } = size;
    match verdict {
        Verdict::Good(cost) => {
            let part = cost.worst_batch_us / cost.budget_us * 100.0;
            let over = if part > 100.0 {
                "  OVER THE BUDGET"
            } else {
                ""
            };
            writeln!(
                out,
                "{backends:>8}  {:>11.1}  {:>13}  {:.1} us, {part:.0} % of the {:.0} us that it \
                 may take{over}",
                cost.fuel_average, cost.fuel_worst, cost.worst_batch_us, cost.budget_us
            )
        }
        Verdict::Refused { why } => writeln!(out, "{backends:>8}  refused: {why}"),
        Verdict::TooSlow { why } => writeln!(
            out,
            "{backends:>8}  TOO SLOW: the balancer refuses it for a service of so many; others it \
             serves\n          ({why})"
        ),
    }
}

/// Names with commas between.
struct List<'a>(&'a [String]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.join(", "))
    }
}

/// What the module's section asks for.
struct Wants<'a>(&'a CheckReport);

impl Display for Wants<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckReport {
            payload,
            tick_ms,
            counters,
            ..
        } = self.0;
        match payload {
            0 => f.write_str("no payload")?,
            bytes => write!(f, "{bytes} bytes of payload")?,
        }
        match tick_ms {
            0 => f.write_str("; no tick")?,
            every => write!(f, "; a tick every {every} ms")?,
        }
        write!(f, "; counters: {}", List(counters))
    }
}

/// An instance's memory at the start, and at the most.
struct Memory<'a>(&'a CheckReport);

impl Display for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.memory_start_bytes;
        let memories = self.0.sizes.iter().filter_map(|size| match &size.verdict {
            Verdict::Good(cost) => Some(cost.memory_bytes),
            Verdict::Refused { .. } | Verdict::TooSlow { .. } => None,
        });
        let most = memories.max().unwrap_or(start);
        write!(
            f,
            "{} at the start, {} at the most",
            Bytes(start),
            Bytes(most)
        )
    }
}
