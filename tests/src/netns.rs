//! Network namespaces and the veth pairs between them.
//!
//! Invariant: a namespace's name is `wwt-<process id>-<serial>-<role>`. Its processes are killed and it is
//! deleted when its value is dropped, when a signal ends the run, or, if the run was killed, at the start of
//! the next run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::process::{self, Process};

/// The prefix of names of namespaces and directories of test runs.
pub const PREFIX: &str = "wwt-";

static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// A network namespace of this run.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Options of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethOptions {
    /// Receive and transmit queues of both ends.
    pub queues: u32,
    /// The number to which [`set_queues`] can raise them; 0 for `queues`.
    pub queues_max: u32,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
}

impl Default for VethOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            queues_max: 0,
            mtu: 1500,
        }
    }
}

impl Namespace {
    /// Creates a namespace whose loopback interface is up.
    pub fn new(role: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{serial}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip("link set lo up\n")?;
        // Without duplicate address detection, link-local addresses are valid at once.
        namespace.sysctl(&["net.ipv6.conf.default.accept_dad=0"])?;
        Ok(namespace)
    }

    /// Returns the namespace's name in `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a command that runs in the namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Runs a program in the namespace to its end and returns its standard output.
    pub fn run(&self, program: impl AsRef<Path>, args: &[&str]) -> Result<String> {
        process::run(self.command(program).args(args))
    }

    /// Starts a program in the namespace.
    pub fn spawn(&self, program: impl AsRef<Path>, args: &[&str]) -> Result<Process> {
        let name = program
            .as_ref()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Process::spawn(&name, self.command(program).args(args))
    }

