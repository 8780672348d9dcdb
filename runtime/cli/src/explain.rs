//! `waxwing explain`: what would happen to a client's packet, and why; `waxwing session show`.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use waxwing_control::admin::client::Client;
use waxwing_control::admin::explain::Explanation;

use crate::arguments::AdminAddress;
use crate::query::{DEGRADED, print, wait};
use crate::render;

/// A client's packet.
#[derive(Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    admin: AdminAddress,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// `tcp` or `udp`.
    protocol: String,
    /// The client's address and port; an IPv6 address is in brackets.
    client: String,
    /// The VIP and its port.
    vip: String,
    /// The interface by which the packet arrives; by default that of its session, or the first that faces
    /// clients.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// The length of a large packet, which must not be fragmented; by default the interface's MTU.
    #[arg(long, value_name = "N")]
    bytes: Option<u16>,
}

/// A session.
#[derive(Args)]
pub(crate) struct SessionArguments {
    #[command(flatten)]
    admin: AdminAddress,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// `tcp` or `udp`.
    protocol: String,
    /// The client's address and port; an IPv6 address is in brackets.
    client: String,
    /// The VIP and its port.
    vip: String,
}

/// `waxwing session show`.
pub(crate) fn session(arguments: &SessionArguments) -> Result<()> {
    let SessionArguments {
        protocol,
        client,
        vip,
        ..
    } = arguments;
    let query = [("protocol", protocol), ("client", client), ("vip", vip)];
    let query = query.map(|(name, value)| (name, Some(value.clone())));
    let admin = Client::new(&arguments.admin.socket);
    let explanation: Explanation = wait(async { Ok(admin.get("/v1/explain", &query).await?) })?;
    let Some(session) = explanation.session else {
        bail!(
            "there is no session of {protocol} {client} to {vip}; `waxwing session list` shows all"
        );
    };
    let session = serde_json::to_value(session)?;
    print(&match arguments.json {
        true => serde_json::to_string_pretty(&session)? + "\n",
        false => render::tree(&session),
    })
}

/// `waxwing explain`. Exits with 3 if the packet is dropped.
pub(crate) fn explain(arguments: &ExplainArguments) -> Result<ExitCode> {
    let query = [
        ("protocol", Some(arguments.protocol.clone())),
        ("client", Some(arguments.client.clone())),
        ("vip", Some(arguments.vip.clone())),
        ("port", arguments.port.clone()),
        ("bytes", arguments.bytes.map(|bytes| bytes.to_string())),
    ];
    let client = Client::new(&arguments.admin.socket);
    let explanation: Explanation = wait(async { Ok(client.get("/v1/explain", &query).await?) })?;
    print(&match arguments.json {
        true => serde_json::to_string_pretty(&explanation)? + "\n",
        false => text(&explanation),
    })?;
    Ok(match explanation.dropped {
        None => ExitCode::SUCCESS,
        Some(_) => DEGRADED.into(),
    })
}

/// Returns the outcome, the steps, and a table of the service's backends.
fn text(explanation: &Explanation) -> String {
    let Explanation {
        protocol,
        client,
        vip,
        outcome,
        ..
    } = explanation;
    let mut out = format!("{protocol} {client} -> {vip} {outcome}\n\n");
    for step in &explanation.steps {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:9} {}", step.step, step.text);
        if let Some(reason) = &step.drops {
            let _ = writeln!(out, "{:9} DROPPED HERE: {reason}", "");
        } else if !step.may_drop.is_empty() {
            let _ = writeln!(out, "{:9} (may drop: {})", "", step.may_drop.join(", "));
        }
    }
    if explanation.backends.is_empty() {
        return out;
    }
    format!(
        "{out}\n{}",
        render::lists::candidates(&explanation.backends)
    )
}
