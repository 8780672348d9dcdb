//! `waxwing capture` and `waxwing trace`: packets as they came and as they left.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::time::timeout;
use waxwing_control::admin::capture::TracedPacket;
use waxwing_control::admin::client::Client;

use crate::arguments::{AdminAddress, OnlyServices};
use crate::query::{print, wait};

/// Which packets, and how long.
#[derive(Args)]
pub(crate) struct PacketArguments {
    #[command(flatten)]
    admin: AdminAddress,
    #[command(flatten)]
    only: OnlyServices,
    /// Only from or to this client, or clients in this network: 198.51.100.0/24.
    #[arg(long, value_name = "NETWORK")]
    client: Option<String>,
    /// Only of the backend with this name or endpoint.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only packets that are dropped.
    #[arg(long)]
    drops: bool,
    /// Only packets that open a session.
    #[arg(long)]
    new: bool,
    /// Ends after so many packets.
    #[arg(long, short = 'c', value_name = "N")]
    packets: Option<u64>,
    /// Ends after so long, such as 10s; by default at Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
}

#[derive(Args)]
pub(crate) struct CaptureArguments {
    #[command(flatten)]
    of: PacketArguments,
    /// The file, in pcapng format; `-` for standard output.
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// The most bytes of each frame.
    #[arg(long, value_name = "N")]
    bytes: Option<usize>,
}

#[derive(Args)]
pub(crate) struct TraceArguments {
    #[command(flatten)]
    of: PacketArguments,
    /// Prints JSON, one packet per line.
    #[arg(long)]
    json: bool,
}

impl PacketArguments {
    fn query(&self, format: &str, bytes: Option<usize>) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("service", self.only.services.clone()),
            ("client", self.client.clone()),
            ("backend", self.backend.clone()),
            ("dropped", Some(self.drops.to_string())),
            ("new", Some(self.new.to_string())),
            ("packets", self.packets.map(|packets| packets.to_string())),
            ("bytes", bytes.map(|bytes| bytes.to_string())),
            ("format", Some(format.to_owned())),
        ]
    }
}

/// Runs for this time at most. Returns `None` if it is over.
async fn within<T>(
    time: Option<Duration>,
    run: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    match time {
        Some(time) => timeout(time, run).await.ok().transpose(),
        None => run.await.map(Some),
    }
}

/// Writes the file, which is whole after each part that arrives.
pub(crate) fn capture(arguments: &CaptureArguments) -> Result<()> {
    let CaptureArguments { of, write, bytes } = arguments;
    let mut out: Box<dyn io::Write> = match write.as_os_str() == "-" {
        true => Box::new(io::stdout()),
        false => {
            let file = File::create(write);
            Box::new(file.with_context(|| format!("cannot write {}", write.display()))?)
        }
    };
    wait(async {
        let query = of.query("pcapng", *bytes);
        let mut parts = Client::new(&of.admin.socket)
            .parts("/v1/capture", &query)
            .await?;
        let copied = within(of.time, async {
            while let Some(part) = parts.next().await? {
                out.write_all(&part).context("cannot write the packets")?;
                out.flush().context("cannot write the packets")?;
            }
            Ok(())
        });
        copied.await.map(drop)
    })
}

/// Prints a line for each packet.
pub(crate) fn trace(arguments: &TraceArguments) -> Result<()> {
    let TraceArguments { of, json } = arguments;
    wait(async {
        let query = of.query("json", None);
        let client = Client::new(&of.admin.socket);
        let mut packets = client.lines::<TracedPacket>("/v1/capture", &query).await?;
        let printed = within(of.time, async {
            while let Some((line, packet)) = packets.next().await? {
                print(&match json {
                    true => line + "\n",
                    false => traced(&packet),
                })?;
            }
            Ok(())
        });
        printed.await.map(drop)
    })
}

/// Returns a packet's lines: how it came, what became of it, and how it left.
fn traced(packet: &TracedPacket) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(packet.at_us);
    let at = humantime::format_rfc3339_micros(at);
    let arrived = &packet.arrived;
    let mut what = vec![match &packet.dropped {
        Some(reason) => format!("DROPPED: {reason}"),
        None => packet.outcome.clone(),
    }];
    what.extend(packet.opens.then(|| "opens a session".to_owned()));
    what.extend(packet.service.iter().map(|it| format!("service {it}")));
    what.extend(packet.backend.iter().map(|it| format!("backend {it}")));
    what.extend(packet.phase.clone());
    let mut text = format!(
        "{at} {} {} ({} bytes): {}\n",
        arrived.port,
        arrived.text,
        arrived.bytes,
        what.join(", ")
    );
    for frame in &packet.left {
        text += &format!(
            "    to {} {} ({} bytes)\n",
            frame.port, frame.text, frame.bytes
        );
    }
    text
}
