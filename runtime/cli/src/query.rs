//! The commands that talk to a running balancer.

use std::future::Future;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use waxwing_control::admin::client::Client;
use waxwing_control::admin::signals::{SetBackend, SetSignals};
use waxwing_control::admin::status::ServiceHealthStatus;
use waxwing_control::health::AdminState;

use crate::{OneBackend, render};

/// `waxwing status`.
pub(crate) fn status(socket: &Path, json: bool) -> Result<()> {
    let status = wait(async { Ok(Client::new(socket).status().await?) })?;
    let text = if json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        render::status(&status)
    };
    print(&text)
}

/// Sessions in one table of `waxwing sessions`. A table is held in memory until it is printed.
const SESSIONS_PER_TABLE: usize = 1000;

/// `waxwing sessions`.
pub(crate) fn sessions(
    socket: &Path,
    json: bool,
    service: Option<&str>,
    limit: Option<u64>,
) -> Result<()> {
    wait(async {
        let mut sessions = Client::new(socket).sessions(service, limit).await?;
        let mut page = Vec::new();
        while let Some((line, session)) = sessions.next().await? {
            if json {
                print(&(line + "\n"))?;
                continue;
            }
            page.push(session);
            if page.len() == SESSIONS_PER_TABLE {
                print(&render::sessions(&page))?;
                page.clear();
            }
        }
        print(&render::sessions(&page))
    })
}

/// `waxwing reload`.
pub(crate) fn reload(socket: &Path) -> Result<()> {
    let warnings = wait(async { Ok(Client::new(socket).reload().await?) })?;
    print(&warnings)
}

/// `waxwing backend signal`.
pub(crate) fn signal(which: OneBackend, values: &[String]) -> Result<()> {
    let OneBackend {
        admin,
        service,
        backend,
    } = which;
    let values = values
        .iter()
        .map(|text| pair(text))
        .collect::<Result<_>>()?;
    let request = SetSignals {
        service,
        backend,
        values,
    };
    let client = Client::new(&admin.socket);
    wait(async { Ok(client.set_signals(&request).await?) })
}

/// `waxwing backend drain`, `disable` and `enable`.
pub(crate) fn set_backend(which: OneBackend, state: AdminState) -> Result<()> {
    let OneBackend {
        admin,
        service,
        backend,
    } = which;
    let request = SetBackend {
        service,
        backend,
        state,
    };
    let client = Client::new(&admin.socket);
    wait(async { Ok(client.set_backend(&request).await?) })
}

/// How long `waxwing health` waits for the balancer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// `waxwing health`.
pub(crate) fn health(socket: &Path, service: Option<&str>) -> Result<()> {
    let services = wait(async {
        let answer = tokio::time::timeout(HEALTH_TIMEOUT, Client::new(socket).health()).await;
        let late = format!("no answer within {} s", HEALTH_TIMEOUT.as_secs());
        Ok(answer.context(late)??)
    })?;
    let wanted = |it: &&ServiceHealthStatus| service.is_none_or(|name| it.service == name);
    let chosen: Vec<&ServiceHealthStatus> = services.iter().filter(wanted).collect();
    if let (Some(name), true) = (service, chosen.is_empty()) {
        let names: Vec<&str> = services.iter().map(|it| it.service.as_str()).collect();
        let names = names.join(", ");
        bail!("there is no service \"{name}\"; the services are: {names}");
    }
    print(&render::health(chosen.iter().copied()))?;
    let dead = chosen.iter().find(|it| it.up == 0);
    dead.map_or(Ok(()), |it| {
        bail!("service {} has no backend that is up", it.service)
    })
}

fn pair(text: &str) -> Result<(String, u32)> {
    let (name, value) = text
        .split_once('=')
        .with_context(|| format!("\"{text}\" is not a signal; write NAME=VALUE"))?;
    let value = value.parse().with_context(|| {
        format!(
            "\"{value}\" is not a signal value; write an integer from 0 to {}",
            u32::MAX
        )
    })?;
    Ok((name.to_owned(), value))
}

/// Writes to standard output. If the reader has gone (`| head`), exits without an error.
pub(crate) fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => outcome.context("cannot write to standard output"),
    }
}

pub(crate) fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(future)
}
