//! `waxwing module probe`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use waxwing_packet::Protocol;
use waxwing_plugin::checks::{
    CheckOutcome, CheckRoots, CheckTarget, CheckTls, CheckVerdict, TlsConfigError,
};
use waxwing_workbench::HealthWorkbench;

use super::Config;
use crate::query::{print, wait};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The module's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The server: `10.2.0.11:8080` or `[2001:db8::11]:8080`.
    #[arg(value_name = "ADDRESS:PORT")]
    server: SocketAddr,
    #[command(flatten)]
    config: Config,
    /// Runs the check as for a service over UDP.
    #[arg(long)]
    udp: bool,
    /// The timeout, in milliseconds.
    #[arg(long, value_name = "MS", default_value = "1000")]
    timeout: u64,
    /// For TLS: a file of trusted roots (PEM) instead of the system's.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// For TLS: the server's name instead of its address.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// For TLS: accepts any certificate.
    #[arg(long)]
    insecure: bool,
    /// The names of the service's signals, in order.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    signals: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let bench = HealthWorkbench::open(&arguments.file, &arguments.config.json)?;
    let target = arguments.target()?;
    let outcome = wait(async { Ok(bench.probe(&target).await) })?;
    print(&arguments.text(&outcome))?;
    match outcome.verdict {
        CheckVerdict::Healthy | CheckVerdict::Draining => Ok(()),
        CheckVerdict::Unhealthy if arguments.json => std::process::exit(1),
        CheckVerdict::Unhealthy => bail!("{} is unhealthy", arguments.server),
    }
}

impl Arguments {
    fn target(&self) -> Result<CheckTarget> {
        let requested = self.roots.is_some() || self.server_name.is_some() || self.insecure;
        let tls = match self.tls() {
            Ok(tls) => Some(Arc::new(tls)),
            Err(why) if requested => return Err(why.into()),
            // A check that needs TLS reports this in its result.
            Err(_) => None,
        };
        Ok(CheckTarget {
            service: "probe".into(),
            backend: self.server.to_string().into(),
            address: self.server,
            protocol: if self.udp {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            config_json: self.config.json.as_str().into(),
            tls,
            timeout: Duration::from_millis(self.timeout),
            signals: self
                .signals
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
        })
    }

    fn tls(&self) -> Result<CheckTls, TlsConfigError> {
        let roots = if self.insecure {
            CheckRoots::accept_any()?
        } else {
            CheckRoots::read(self.roots.as_deref())?
        };
        CheckTls::new(&roots, self.server_name.as_deref())
    }

    fn text(&self, outcome: &CheckOutcome) -> String {
        let CheckOutcome {
            verdict,
            reason,
            weight,
            signals,
            took,
            fault,
            inconclusive,
            log,
        } = outcome;
        let verdict = match verdict {
            CheckVerdict::Healthy => "healthy",
            CheckVerdict::Draining => "draining",
            CheckVerdict::Unhealthy => "unhealthy",
        };
        let took_ms = took.as_secs_f64() * 1e3;
        if self.json {
            let json = json!({
                "verdict": verdict, "reason": reason, "weight": weight, "signals": signals,
                "took_ms": took_ms, "fault": fault, "inconclusive": inconclusive,
                "log": log,
            });
            return format!("{json:#}\n");
        }
        let mut text = format!("{verdict}: {reason} ({took_ms:.1} ms)\n");
        if *fault {
            text += "The module failed, not the server.\n";
        }
        if *inconclusive {
            text +=
                "The result says nothing about the server: this machine ran out of a resource.\n";
        }
        for line in log {
            text += &format!("log       {line}\n");
        }
        if let Some(weight) = weight {
            text += &format!("weight    {weight} %\n");
        }
        for (place, value) in signals.iter().enumerate() {
            if let Some(value) = value {
                let name = self.signals.get(place).cloned();
                let name = name.unwrap_or_else(|| place.to_string());
                text += &format!("signal    {name}={value}\n");
            }
        }
        text
    }
}
