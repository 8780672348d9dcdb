//! Starts servers (our own, nginx, iperf3) and load generators in namespaces.
//!
//! Invariant: a function that starts a server returns when the server accepts connections.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::http_server::Capacity;
use crate::load::{Load, Sample, Tally};
use crate::netns::Namespace;
use crate::process::{Finished, Process};
use crate::topology::Topology;

/// The longest time for a server to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a load may take beyond its duration and timeouts.
const LOAD_GRACE: Duration = Duration::from_secs(10);

/// Returns the path of a program of this workspace: that in `<NAME>_BIN` (`WAXWING_BIN`), otherwise the one
/// beside the running program.
pub fn built_program(name: &str) -> Result<PathBuf> {
    let variable = format!("{}_BIN", name.replace('-', "_").to_uppercase());
    if let Some(path) = std::env::var_os(&variable) {
        return Ok(path.into());
    }
    let current = std::env::current_exe().context("the running program has no path")?;
    let beside = current
        .ancestors()
        // Tests run from `deps/`, one below the programs.
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    beside.with_context(|| {
        format!(
            "no program `{name}` beside {}; build it (`cargo build --bin {name}`) or set {variable}",
            current.display()
        )
    })
}

/// Returns the datagrams that arrived at a host, also those for which a socket had no room: after a silence
/// they come all at once.
pub fn datagrams_arrived(host: &Namespace) -> Result<u64> {
    let counters = host.run("cat", &["/proc/net/snmp"])?;
    let mut lines = counters.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = lines.next().zip(lines.next()).context("no counters")?;
    let counted = names.split(' ').zip(values.split(' '));
    let wanted = counted.filter(|(name, _)| ["InDatagrams", "RcvbufErrors"].contains(name));
    Ok(wanted
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum())
}

/// Starts our HTTP server on every server of a topology, named `1`, `2`, .., on both families.
pub fn http_servers(topology: &Topology, port: u16) -> Result<Vec<Process>> {
    (1..)
        .zip(&topology.servers)
        .map(|(number, server)| http_server(server, port, &format!("{number}")))
        .collect()
}

/// Starts our HTTP server in a namespace, on both families.
pub fn http_server(namespace: &Namespace, port: u16, name: &str) -> Result<Process> {
    slow_http_server(namespace, port, name, Capacity::default())
}

/// As [`http_server`], with a bounded capacity.
pub fn slow_http_server(
    namespace: &Namespace,
    port: u16,
    name: &str,
    capacity: Capacity,
) -> Result<Process> {
    let listen = format!("[::]:{port}");
    let [service_ms, places] = [capacity.service_ms, capacity.places].map(|it| it.to_string());
    let program = built_program("waxwing-testbed")?;
    let arguments = ["http-server", "--listen", &listen, "--name", name];
    let capacity = ["--service-ms", &service_ms, "--places", &places];
    let mut server = namespace.spawn(program, &[&arguments[..], &capacity].concat())?;
    wait_for("the HTTP server to listen", &mut server, |server| {
        Ok(server.stdout().contains("ready"))
    })?;
    Ok(server)
}

