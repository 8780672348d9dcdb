//! `waxwing module check`.

use std::fmt::{self, Display, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use waxwing_workbench::{
    CheckReport, CheckSize, HealthWorkbench, ModuleSummary, SizeVerdict, Workbench, WorkbenchError,
};

use super::backends::{Specs, specs};
use super::{Bytes, Config};
use crate::query::print;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The module's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    services: Services,
    /// Prints JSON: `passed`, and `module` or `error`.
    #[arg(long)]
    json: bool,
}

/// The services on which a module is tried.
#[derive(Args)]
pub(super) struct Services {
    #[command(flatten)]
    config: Config,
    /// The backends, repeated up to each service's number of backends: weights (`3,1,1`),
    /// optionally with tags (`3@7,1@8`).
    #[arg(long, value_name = "SPEC", default_value = "1", value_parser = specs)]
    backends: Specs,
}

/// The report on a module that passed.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Report {
    Policy(Box<CheckReport>),
    Health(ModuleSummary),
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
                let summary = HealthWorkbench::open(module, config)?.summary();
                Ok(Report::Health(summary))
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

/// Formats the report as text.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match report {
        Report::Policy(report) => write_report(&mut text, report),
        Report::Health(summary) => write_summary(&mut text, summary).and_then(|()| {
            let hint = "\nTry it with a server: waxwing module probe FILE ADDRESS:PORT";
            writeln!(text, "{hint}")
        }),
    };
    text
}

fn write_summary(out: &mut String, summary: &ModuleSummary) -> fmt::Result {
    let ModuleSummary {
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
    } = summary;
    let made_with = if sdk.is_empty() { "no SDK" } else { sdk };
    writeln!(out, "{name} passes\n")?;
    writeln!(out, "module    {title} {version}, {made_with}, ABI {abi}")?;
    writeln!(out, "file      {}, sha256 {hash}…", Bytes(*bytes))?;
    writeln!(out, "imports   {}", List(imports))?;
    writeln!(out, "exports   {}", List(exports))?;
    writeln!(out, "compiled  in {compile_ms:.0} ms")
}

fn write_report(out: &mut String, report: &CheckReport) -> fmt::Result {
    write_summary(out, &report.summary)?;
    writeln!(out, "requests  {}", Requests(report))?;
    writeln!(out, "memory    {}", Memory(report))?;
    writeln!(
        out,
        "\n{:>8}  {:>13}  {:>12}  slowest batch of 64",
        "backends", "fuel per pick", "most for one"
    )?;
    report
        .sizes
        .iter()
        .try_for_each(|size| write_size(out, size))?;
    let mut warnings = report.warnings.iter();
    warnings.try_for_each(|warning| writeln!(out, "\nwarning: {warning}"))?;
    writeln!(
        out,
        "\nA unit of fuel is about one Wasm instruction: the average per pick in full batches, and the \
         most\nexpensive call for one flow. Fuel is the same on every machine; times are this machine's."
    )
}

fn write_size(out: &mut String, size: &CheckSize) -> fmt::Result {
    let CheckSize { backends, verdict } = size;
    match verdict {
        SizeVerdict::Good(cost) => {
            let part = cost.worst_batch_us / cost.budget_us * 100.0;
            let over = if part > 100.0 {
                "  OVER THE BUDGET"
            } else {
                ""
            };
            writeln!(
                out,
                "{backends:>8}  {:>13.1}  {:>12}  {:.1} us, {part:.0} % of the budget of \
                 {:.0} us{over}",
                cost.fuel_average, cost.fuel_worst, cost.worst_batch_us, cost.budget_us
            )
        }
        SizeVerdict::Refused { why } => writeln!(out, "{backends:>8}  refused: {why}"),
        SizeVerdict::TooSlow { why } => writeln!(
            out,
            "{backends:>8}  TOO SLOW: the balancer refuses it for a service with this many \
             backends\n          ({why})"
        ),
    }
}

/// Displays names, separated by commas.
struct List<'a>(&'a [String]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.join(", "))
    }
}

/// Displays what the module's section requests.
struct Requests<'a>(&'a CheckReport);

impl Display for Requests<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckReport {
            payload,
            tick_ms,
            counters,
            gauges,
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
        write!(f, "; counters: {}", List(counters))?;
        if gauges.is_empty() {
            return Ok(());
        }
        write!(f, "; gauges: {}", List(gauges))
    }
}

/// Displays an instance's initial and largest memory.
struct Memory<'a>(&'a CheckReport);

impl Display for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.memory_start_bytes;
        let memories = self.0.sizes.iter().filter_map(|size| match &size.verdict {
            SizeVerdict::Good(cost) => Some(cost.memory_bytes),
            SizeVerdict::Refused { .. } | SizeVerdict::TooSlow { .. } => None,
        });
        let most = memories.max().unwrap_or(start);
        write!(f, "{} initially, {} at most", Bytes(start), Bytes(most))
    }
}
