//! A container with a real systemd as its first process, in a namespace of a [`crate::Topology`].
//!
//! Invariant: dropping a container ends it and all of its processes, and its files go with the scratch folder
//! that they lie in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::netns::Namespace;
use crate::process::{Finished, Process, run};
use crate::scratch::Scratch;

/// The longest time for a start, a stop, and a command inside.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a service may be given beyond what a container has by itself.
const CAPABILITIES: &str = "CAP_NET_ADMIN,CAP_NET_RAW,CAP_IPC_LOCK,CAP_BPF,CAP_PERFMON";

/// Why no container can run here, if so.
#[must_use]
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a container needs root".to_owned());
    }
    let tool = Path::new("/usr/bin/systemd-nspawn");
    if !tool.exists() {
        return Some("no systemd-nspawn (package systemd-container)".to_owned());
    }
    match system() {
        Ok(archive) if archive.is_file() => None,
        Ok(archive) => Some(format!(
            "no {}; `cargo xtask test package` makes it",
            archive.display()
        )),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// The archive of the container's system, which `cargo xtask test package` makes.
fn system() -> Result<PathBuf> {
    Ok(crate::modules::target_dir()?.join("container/root.tar"))
}

/// A running container.
#[derive(Debug)]
pub struct Container {
    /// `None` once it has been told to end.
    process: Option<Process>,
    root: PathBuf,
    /// The id of its first process, as this host sees it.
    first: u32,
}

impl Container {
    /// Boots a container in a network namespace, and waits until its systemd has started everything.
    ///
    /// # Errors
    /// It does not start in time.
    pub fn boot(namespace: &Namespace, scratch: &Scratch) -> Result<Self> {
        let root = scratch.path().join("root");
        fs::create_dir(&root)?;
        let mut unpack = Command::new("tar");
        unpack.arg("--extract").arg("--file").arg(system()?);
        run(unpack.arg("--directory").arg(&root))?;
        // As udev makes it; a host without udev has one that only root may open.
        let tun = scratch.path().join("tun");
        let mut make = Command::new("mknod");
        run(make.args(["--mode=666"]).arg(&tun).args(["c", "10", "200"]))?;

        let mut nspawn = Command::new("systemd-nspawn");
        nspawn
            .args([
                "--boot",
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--console=pipe",
            ])
            .args([
                "--link-journal=no",
                "--system-call-filter=bpf perf_event_open",
            ])
            .arg(format!("--machine={}", namespace.name()))
            .arg(format!("--capability={CAPABILITIES}"))
            .arg(format!("--directory={}", root.display()))
            .arg(format!("--bind={}:/dev/net/tun", tun.display()))
            .arg(format!(
                "--network-namespace-path=/run/netns/{}",
                namespace.name()
            ))
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
        let process = Process::spawn("systemd-nspawn", &nspawn)?;
        let mut container = Self {
            process: Some(process),
            root,
            first: 0,
        };
        container.wait_booted()?;
        Ok(container)
    }

    fn wait_booted(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let process = self.process.as_mut().context("it was ended")?;
            if let Some(status) = process.try_wait()? {
                let said = process.stdout() + &process.stderr();
                anyhow::bail!("the container ended at its start ({status}): {said}");
            }
            let nspawn = process.id();
            let children = format!("/proc/{nspawn}/task/{nspawn}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            if let Some(first) = children.split_whitespace().next() {
                self.first = first.parse()?;
                let state = self.finish(&["systemctl", "is-system-running"]);
                let state = state.map(|finished| finished.stdout).unwrap_or_default();
                if ["running", "degraded"].contains(&state.trim()) {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < deadline, "the container does not boot");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the path of a file of the container's on this host.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// As [`Self::path`], also of what was mounted inside.
    #[must_use]
    pub fn path_by_process(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.first))
    }

    /// Runs a command inside to its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn finish(&self, command: &[&str]) -> Result<Finished> {
        let mut enter = Command::new("nsenter");
        enter
            .arg(format!("--target={}", self.first))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"])
            .args(command)
            .env("DEBIAN_FRONTEND", "noninteractive");
        Process::spawn(&command.join(" "), &enter)?.finish(TIMEOUT)
    }

    /// Runs a command inside and returns what it prints.
    ///
    /// # Errors
    /// It fails; the text has what it says.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let finished = self.finish(command)?;
        ensure!(
            finished.status.success(),
            "`{}` failed inside ({}): {}{}",
            command.join(" "),
            finished.status,
            finished.stdout,
            finished.stderr
        );
        Ok(finished.stdout + &finished.stderr)
    }

    /// Returns a property of a unit.
    ///
    /// # Errors
    /// systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let text = self.run(&["systemctl", "show", "--property", name, "--value", unit])?;
        Ok(text.trim().to_owned())
    }

    /// Returns a service's main process, as this host sees it.
    ///
    /// # Errors
    /// It does not run.
    pub fn main_process(&self, unit: &str) -> Result<u32> {
        let inside = self.property(unit, "MainPID")?;
        for entry in fs::read_dir("/proc")?.flatten() {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let ids: Vec<&str> = ids.unwrap_or_default().split_whitespace().collect();
            if let [outside, own] = ids.as_slice()
                && *own == inside
                && self.has_process(outside)
            {
                return Ok(outside.parse()?);
            }
        }
        anyhow::bail!("{unit} has no main process")
    }

    /// Whether a process is in the container.
    fn has_process(&self, id: &str) -> bool {
        let namespace = |id: &str| fs::read_link(format!("/proc/{id}/ns/pid")).ok();
        namespace(id).is_some() && namespace(id) == namespace(&self.first.to_string())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take()
            && process.signal(Signal::SIGTERM).is_ok()
        {
            // It ends its services in order; what does not end in time is killed.
            drop(process.finish(TIMEOUT));
        }
    }
}