/// Starts nginx on server `number` (from 1) of a topology. `/` returns the server's name, like our own
/// servers; `/data` is `data_bytes` bytes, `/slow/data` the same bytes at 500 kB/s.
pub fn nginx(topology: &Topology, number: u8, port: u16, data_bytes: usize) -> Result<Process> {
    let directory = topology.scratch.path().join(format!("nginx{number}"));
    std::fs::create_dir_all(directory.join("www"))?;
    // Bytes depend on their position, so that a misplaced segment shows.
    let data: Vec<u8> = (0..data_bytes)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0])
        .collect();
    std::fs::write(directory.join("www/data"), data)?;
    let root = directory.display();
    let config = format!(
        "daemon off; worker_processes 1; user root; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; keepalive_requests 1000000; default_type text/plain;\n\
           client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;\n\
           uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
           server {{\n\
             listen {port} backlog=4096; listen [::]:{port} backlog=4096;\n\
             location = / {{ return 200 \"server={number}\\n\"; }}\n\
             location / {{ root {root}/www; }}\n\
             location /slow/ {{ alias {root}/www/; limit_rate 500k; }}\n\
           }}\n\
         }}\n"
    );
    let config = topology
        .scratch
        .write(&format!("nginx{number}/nginx.conf"), config)?;
    let config = config
        .to_str()
        .context("the scratch directory's path is text")?;
    let namespace = &topology.servers[usize::from(number) - 1];
    let mut server = namespace.spawn("nginx", &["-c", config])?;
    wait_listening(namespace, &mut server, port)?;
    Ok(server)
}

/// Starts nginx on every server of a topology, each with the same data: see [`nginx`].
pub fn nginx_servers(topology: &Topology, port: u16, data_bytes: usize) -> Result<Vec<Process>> {
    (1..=topology.layout().servers)
        .map(|number| nginx(topology, number, port, data_bytes))
        .collect()
}

/// Starts iperf3's server in a namespace.
pub fn iperf3_server(namespace: &Namespace, port: u16) -> Result<Process> {
    let mut server = namespace.spawn("iperf3", &["-s", "-p", &port.to_string()])?;
    wait_listening(namespace, &mut server, port)?;
    Ok(server)
}

/// Waits until a server listens on a TCP port.
///
/// # Errors
/// The server ended, or took longer than 10 s.
pub fn wait_listening(namespace: &Namespace, server: &mut Process, port: u16) -> Result<()> {
    wait_for("the server to listen", server, |_| {
        let filter = format!("sport = :{port}");
        Ok(!namespace.run("ss", &["-Hltn", &filter])?.is_empty())
    })
}

/// Waits until `is_done`, while `process` lives, for at most 10 s.
///
/// # Errors
/// The process ended, the time is over, or `is_done` failed.
pub fn wait_for(
    what: &str,
    process: &mut Process,
    is_done: impl Fn(&Process) -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    while !is_done(process)? {
        if let Some(status) = process.try_wait()? {
            bail!(
                "waited for {what}, but it ended ({status}):\n{}",
                process.stderr()
            );
        }
        ensure!(
            Instant::now() < deadline,
            "waited {START_TIMEOUT:?} for {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A load generator that runs in a namespace.
#[derive(Debug)]
pub struct RunningLoad {
    process: Process,
    load: Load,
}

impl RunningLoad {
    /// Starts a load generator.
    pub fn start(client: &Namespace, load: Load) -> Result<Self> {
        let ms = |duration: Duration| duration.as_millis().to_string();
        let mut command = client.command(built_program("waxwing-testbed")?);
        command.arg("load");
        command.args(["--target", &load.target.to_string()]);
        command.args(["--clients", &load.clients.to_string()]);
        command.args(["--rate", &load.rate.to_string()]);
        command.args(["--duration-ms", &ms(load.duration)]);
        command.args(["--interval-ms", &ms(load.interval)]);
        command.args(["--timeout-ms", &ms(load.timeout)]);
        if load.keep_alive {
            command.arg("--keep-alive");
        }
        Ok(Self {
            process: Process::spawn("load generator", &command)?,
            load,
        })
    }

    /// Returns the samples since the last call.
    pub fn take_samples(&mut self) -> Result<Vec<Sample>> {
        self.process
            .take_lines()
            .iter()
            .map(|line| sample(line))
            .collect()
    }

    /// Stops the load early: the generator starts no more requests.
    ///
    /// # Errors
    /// The generator has ended.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    /// Whether the generator has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Waits for the generator's end and returns the sum of all samples, including those returned earlier.
    ///
    /// # Errors
    /// The generator failed, or did not end in time.
    pub fn finish(self) -> Result<Tally> {
        let limit = self.load.duration + 2 * self.load.timeout + LOAD_GRACE;
        let finished = self.process.finish(limit)?;
        ensure!(
            finished.status.success(),
            "the load generator failed: {}",
            finished.stderr
        );
        let mut tally = Tally::default();
        for line in finished.stdout.lines() {
            tally.add(&sample(line)?);
        }
        Ok(tally)
    }
}

/// Runs a load generator in a namespace and returns the sum of its samples.
pub fn load(client: &Namespace, load: Load) -> Result<Tally> {
    RunningLoad::start(client, load)?.finish()
}

/// Returns the number of answered requests in wrk's report.
///
/// # Errors
/// wrk failed, or a request was lost, or an answer's status was not 2xx.
pub fn wrk_requests(wrk: &Finished) -> Result<u64> {
    let report = &wrk.stdout;
    ensure!(wrk.status.success(), "wrk failed: {}{report}", wrk.stderr);
    ensure!(
        !report.contains("Socket errors"),
        "requests were lost:\n{report}"
    );
    ensure!(
        !report.contains("Non-2xx"),
        "requests were answered with errors:\n{report}"
    );
    let requests = report
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok())
        .with_context(|| format!("wrk gave no count:\n{report}"))?;
    ensure!(requests > 0, "wrk got no answer at all:\n{report}");
    Ok(requests)
}

/// Returns a moderate load of new connections.
pub fn connections(address: IpAddr, port: u16, duration: Duration) -> Load {
    Load {
        target: SocketAddr::new(address, port),
        clients: 16,
        keep_alive: false,
        rate: 0,
        duration,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
    }
}

fn sample(line: &str) -> Result<Sample> {
    serde_json::from_str(line).with_context(|| format!("not a sample of load: {line}"))
}
