//! The commands that talk to a running balancer.

use std::future::Future;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use waxwing_control::admin::client::Client;
use waxwing_control::admin::requests::{
    AddBackend, KillSessions, LiftQuarantine, RemoveBackend, RollBack, SetBackend, SetWeight,
};
use waxwing_control::admin::resources::{ConfigDiff, ConfigItem};
use waxwing_control::admin::signals::SetSignals;
use waxwing_control::admin::status::Availability;
use waxwing_control::health::AdminState;

use crate::arguments::{
    AdminAddress, EventsArguments, KillArguments, OneBackend, SessionsArguments,
};
use crate::render;

/// The exit code of a balancer that serves although something is wrong. An error's is 1, a wrong command
/// line's 2.
pub(crate) const DEGRADED: u8 = 3;

/// `waxwing status`. The exit code says whether there is a problem.
pub(crate) fn status(socket: &Path, json: bool, services: Option<&str>) -> Result<ExitCode> {
    let status = wait(async { Ok(Client::new(socket).status(services).await?) })?;
    let text = if json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        render::status(&status)
    };
    print(&text)?;
    Ok(match status.problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => DEGRADED.into(),
    })
}

/// Sessions in one table. A table is held in memory until it is printed.
const SESSIONS_PER_TABLE: usize = 1000;

/// `waxwing session list`.
pub(crate) fn sessions(arguments: SessionsArguments) -> Result<()> {
    let SessionsArguments {
        admin,
        json,
        only,
        client,
        backend,
        phase,
        limit,
    } = arguments;
    let query = [
        ("service", only.services),
        ("client", client),
        ("backend", backend),
        ("phase", phase),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    wait(async {
        let mut sessions = Client::new(&admin.socket).sessions(&query).await?;
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

/// `waxwing event list`.
pub(crate) fn events(arguments: EventsArguments) -> Result<()> {
    let EventsArguments {
        admin,
        json,
        follow,
        severity,
        area,
        after,
    } = arguments;
    let query = [
        ("after", Some(after.to_string())),
        ("severity", severity),
        ("area", area),
        ("follow", Some(follow.to_string())),
    ];
    wait(async {
        let mut events = Client::new(&admin.socket).events(&query).await?;
        while let Some((line, event)) = events.next().await? {
            match json {
                true => print(&(line + "\n"))?,
                false => print(&render::event(&event))?,
            }
        }
        Ok(())
    })
}

/// `waxwing config show`: the config in effect, as it was read.
pub(crate) fn config(socket: &Path) -> Result<()> {
    let config: ConfigItem = wait(async { Ok(Client::new(socket).get("/v1/config", &[]).await?) })?;
    print(&config.text)
}

/// `waxwing config diff`: what a reload would change. The exit code says whether it would be refused.
pub(crate) fn config_diff(socket: &Path) -> Result<ExitCode> {
    let client = Client::new(socket);
    let diff: ConfigDiff = wait(async { Ok(client.get("/v1/config/diff", &[]).await?) })?;
    if let Some(errors) = diff.errors {
        anyhow::bail!("{errors}");
    }
    print(&format!("{}\n", diff.changes))?;
    if diff.needs_restart.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!(
        "only at a start: {}\n",
        diff.needs_restart.join(", ")
    ))?;
    Ok(DEGRADED.into())
}

/// `waxwing config validate`: what a file would change, or all that is wrong with it.
pub(crate) fn validate(socket: &Path, file: &Path) -> Result<()> {
    let text = read(file)?;
    print(&wait(async {
        Ok(Client::new(socket).validate(text).await?)
    })?)
}

/// `waxwing config apply`: puts a file's text into effect, in place of the config's.
pub(crate) fn apply(socket: &Path, file: &Path, etag: Option<String>) -> Result<()> {
    let (text, client) = (read(file)?, Client::new(socket));
    let applied = wait(async {
        let etag = match etag {
            Some(etag) => etag,
            None => client.get::<ConfigItem>("/v1/config", &[]).await?.etag,
        };
        Ok(client.apply(text, &etag).await?)
    })?;
    print(&applied)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// `waxwing reload`.
pub(crate) fn reload(socket: &Path) -> Result<()> {
    let text = wait(async { Ok(Client::new(socket).reload().await?) })?;
    print(&text)
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
    change(&admin.socket, "/v1/signals", &request)
}

/// Asks for a change and prints the answer.
fn change(socket: &Path, path: &str, request: &impl Serialize) -> Result<()> {
    let text = wait(async { Ok(Client::new(socket).change(path, request).await?) })?;
    print(&text)
}

/// `waxwing backend weight`; `None`: the config's.
pub(crate) fn set_weight(which: OneBackend, weight: Option<u32>) -> Result<()> {
    let OneBackend {
        admin,
        service,
        backend,
    } = which;
    let request = SetWeight {
        service,
        backend,
        weight,
    };
    change(&admin.socket, "/v1/backends/weight", &request)
}

/// `waxwing backend add`.
pub(crate) fn add_backend(admin: &AdminAddress, request: &AddBackend) -> Result<()> {
    change(&admin.socket, "/v1/backends/add", request)
}

/// `waxwing backend remove`.
pub(crate) fn remove_backend(which: OneBackend) -> Result<()> {
    let OneBackend {
        admin,
        service,
        backend,
    } = which;
    let request = RemoveBackend { service, backend };
    change(&admin.socket, "/v1/backends/remove", &request)
}

/// `waxwing backend drain`, `disable` and `enable`.
pub(crate) fn set_backend(
    which: OneBackend,
    state: AdminState,
    within: Option<Duration>,
) -> Result<()> {
    let OneBackend {
        admin,
        service,
        backend,
    } = which;
    let request = SetBackend {
        service,
        backend,
        state,
        within_s: within.map(|within| within.as_secs()),
    };
    change(&admin.socket, "/v1/backends", &request)
}

/// `waxwing session kill`.
pub(crate) fn kill(arguments: KillArguments) -> Result<()> {
    let KillArguments {
        admin,
        only,
        client,
        backend,
        phase,
    } = arguments;
    let request = KillSessions {
        service: only.services,
        client,
        backend,
        phase,
    };
    change(&admin.socket, "/v1/sessions/kill", &request)
}

/// `waxwing module rollback`.
pub(crate) fn roll_back(socket: &Path, module: &str) -> Result<()> {
    let module = module.to_owned();
    change(socket, "/v1/modules/rollback", &RollBack { module })
}

/// `waxwing module lift`.
pub(crate) fn lift(socket: &Path, module: &str, hash: &str) -> Result<()> {
    let request = LiftQuarantine {
        module: module.to_owned(),
        hash: hash.to_owned(),
    };
    change(socket, "/v1/modules/lift", &request)
}

/// How long `waxwing health` waits for the balancer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// `waxwing health`. The exit code is the answer.
pub(crate) fn health(socket: &Path, json: bool, services: Option<&str>) -> Result<ExitCode> {
    let health = wait(async {
        let client = Client::new(socket);
        let answer = tokio::time::timeout(HEALTH_TIMEOUT, client.health(services)).await;
        let late = format!("no answer within {} s", HEALTH_TIMEOUT.as_secs());
        Ok(answer.context(late)??)
    })?;
    let text = if json {
        serde_json::to_string_pretty(&health)? + "\n"
    } else {
        render::health(&health)
    };
    print(&text)?;
    Ok(match health.state {
        Availability::Ok => ExitCode::SUCCESS,
        Availability::Degraded => DEGRADED.into(),
        Availability::Down => ExitCode::FAILURE,
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
