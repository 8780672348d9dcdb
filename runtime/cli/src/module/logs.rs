//! `waxwing module logs`.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use waxwing_control::admin::client::Client;
use waxwing_control::admin::status::Status;

use crate::arguments::AdminAddress;
use crate::query::{print, wait};

/// The time between two looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    admin: AdminAddress,
    /// The module's name.
    name: String,
    /// Goes on with the lines of a policy as they come, until it is interrupted.
    #[arg(long, short)]
    follow: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        admin,
        name,
        follow,
    } = arguments;
    let client = Client::new(&admin.socket);
    wait(async {
        let mut last = 0;
        loop {
            let status = client.status(None).await?;
            print(&lines(&status, name, &mut last)?)?;
            if !follow {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Returns the lines of a policy after number `last`, which becomes that of the last one; of a health check
/// all.
fn lines(status: &Status, name: &str, last: &mut u64) -> Result<String> {
    let mut text = String::new();
    if let Some(policy) = status.modules.iter().find(|module| module.name == name) {
        // A balancer that was started anew counts from 1.
        let newest = policy.log.last().map_or(0, |line| line.number);
        let seen = if newest < *last { 0 } else { *last };
        for line in policy.log.iter().filter(|line| line.number > seen) {
            let at = humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + Duration::from_secs(line.at),
            );
            writeln!(text, "{at} worker {}: {}", line.worker, line.text)?;
        }
        *last = newest;
        return Ok(text);
    }
    if !status.checks.iter().any(|module| module.name == name) {
        let modules = status.modules.iter().chain(&status.checks);
        let names: Vec<&str> = modules.map(|module| module.name.as_str()).collect();
        bail!(
            "no module \"{name}\" is in use; write one of {}",
            names.join(", ")
        );
    }
    for service in &status.services {
        for backend in &service.backends {
            let checks = backend.health.iter().flat_map(|health| &health.checks);
            let own = checks.filter(|check| check.check == name);
            let called = backend.name.as_ref().unwrap_or(&backend.address);
            for line in own.flat_map(|check| &check.log) {
                writeln!(text, "{} {called}: {line}", service.name)?;
            }
        }
    }
    Ok(text)
}