    /// Runs a function in the namespace, on a new thread. Sockets that the function opens belong to the
    /// namespace, even when another thread uses them.
    pub fn enter<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.name);
        let file = fs::File::open(&path).with_context(|| format!("no {}", path.display()))?;
        let entered = thread::scope(|scope| {
            let thread = scope.spawn(|| setns(&file, CloneFlags::CLONE_NEWNET).map(|()| run()));
            thread.join()
        });
        let entered =
            entered.map_err(|_| anyhow::anyhow!("the function in {} panicked", self.name))?;
        entered.with_context(|| format!("cannot enter {}", self.name))
    }

    /// Runs lines of `ip` commands in the namespace, each without the leading `ip`.
    ///
    /// # Errors
    /// A line failed; the lines before it took effect.
    pub fn ip(&self, lines: &str) -> Result<()> {
        process::run_with_input(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            lines,
        )
        .map(drop)
    }

    /// Sets kernel parameters (`net.ipv4.ip_forward=1`). Names of interfaces in them must have no dot.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        // `/proc/sys/net` belongs to the namespace of the thread that opens a file in it.
        self.enter(|| settings.iter().try_for_each(|setting| set(setting)))?
    }

    /// Returns the MAC address of an interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let json = self.run("ip", &["-json", "link", "show", interface])?;
        let links: serde_json::Value = serde_json::from_str(&json)?;
        let mac = links[0]["address"]
            .as_str()
            .context("the interface has no MAC address")?;
        let octets: Vec<u8> = mac
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16))
            .collect::<Result<_, _>>()
            .with_context(|| format!("`{mac}` is not a MAC address"))?;
        octets
            .try_into()
            .ok()
            .with_context(|| format!("`{mac}` is not a MAC address"))
    }

    /// Moves a network card of this virtual machine into the namespace, by the card's number, renames it and
    /// brings it up; see [`Namespace::return_card`].
    pub fn adopt_card(&self, number: u8, name: &str) -> Result<()> {
        let card = interface_with(&card_mac(number))?;
        let card = card.with_context(|| format!("this namespace has no card {number}"))?;
        ip(&["link", "set", &card, "down"])?;
        ip(&["link", "set", &card, "netns", &self.name, "name", name])?;
        self.ip(&format!("link set {name} up\n"))
    }

    /// Moves a card back. Otherwise the kernel returns it only when it frees the namespace, which an
    /// unanswered connection delays for minutes.
    pub fn return_card(&self, number: u8, name: &str) -> Result<()> {
        self.ip(&format!(
            "link set {name} down\nlink set {name} netns 1 name card{number}\n"
        ))
    }

    /// Whether an interface carries an XDP program, native or generic.
    pub fn has_xdp(&self, interface: &str) -> Result<bool> {
        let json = self.run("ip", &["-json", "-details", "link", "show", interface])?;
        let links: serde_json::Value = serde_json::from_str(&json)?;
        Ok(links[0].get("xdp").is_some())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Sets one kernel parameter, in the namespace of this thread.
fn set(setting: &str) -> Result<()> {
    let (name, value) = setting
        .split_once('=')
        .with_context(|| format!("`{setting}` is no setting"))?;
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(&path, value).with_context(|| format!("cannot set {name} to {value}"))
}

/// Returns the interface with a MAC address in this process's namespace.
fn interface_with(mac: &str) -> Result<Option<String>> {
    let has = |entry: &fs::DirEntry| {
        let address = fs::read_to_string(entry.path().join("address"));
        address.is_ok_and(|address| address.trim() == mac)
    };
    let interfaces = fs::read_dir("/sys/class/net")?.flatten();
    let found = interfaces.into_iter().find(has);
    Ok(found.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

/// Joins two namespaces by a veth pair with ends `a` and `b`, and brings both up. Offloads are off, so that
/// frames have complete checksums and fit the MTU, as from a NIC: AF_XDP reads frames before the kernel
/// would complete them.
pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str), options: VethOptions) -> Result<()> {
    let VethOptions {
        queues,
        queues_max,
        mtu,
    } = options;
    let made = queues.max(queues_max);
    let shape = format!("mtu {mtu} numrxqueues {made} numtxqueues {made}");
    a.0.ip(&format!(
        "link add {} {shape} type veth peer name {} netns {} {shape}\n",
        a.1,
        b.1,
        b.0.name()
    ))?;
    if made > queues {
        // The second first: neither end may have fewer than the other sends by.
        set_queues(b.0, b.1, queues)?;
        set_queues(a.0, a.1, queues)?;
    }
    for (namespace, interface) in [a, b] {
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-K", interface]);
        ethtool.args(
            ["rx", "tx", "tso", "gso", "gro"]
                .iter()
                .flat_map(|offload| [offload, "off"]),
        );
        // ethtool does not need the namespace's `/sys`, which `ip netns exec` would mount.
        namespace.enter(|| process::run(&ethtool))??;
        namespace.ip(&format!("link set {interface} up\n"))?;
    }
    Ok(())
}

/// Sets the number of receive and transmit queues of an interface.
///
/// # Errors
/// More than [`VethOptions::queues_max`], fewer than the other end has, or `ethtool` is missing.
pub fn set_queues(namespace: &Namespace, interface: &str, queues: u32) -> Result<()> {
    let count = queues.to_string();
    let arguments = ["-L", interface, "rx", &count, "tx", &count];
    namespace.run("ethtool", &arguments).map(drop)
}

/// Removes namespaces, the processes in them, and directories of runs that have ended.
pub fn remove_leftovers() -> Result<()> {
    let gone = |name: &str| {
        owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    remove_where(gone)
}

/// Removes everything of this run at once, before the process exits.
pub fn remove_own() {
    // The next run removes the rest.
    drop(remove_where(|name| owner(name) == Some(std::process::id())));
}

/// On `SIGINT`, `SIGTERM` or `SIGHUP`, runs `before_exit`, removes everything of this run, and exits with
/// code 130.
pub fn remove_own_on_signal(before_exit: impl FnOnce() + Send + 'static) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        IS_ENDING.store(true, Ordering::SeqCst);
        before_exit();
        remove_own();
        std::process::exit(130);
    });
    Ok(())
}

/// Whether a signal is ending this run; failures from then on need no message.
pub fn is_ending() -> bool {
    IS_ENDING.load(Ordering::SeqCst)
}

/// Returns the process id in a name of a test run.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn remove_where(unwanted: impl Fn(&str) -> bool) -> Result<()> {
    let listed = ip(&["netns", "list"])?;
    for name in listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        if unwanted(name) {
            remove(name);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        if entry.file_name().to_str().is_some_and(&unwanted) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

/// Kills the processes in a namespace and deletes it. Deletion alone removes only its name: a namespace lives
/// as long as a process in it.
fn remove(name: &str) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while let Ok(pids) = processes_in(name) {
        if pids.is_empty() || Instant::now() >= deadline {
            break;
        }
        for pid in pids {
            // It fails if the process has ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(1));
    }
    drop(ip(&["netns", "del", name]));
}

/// Returns the processes in a namespace, as `ip netns pids` does: those whose namespace is the same inode.
fn processes_in(name: &str) -> Result<Vec<i32>> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let namespace = identity(&Path::new("/run/netns").join(name))?;
    let is_inside = |pid: &i32| {
        identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_ok_and(|its| its == namespace)
    };
    let entries = fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(is_inside).collect())
}

fn ip(args: &[&str]) -> Result<String> {
    process::run(Command::new("ip").args(args))
}

/// The MAC address of a card.
pub fn card_mac(number: u8) -> String {
    format!("02:77:78:00:00:{number:02x}")
}
