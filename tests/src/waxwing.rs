//! Runs the balancer in its namespace, as an operator would.
//!
//! Invariant: dropping a balancer that a test neither stopped nor killed prints its log.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::actors::built_program;
use crate::config::Config;
use crate::netns;
use crate::process::{Finished, Process};
use crate::status::Status;
use crate::topology::Topology;

/// The longest time for the balancer to serve, to end, or to reach an expected state, with a debug build on a
/// busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The environment variable with the user that the balancer of every scenario runs as; root without it.
const USER: &str = "WAXWING_TEST_USER";

/// How a file is copied to the watched folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copy {
    /// Written to a temporary file and renamed, as `install` and `rsync` do.
    Atomic,
    /// Written in place in parts, as `scp` over a slow link does.
    Slow,
}

/// A running balancer.
#[derive(Debug)]
pub struct Waxwing<'a> {
    topology: &'a Topology,
    process: Option<Process>,
    /// A command line that runs before the program.
    wrapper: Vec<String>,
    /// The user that it runs as; root if there is none.
    user: Option<String>,
    config: PathBuf,
    socket: PathBuf,
    modules: PathBuf,
}

impl<'a> Waxwing<'a> {
    /// Starts the balancer and waits until it serves.
    ///
    /// # Errors
    /// The balancer ended, or did not answer in time; the text has its log.
    pub fn start(topology: &'a Topology, config: &Config) -> Result<Self> {
        Self::start_under(topology, config, &[])
    }

    /// Like [`Waxwing::start`], as another user.
    ///
    /// # Errors
    /// As [`Waxwing::start`].
    pub fn start_as(topology: &'a Topology, config: &Config, user: Option<&str>) -> Result<Self> {
        let mut waxwing = Self::prepare(topology, config)?;
        waxwing.user = user.map(str::to_owned).or(waxwing.user.take());
        waxwing.run()?;
        waxwing.wait_ready()?;
        Ok(waxwing)
    }

    /// Like [`Waxwing::start`], by a command line (`sh -c …`) to which the program's is appended.
    ///
    /// # Errors
    /// As [`Waxwing::start`].
    pub fn start_under(topology: &'a Topology, config: &Config, wrapper: &[&str]) -> Result<Self> {
        let mut waxwing = Self::spawn_under(topology, config, wrapper)?;
        waxwing.wait_ready()?;
        Ok(waxwing)
    }

    /// Starts the balancer, and does not wait until it serves.
    ///
    /// # Errors
    /// The program has not been built.
    pub fn spawn(topology: &'a Topology, config: &Config) -> Result<Self> {
        Self::spawn_under(topology, config, &[])
    }

    fn spawn_under(topology: &'a Topology, config: &Config, wrapper: &[&str]) -> Result<Self> {
        let mut waxwing = Self::prepare(topology, config)?;
        waxwing.set_wrapper(wrapper);
        waxwing.run()?;
        Ok(waxwing)
    }

    fn prepare(topology: &'a Topology, config: &Config) -> Result<Self> {
        fs::create_dir_all(&config.modules)?;
        Ok(Self {
            topology,
            process: None,
            wrapper: Vec::new(),
            user: std::env::var(USER).ok(),
            config: topology.scratch.write("waxwing.toml", config.to_toml()?)?,
            socket: config.socket().to_owned(),
            modules: config.modules.clone(),
        })
    }

    fn run(&mut self) -> Result<()> {
        self.process = Some(self.spawn_command("run")?);
        Ok(())
    }

    /// Starts the program with this command and the config.
    fn spawn_command(&self, command_name: &str) -> Result<Process> {
        let script = every_user_may_open_tun(self.topology);
        let prefix: &[&str] = match &self.user {
            Some(_) => &["unshare", "--mount", "sh", "-c", &script],
            None => &[],
        };
        let wrapper = self.wrapper.iter().map(String::as_str);
        let wrapper: Vec<&str> = prefix.iter().copied().chain(wrapper).collect();
        let mut command = self.topology.balancer_command(&wrapper)?;
        command.args([command_name, "--config"]).arg(&self.config);
        if let Some(user) = &self.user {
            command.args(["--user", user]);
        }
        Process::spawn("waxwing", &command)
    }

    /// Replaces the command line of [`Waxwing::start_under`] for later processes.
    pub fn set_wrapper(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
    }

    /// Starts a process that is to take over from the running one.
    pub fn start_upgrade(&self) -> Result<Process> {
        self.spawn_command("upgrade")
    }

