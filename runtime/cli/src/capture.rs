//! `waxwing capture` and `waxwing trace`: packets as they came and as they left.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use clap::Args;
use waxwing_control::admin::capture::{Missed, TraceLine, TracedPacket};
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
            ("for_ms", self.time.map(|time| time.as_millis().to_string())),
            ("bytes", bytes.map(|bytes| bytes.to_string())),
            ("format", Some(format.to_owned())),
        ]
    }
}

/// A pcapng block's length is behind its type, in the byte order of the balancer (little-endian).
const LENGTH_AT: std::ops::Range<usize> = 4..8;

/// Takes the whole blocks off the start of what has arrived.
fn take_blocks(arrived: &mut Vec<u8>) -> Vec<u8> {
    let mut whole = 0;
    while let Some(len) = arrived[whole..]
        .get(LENGTH_AT)
        .and_then(|len| len.try_into().ok())
    {
        let end = whole + u32::from_le_bytes(len).max(12) as usize;
        if end > arrived.len() {
            break;
        }
        whole = end;
    }
    arrived.drain(..whole).collect()
}

/// Writes the file block by block, so that it can be read whenever this ends.
pub(crate) fn capture(arguments: &CaptureArguments) -> Result<()> {
    let CaptureArguments { of, write, bytes } = arguments;
    wait(async {
        let query = of.query("pcapng", *bytes);
        let mut parts = Client::new(&of.admin.socket)
            .parts("/v1/capture", &query)
            .await?;
        // Only now: a file that is there stays if the balancer refuses.
        let mut out: Box<dyn io::Write> = match write.as_os_str() == "-" {
            true => Box::new(io::stdout()),
            false => {
                let file = File::create(write);
                Box::new(file.with_context(|| format!("cannot write {}", write.display()))?)
            }
        };
        let mut arrived = Vec::new();
        while let Some(part) = parts.next().await? {
            arrived.extend(part);
            out.write_all(&take_blocks(&mut arrived))
                .context("cannot write the packets")?;
            out.flush().context("cannot write the packets")?;
        }
        Ok(())
    })
}

/// Prints a line for each packet, how many were missed, and whether there was none.
pub(crate) fn trace(arguments: &TraceArguments) -> Result<()> {
    let TraceArguments { of, json } = arguments;
    wait(async {
        let query = of.query("json", None);
        let client = Client::new(&of.admin.socket);
        let mut lines = client.lines::<TraceLine>("/v1/capture", &query).await?;
        let (mut told, mut is_silent) = (0, true);
        while let Some((line, what)) = lines.next().await? {
            is_silent &= !matches!(what, TraceLine::Packet(_));
            match what {
                TraceLine::Packet(_) if *json => print(&(line + "\n"))?,
                TraceLine::Packet(packet) => print(&traced(&packet))?,
                TraceLine::Missed(Missed { missed }) if missed > told => {
                    told = missed;
                    // Nothing is left to do if standard error cannot be written.
                    let _ = writeln!(io::stderr(), "{missed} packets were missed so far");
                }
                TraceLine::Missed(_) => {}
            }
        }
        if is_silent {
            let what = match of.drops || of.new {
                true => "no such packet came in this time",
                false => "nothing of it arrives here: if it is sent, the cause is on its way",
            };
            let _ = writeln!(io::stderr(), "{what}");
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_are_written() {
        let block = |len: u32| {
            let mut block = vec![7; len as usize];
            block[LENGTH_AT].copy_from_slice(&len.to_le_bytes());
            block
        };
        let file = [block(28), block(12), block(100)].concat();
        for part in [1, 5, 7, 28, 30, 200] {
            let (mut arrived, mut written) = (Vec::new(), Vec::new());
            for part in file.chunks(part) {
                arrived.extend(part);
                written.extend(take_blocks(&mut arrived));
                assert!(
                    [0, 28, 40, 140].contains(&written.len()),
                    "{}",
                    written.len()
                );
            }
            assert!(arrived.is_empty() && written == file);
        }
        assert!(take_blocks(&mut vec![0; 11]).is_empty());
    }
}
