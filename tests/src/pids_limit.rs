//! A control group that limits processes and threads, as systemd's `TasksMax=` does.
//!
//! Invariant: dropping it removes it, if its processes have ended.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where the controller is mounted on its own (version 1), and together with others (version 2).
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

/// The control group.
#[derive(Debug)]
pub struct PidsLimit(PathBuf);

impl PidsLimit {
    /// Creates a group without a limit. Its name ends with `name`, which is unique in this process.
    ///
    /// # Errors
    /// There is no such controller, or this process may not make a group.
    pub fn new(name: &str) -> Result<Self> {
        let name = format!("waxwing-{}-{name}", std::process::id());
        let made = MOUNTS
            .iter()
            .map(|mount| Self(Path::new(mount).join(&name)));
        // In a directory that is no control group the file is missing.
        let mut made = made
            .filter(|group| fs::create_dir(&group.0).is_ok() && group.0.join("pids.max").exists());
        made.next().context("no pids controller in /sys/fs/cgroup")
    }

    /// Returns the shell commands that enter the group and run the program whose words follow.
    #[must_use]
    pub fn script(&self) -> String {
        // `ip netns exec` mounts another /sys, so the way there is this process's.
        let (own, group) = (std::process::id(), self.0.display());
        format!("echo $$ > /proc/{own}/root{group}/cgroup.procs && exec \"$0\" \"$@\"")
    }

    /// Returns the number of its processes and threads.
    ///
    /// # Errors
    /// The group is gone.
    pub fn count(&self) -> Result<u32> {
        let text = fs::read_to_string(self.0.join("pids.current"))?;
        Ok(text.trim().parse()?)
    }

    /// Sets the most processes and threads; `None` removes the limit.
    ///
    /// # Errors
    /// The group is gone.
    pub fn set(&self, max: Option<u32>) -> Result<()> {
        let max = max.map_or("max".to_owned(), |max| max.to_string());
        fs::write(self.0.join("pids.max"), max).context("cannot set pids.max")
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        // Fails only while a process is left.
        let _ = fs::remove_dir(&self.0);
    }
}