    /// Has another process take over, and waits until the old one has ended. Returns both logs, the old one's
    /// first.
    ///
    /// # Errors
    /// The new one does not serve, or the old one fails.
    pub fn upgrade(&mut self) -> Result<[String; 2]> {
        let mut new = self.start_upgrade()?;
        let deadline = Instant::now() + TIMEOUT;
        while !new.stderr().contains("serving after") {
            if let Some(status) = new.try_wait()? {
                bail!("the new process ended ({status}): {}", new.stderr());
            }
            ensure!(
                Instant::now() < deadline,
                "it does not serve: {}",
                new.stderr()
            );
            thread::sleep(Duration::from_millis(10));
        }
        let log = new.stderr();
        let old = self
            .process
            .replace(new)
            .context("the balancer is not running")?;
        let finished = old.finish(TIMEOUT)?;
        ensure!(
            finished.status.success(),
            "the old one failed: {}",
            finished.stderr
        );
        Ok([finished.stderr, log])
    }

    /// Exchanges the running process for another one, which it returns.
    pub fn replace(&mut self, process: Process) -> Option<Process> {
        self.process.replace(process)
    }

    /// Restarts the balancer after [`Waxwing::kill`], and returns the time until it serves.
    pub fn restart(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.run()?;
        self.wait_ready()?;
        Ok(begun.elapsed())
    }

    /// Waits until the balancer serves.
    ///
    /// # Errors
    /// The balancer ended, or did not answer in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let error = match self.status() {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let process = self
                .process
                .as_mut()
                .context("the balancer was not started")?;
            if let Some(status) = process.try_wait()? {
                bail!("the balancer ended at its start ({status})");
            }
            if Instant::now() >= deadline {
                bail!("the balancer is not ready after {TIMEOUT:?}: {error:#}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts another balancer on the same ports, with an admin socket of its own.
    ///
    /// # Errors
    /// It ran, or did not name this one, or told to take this one's program off.
    pub fn start_second(&self, config: &Config) -> Result<()> {
        let text = config.to_toml()?.replace("waxwing.sock", "second.sock");
        let path = self.topology.scratch.write("second.toml", text)?;
        let mut command = self.topology.balancer_command(&[])?;
        command.args(["run", "--config"]).arg(path);
        let finished = Process::spawn("waxwing", &command)?.finish(TIMEOUT)?;
        let (status, said) = (finished.status, finished.stderr);
        ensure!(!status.success(), "a second balancer ran on the same ports");
        let pid = &self.status()?.0["pid"];
        for part in [
            "interface front",
            &format!("waxwing is running on it already (pid {pid})"),
        ] {
            ensure!(said.contains(part), "it does not say {part:?}: {said}");
        }
        ensure!(
            !said.contains("xdp off"),
            "it recommends to stop the first one's traffic: {said}"
        );
        Ok(())
    }

    /// Runs a command against the running balancer (`status`, `reload`, …).
    pub fn ask(&self, args: &[&str]) -> Result<Finished> {
        let mut command = self.topology.balancer.command(built_program("waxwing")?);
        command.args(args).arg("--socket").arg(&self.socket);
        Process::spawn("waxwing", &command)?.finish(TIMEOUT)
    }

    /// Returns what each thread does; see [`Process::threads`].
    #[must_use]
    pub fn threads(&self) -> String {
        let threads = self.process.as_ref().map(Process::threads);
        threads.unwrap_or_else(|| "none, it does not run".to_owned())
    }

    /// Returns the output of `waxwing status --json`.
    pub fn status(&self) -> Result<Status> {
        let finished = self.ask(&["status", "--json"])?;
        // 3: there is a problem.
        ensure!(
            matches!(finished.status.code(), Some(0 | 3)),
            "`waxwing status` failed: {}",
            finished.stderr.trim()
        );
        serde_json::from_str(&finished.stdout)
            .map(Status)
            .with_context(|| format!("`waxwing status --json` wrote no JSON: {}", finished.stdout))
    }

    /// Waits for a status, for at most a minute, and returns it.
    ///
    /// # Errors
    /// The minute is over; the text has the last status.
    pub fn wait_status(&self, what: &str, is: impl Fn(&Status) -> bool) -> Result<Status> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status = self.status()?;
            if is(&status) {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "waited {TIMEOUT:?} for {what}; status: {status}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Replaces the config file, by renaming, without a reload.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let next = self.topology.scratch.write("waxwing.toml.next", text)?;
        fs::rename(next, &self.config).context("cannot replace the config")
    }

    /// Replaces the config file and runs `waxwing reload`. Returns what it says.
    pub fn reload(&self, config: &Config) -> Result<String> {
        self.write_config(&config.to_toml()?)?;
        let finished = self.ask(&["reload"])?;
        ensure!(
            finished.status.success(),
            "`waxwing reload` failed: {}",
            finished.stderr.trim()
        );
        Ok(finished.stdout)
    }

    /// Returns whether the balancer has ended.
    ///
    /// # Errors
    /// `waitpid` fails.
    pub fn has_ended(&mut self) -> Result<bool> {
        let ended = self.process.as_mut().map(Process::try_wait).transpose()?;
        Ok(ended.flatten().is_some())
    }

    /// Sends the balancer a signal.
    ///
    /// # Errors
    /// The balancer has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process
            .as_mut()
            .context("the balancer is not running")?
            .signal(signal)
    }

    /// Copies a file to the watched folder.
    pub fn drop_in(&self, file: &str, bytes: &[u8], copy: Copy) -> Result<()> {
        let target = self.modules.join(file);
        match copy {
            Copy::Atomic => {
                let beside = self.modules.join(format!(".{file}.part"));
                fs::write(&beside, bytes)?;
                fs::rename(beside, target)?;
            }
            Copy::Slow => {
                let mut file = fs::File::create(target)?;
                for piece in bytes.chunks(bytes.len().div_ceil(10).max(1)) {
                    file.write_all(piece)?;
                    thread::sleep(Duration::from_millis(30));
                }
            }
        }
        Ok(())
    }

    /// Returns the balancer's output so far.
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, |p| p.stdout() + &p.stderr())
    }

    /// Waits for a text in the log, for at most a minute.
    ///
    /// # Errors
    /// The minute is over.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !self.log().contains(text) {
            ensure!(
                Instant::now() < deadline,
                "waited {TIMEOUT:?} for `{text}` in the log"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills the balancer (`SIGKILL`), as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Waits for the end of a balancer that was told to end before it served, and asserts that it succeeded
    /// and left no XDP program. Returns the log.
    ///
    /// # Errors
    /// One of these assertions fails.
    pub fn finish_start(mut self) -> Result<String> {
        let process = self.process.take().context("the balancer is not running")?;
        let finished = process.finish(TIMEOUT)?;
        let log = finished.stdout + &finished.stderr;
        ensure!(finished.status.success(), "it failed at its end: {log}");
        self.assert_no_xdp()?;
        Ok(log)
    }

    /// Stops the balancer (`SIGTERM`) and asserts a clean end: exit code 0, every frame accounted for, and no
    /// XDP program left on any port. Returns the log.
    ///
    /// # Errors
    /// One of these assertions fails.
    pub fn stop(mut self) -> Result<String> {
        let finished = self.end()?;
        let log = finished.stdout + &finished.stderr;
        let verdict = self
            .assert_clean_end(finished.status.success())
            .and_then(|()| assert_frames_accounted(&log, self.topology.layout().queues));
        if verdict.is_err() {
            eprintln!("--- log of the balancer:\n{log}---");
        }
        verdict.map(|()| log)
    }

    /// Like [`Waxwing::stop`], for a balancer whose log goes elsewhere: without its account of frames.
    ///
    /// # Errors
    /// As [`Waxwing::stop`].
    pub fn stop_without_log(mut self) -> Result<()> {
        let finished = self.end()?;
        self.assert_clean_end(finished.status.success())
    }

    fn end(&mut self) -> Result<Finished> {
        self.signal(Signal::SIGTERM)?;
        let process = self.process.take().context("the balancer is not running")?;
        process.finish(TIMEOUT)
    }

    fn assert_clean_end(&self, success: bool) -> Result<()> {
        ensure!(success, "the balancer failed at its end");
        self.assert_no_xdp()
    }

    fn assert_no_xdp(&self) -> Result<()> {
        for port in self.topology.ports() {
            ensure!(
                !self.topology.balancer.has_xdp(port)?,
                "{port} still has an XDP program"
            );
        }
        Ok(())
    }
}

