//! What the balancer tells the service manager that started it, heard on a real socket.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Layout, Topology, Waxwing};

use crate::health::three;
use crate::traffic::assert_served;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(each_step_of_its_life_is_told),
    scenario!(an_upgrade_names_the_new_process),
    scenario!(an_upgrade_that_never_ends_leaves_it_fed),
    scenario!(a_worker_that_hangs_leaves_the_watchdog_unfed),
];

/// As long as a step may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The service manager's socket.
struct Manager {
    socket: UnixDatagram,
    variable: String,
}

impl Manager {
    fn new(topology: &Topology) -> Result<Self> {
        let path = topology.scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        // As systemd has it: the balancer may run as any user.
        fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            variable: format!("NOTIFY_SOCKET={}", path.display()),
        })
    }

    /// Returns the next message.
    fn heard(&self) -> Result<String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).context("no message in time")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn assert_heard(&self, start: &str) -> Result<()> {
        let heard = self.heard()?;
        ensure!(heard.starts_with(start), "{heard:?}, not {start:?}");
        Ok(())
    }

    /// Returns the messages that have arrived.
    fn arrived(&self) -> Result<Vec<String>> {
        self.socket.set_nonblocking(true)?;
        let all = std::iter::from_fn(|| self.heard().ok()).collect();
        self.socket.set_nonblocking(false)?;
        Ok(all)
    }
}

fn each_step_of_its_life_is_told() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let manager = Manager::new(&topology)?;
    let mut waxwing = Waxwing::start_under(&topology, &config, &["env", &manager.variable])?;
    manager.assert_heard("READY=1\nSTATUS=serving")?;
    assert_served(&topology, VIP4)?;

    waxwing.reload(&config)?;
    manager.assert_heard("RELOADING=1\nMONOTONIC_USEC=")?;
    manager.assert_heard("READY=1\nSTATUS=serving; config reloaded, generation ")?;

    waxwing.write_config(&(config.to_toml()? + "\ncolour = \"red\"\n"))?;
    waxwing.signal(Signal::SIGHUP)?;
    manager.assert_heard("RELOADING=1\nMONOTONIC_USEC=")?;
    manager.assert_heard("READY=1\nSTATUS=serving; config not reloaded")?;
    assert_served(&topology, VIP4)?;

    waxwing.stop()?;
    manager.assert_heard("STOPPING=1\n")?;
    let more = manager.arrived()?;
    ensure!(more.is_empty(), "it says more than it should: {more:?}");
    Ok(())
}

/// The new process knows of the service manager only by the old one.
fn an_upgrade_names_the_new_process() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let manager = Manager::new(&topology)?;
    let wrapper = ["env", &manager.variable, "WATCHDOG_USEC=20000000"];
    let mut waxwing = Waxwing::start_under(&topology, &config, &wrapper)?;
    manager.assert_heard("READY=1\nSTATUS=serving")?;
    waxwing.set_wrapper(&["env", "WATCHDOG_USEC=1"]);
    waxwing.upgrade()?;
    let pid = waxwing.status()?.0["pid"].clone();
    let named = std::iter::from_fn(|| manager.heard().ok()).find(|heard| heard != "WATCHDOG=1");
    let expected = format!("MAINPID={pid}\nWATCHDOG=1");
    ensure!(named.as_ref() == Some(&expected), "{named:?}");
    manager.assert_heard("READY=1\nSTATUS=serving")?;
    manager.assert_heard("WATCHDOG=1")?;
    waxwing.stop()?;
    manager.assert_heard("STOPPING=1\n")?;
    let more = manager.arrived()?;
    ensure!(more.is_empty(), "it says more than it should: {more:?}");
    Ok(())
}

/// What should be a new process says a byte a second, so that each comes in time but never a whole message.
fn an_upgrade_that_never_ends_leaves_it_fed() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let manager = Manager::new(&topology)?;
    let wrapper = ["env", &manager.variable, "WATCHDOG_USEC=30000000"];
    let waxwing = Waxwing::start_under(&topology, &config, &wrapper)?;
    manager.assert_heard("READY=1\n")?;
    manager.assert_heard("WATCHDOG=1")?;
    manager
        .socket
        .set_read_timeout(Some(Duration::from_secs(30)))?;
    let socket = PathBuf::from(format!("{}.upgrade", config.socket().display()));
    let mut stranger = UnixStream::connect(socket)?;
    // The length of its message, and the number of descriptors with it.
    stranger.write_all(&[&1_000_u64.to_be_bytes()[..], &[0; 4]].concat())?;
    let talks = thread::spawn(move || {
        while stranger.write_all(&[0]).is_ok() {
            thread::sleep(Duration::from_secs(1));
        }
    });
    manager.assert_heard("WATCHDOG=1")?;
    waxwing.wait_log("an upgrade failed, this process goes on")?;
    talks.join().ok().context("a thread has panicked")?;
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

/// The worker's thread alone is stopped, as a debugger does; the control threads answer as before.
fn a_worker_that_hangs_leaves_the_watchdog_unfed() -> Result<()> {
    const HANGS: &str = "worker 1 hangs";
    let topology = Topology::new(Layout::with_queues(2))?;
    let (_servers, config) = three(&topology)?;
    let manager = Manager::new(&topology)?;
    let wrapper = ["env", &manager.variable, "WATCHDOG_USEC=400000"];
    let waxwing = Waxwing::start_under(&topology, &config, &wrapper)?;
    manager.assert_heard("READY=1\n")?;
    manager.assert_heard("WATCHDOG=1")?;

    let worker = thread_of(&waxwing, "worker-1")?;
    ptrace::attach(worker).context("cannot stop the worker")?;
    waitpid(worker, Some(WaitPidFlag::__WALL))?;
    waxwing.wait_log(HANGS)?;
    manager.arrived()?;
    let deadline = Instant::now() + TIMEOUT;
    while waxwing.log().matches(HANGS).count() < 4 {
        ensure!(Instant::now() < deadline, "it looked only once");
        waxwing.status()?;
    }
    let fed = manager.arrived()?;
    ensure!(fed.is_empty(), "it hides that a worker hangs: {fed:?}");

    ptrace::detach(worker, None)?;
    manager.assert_heard("WATCHDOG=1")?;
    waxwing.stop().map(drop)
}

/// Returns the id of the balancer's thread of a name.
fn thread_of(waxwing: &Waxwing<'_>, name: &str) -> Result<Pid> {
    let pid = &waxwing.status()?.0["pid"];
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim() == name {
            let id: i32 = task.file_name().to_string_lossy().parse()?;
            return Ok(Pid::from_raw(id));
        }
    }
    anyhow::bail!("the balancer has no thread {name}")
}
