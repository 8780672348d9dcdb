//! The program that the test bed runs in its namespaces: servers, and generators of load and broken frames.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use waxwing_tests::http_server::Capacity;
use waxwing_tests::inject::{self, Garbage};
use waxwing_tests::load::{self, Load};
use waxwing_tests::{http_server, moody_server, topology};

#[derive(Parser)]
#[command(about, version)]
enum Command {
    /// Serves HTTP; every answer contains the server's name.
    HttpServer {
        /// Address and port to listen on; can be repeated.
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
        /// The name in the answers.
        #[arg(long)]
        name: String,
        /// Milliseconds of work on a request.
        #[arg(long, default_value_t = 0)]
        service_ms: u32,
        /// Requests that are worked on at a time; others wait.
        #[arg(long, default_value_t = 1024)]
        places: u32,
    },
    /// Serves TCP and UDP; a file sets the behaviour (the mood).
    MoodyServer {
        /// Address and first port to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Number of consecutive ports.
        #[arg(long, default_value_t = 1)]
        ports: u16,
        /// The name in the answers.
        #[arg(long)]
        name: String,
        /// The mood file, in JSON; without it the server answers normally.
        #[arg(long)]
        mood: PathBuf,
    },
    /// Sends HTTP requests to an address and prints a line of JSON per interval;
    /// on `SIGTERM` it finishes the requests in progress and exits.
    Load {
        /// Address and port to send requests to.
        #[arg(long)]
        target: SocketAddr,
        /// Number of concurrent clients.
        #[arg(long, default_value_t = 32)]
        clients: u32,
        /// Keep connections open, instead of one connection per request.
        #[arg(long)]
        keep_alive: bool,
        /// Requests per second of all clients together; 0 means no limit.
        #[arg(long, default_value_t = 0)]
        rate: u32,
        /// Duration of the load.
        #[arg(long, default_value_t = 10_000)]
        duration_ms: u64,
        /// Time between two lines of output.
        #[arg(long, default_value_t = 100)]
        interval_ms: u64,
        /// Longest time for connecting, and for a request.
        #[arg(long, default_value_t = 5_000)]
        timeout_ms: u64,
    },
    /// Sends broken frames to the VIPs of the standard topology.
    Inject {
        /// Interface to send on.
        #[arg(long)]
        interface: String,
        /// Destination MAC address, such as 02:00:00:00:00:01.
        #[arg(long)]
        destination: String,
        /// Destination port of the frames that have one.
        #[arg(long)]
        port: u16,
        /// Number of frames.
        #[arg(long)]
        count: u32,
        /// Seed of the generator; equal seeds yield equal frames.
        #[arg(long)]
        seed: u64,
    },
}

// One thread, because the balancer under test needs the machine's processors.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::HttpServer {
            listen,
            name,
            service_ms,
            places,
        } => http_server::serve(&listen, &name, Capacity { service_ms, places }).await,
        Command::MoodyServer {
            listen,
            ports,
            name,
            mood,
        } => moody_server::serve(listen, ports, &name, &mood).await,
        Command::Load {
            target,
            clients,
            keep_alive,
            rate,
            duration_ms,
            interval_ms,
            timeout_ms,
        } => {
            let load = Load {
                target,
                clients,
                keep_alive,
                rate,
                duration: Duration::from_millis(duration_ms),
                interval: Duration::from_millis(interval_ms.max(1)),
                timeout: Duration::from_millis(timeout_ms),
            };
            let mut terminate = signal(SignalKind::terminate())?;
            let stop = async move {
                let _ = terminate.recv().await;
            };
            load::generate(load, stop, |sample| {
                let mut line = serde_json::to_vec(&sample)?;
                line.push(b'\n');
                io::stdout()
                    .write_all(&line)
                    .context("cannot write a sample to standard output")
            })
            .await
        }
        Command::Inject {
            interface,
            destination,
            port,
            count,
            seed,
        } => {
            let sources = [topology::CLIENT4, topology::CLIENT6];
            let vips = [topology::VIP4, topology::VIP6];
            let garbage = Garbage::new(mac(&destination)?, sources, vips, port, seed);
            inject::send(&interface, count, garbage)
        }
    }
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    octets
        .and_then(|octets| octets.try_into().ok())
        .with_context(|| format!("`{text}` is not a MAC address, such as 02:00:00:00:00:01"))
}