/// Returns a shell's script that runs its arguments with a `/dev/net/tun` as udev makes it; a machine without
/// udev has one that only root may open.
fn every_user_may_open_tun(topology: &Topology) -> String {
    let tun = topology.scratch.path().join("tun");
    let tun = tun.display();
    format!(
        "[ -e {tun} ] || mknod -m 666 {tun} c 10 200; mount --bind {tun} /dev/net/tun; exec \"$0\" \"$@\""
    )
}

impl Drop for Waxwing<'_> {
    fn drop(&mut self) {
        if self.process.is_some() && !netns::is_ending() {
            eprintln!(
                "--- log of the balancer, which was not stopped:\n{}---",
                self.log()
            );
        }
    }
}

/// Asserts that each worker accounted for all of its frames when it ended: in the pool, the rings and the
/// kernel.
fn assert_frames_accounted(log: &str, workers: u32) -> Result<()> {
    let accounts = log.lines().filter(|line| line.contains("ended, frames:"));
    let good = accounts
        .clone()
        .filter(|line| line.contains("frames: all accounted for"));
    let (accounts, good) = (accounts.count(), good.count());
    ensure!(
        accounts == good && accounts == workers as usize,
        "of {workers} workers, {accounts} counted their frames and {good} accounted for all of them"
    );
    Ok(())
}
