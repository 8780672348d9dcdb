//! The modules of policies and health checks.

use std::fmt::{self, Write};

use waxwing_control::admin::status::{ModuleStatus, Status};

use super::table::Table;
use super::units;

/// Steps shown for each module; `--json` has more.
const STEPS_SHOWN: usize = 5;

pub(super) fn write(out: &mut String, status: &Status) -> fmt::Result {
    let modules = || status.modules.iter().chain(&status.checks);
    let mut table = Table::new([
        "MODULE",
        "BUILD",
        "VERSION",
        "SOURCE",
        "IN SERVICE",
        ">FAULTS",
    ]);
    for module in modules() {
        table.add(row(module));
    }
    write!(out, "\n{table}")?;
    for problem in &status.module_files {
        writeln!(out, "\nfile      {problem}")?;
    }
    for module in modules() {
        write_events(out, module)?;
    }
    let checks = &status.health_checks;
    if checks.runs > 0 {
        writeln!(
            out,
            "\nchecks    {} done, {} of {} running, started {} ms late (p99), {} ms (max)",
            checks.runs, checks.running, checks.running_max, checks.late_p99_ms, checks.late_max_ms
        )?;
    }
    Ok(())
}

/// Returns a module's name, build, version, source, time in service, and the build's faults.
pub(super) fn row(module: &ModuleStatus) -> [String; 6] {
    let name = module.name.clone();
    let Some(serving) = &module.serving else {
        let [build, rest @ ..] = ["NONE SERVES", "", "", "", ""].map(str::to_owned);
        let [version, source, since, faults] = rest;
        return [name, build, version, source, since, faults];
    };
    [
        name,
        serving.hash.clone(),
        serving.version.clone(),
        serving.source.clone(),
        units::since(serving.since).to_string(),
        serving.faults.to_string(),
    ]
}

/// Writes a module's canary, its quarantined builds, its last steps, and the last refused build.
fn write_events(out: &mut String, module: &ModuleStatus) -> fmt::Result {
    let mut lines = Vec::new();
    let over_share = module.serving.as_ref().map_or(0, |it| it.over_share_flows);
    if over_share > 0 {
        lines.push(format!(
            "over its share of a worker (`module_share`): {over_share} new sessions left to the fallback"
        ));
    }
    if let Some(canary) = &module.canary {
        let (build, left) = (&canary.build, canary.left_ms);
        lines.push(format!(
            "canary {} {} on worker 0, {left} ms left",
            build.hash, build.version
        ));
    }
    for build in &module.quarantined {
        let digits = build.hash.get(..12).unwrap_or(&build.hash);
        let serving = module.serving.iter().find(|serving| serving.hash != digits);
        let instead = serving.map_or_else(
            || "no other build can serve".to_owned(),
            |serving| format!("{} ({}) serves instead", serving.hash, serving.source),
        );
        lines.push(format!("quarantined {digits}: {}; {instead}", build.reason));
    }
    if let Some(fault) = &module.last_fault {
        let since = units::since(fault.at);
        lines.push(format!(
            "last fault {since} ago: {} {}",
            fault.hash, fault.text
        ));
    }
    let first = module.steps.len().saturating_sub(STEPS_SHOWN);
    for step in &module.steps[first..] {
        let since = units::since(step.at);
        lines.push(format!("{since} ago: {} {}", step.hash, step.text));
    }
    if lines.is_empty() && module.refused.is_none() {
        return Ok(());
    }
    writeln!(out, "\nmodule    {}", module.name)?;
    lines
        .iter()
        .try_for_each(|line| writeln!(out, "  {line}"))?;
    if let Some(refused) = &module.refused {
        let hash = refused.hash.as_deref().unwrap_or("unread");
        writeln!(out, "  refused {hash}:")?;
        write!(out, "{}", units::indented(&refused.reason))?;
    }
    Ok(())
}
