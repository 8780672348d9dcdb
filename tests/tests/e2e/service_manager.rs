//! What the balancer tells the service manager that started it, heard on a real socket.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use waxwing_tests::echo::Echo;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Layout, Service, Topology, Waxwing};

use crate::health::three;
use crate::restart::{kept_alive, stop};
use crate::traffic::assert_served;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(each_step_of_its_life_is_told),
    scenario!(an_upgrade_names_the_new_process),
    scenario!(an_upgrade_that_never_ends_leaves_it_fed),
    scenario!(a_worker_that_hangs_leaves_the_watchdog_unfed),
    scenario!(what_the_manager_keeps_serves_on, "python3"),
    scenario!(what_does_not_fit_is_closed_first, "python3"),
];

/// As long as a step may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Starts a program with the descriptors that it receives from a socket, as sd_listen_fds(3) has it.
const LAUNCHER: &str = r#"
import fcntl, os, socket, sys
with socket.socket(socket.AF_UNIX) as manager:
    manager.connect(sys.argv[1])
    names, descriptors, _, _ = socket.recv_fds(manager, 65536, 250)
above = [fcntl.fcntl(it, fcntl.F_DUPFD, 300) for it in descriptors]
for it in descriptors:
    os.close(it)
for number, it in enumerate(above, 3):
    os.dup2(it, number)
    os.close(it)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(above))
os.environ["LISTEN_FDNAMES"] = names.decode()
os.execvp(sys.argv[2], sys.argv[2:])
"#;

/// A service manager: hears what it is told, and keeps descriptors by name if it has a store.
struct Manager {
    variable: String,
    heard: Receiver<String>,
    store: Arc<Mutex<Store>>,
    /// Where a [`LAUNCHER`] connects.
    launches: UnixListener,
    launch: String,
}

/// A store of descriptors; without one, all that it is given is closed.
type Store = Option<BTreeMap<String, OwnedFd>>;

impl Manager {
    fn new(topology: &Topology) -> Result<Self> {
        Self::with_store(topology, None)
    }

    fn with_store(topology: &Topology, store: Store) -> Result<Self> {
        let folder = topology.scratch.path();
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        // As systemd has it: the balancer may run as any user.
        fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        let store = Arc::new(Mutex::new(store));
        let (tell, heard) = mpsc::channel();
        let its = Arc::clone(&store);
        thread::spawn(move || {
            while let Ok((text, descriptor)) = receive(&socket) {
                let lines: Vec<&str> = text.lines().collect();
                let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME="));
                let mut store = its.lock().unwrap_or_else(PoisonError::into_inner);
                match (lines.first(), name, descriptor) {
                    (Some(&"FDSTORE=1"), Some(name), Some(descriptor)) => {
                        store
                            .as_mut()
                            .map(|it| it.insert(name.to_owned(), descriptor));
                    }
                    (Some(&"FDSTOREREMOVE=1"), Some(name), _) => {
                        store.as_mut().map(|it| it.remove(name));
                    }
                    // Closed here, which the balancer waits for.
                    (Some(&"BARRIER=1"), ..) => {}
                    _ if tell.send(text.clone()).is_err() => break,
                    _ => {}
                }
            }
        });
        let launch = folder.join("launch");
        Ok(Self {
            variable: format!("NOTIFY_SOCKET={}", path.display()),
            heard,
            store,
            launches: UnixListener::bind(&launch)?,
            launch: launch.display().to_string(),
        })
    }

    /// Returns the next message.
    fn heard(&self) -> Result<String> {
        self.heard
            .recv_timeout(TIMEOUT)
            .context("no message in time")
    }

    fn assert_heard(&self, start: &str) -> Result<()> {
        let heard = self.heard()?;
        ensure!(heard.starts_with(start), "{heard:?}, not {start:?}");
        Ok(())
    }

    /// Returns the messages that have arrived.
    fn arrived(&self) -> Vec<String> {
        self.heard.try_iter().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies what is kept, as a process gets it that the manager is just starting, until the manager closes
    /// it and a little longer.
    fn copy_until_closed(&self) -> Result<()> {
        let copies = self.kept();
        let copies = copies.iter().flatten().map(|(_, it)| it.try_clone());
        let copies: Vec<OwnedFd> = copies.collect::<std::io::Result<_>>()?;
        let store = Arc::clone(&self.store);
        thread::spawn(move || {
            let is_empty = |store: &Store| store.iter().all(BTreeMap::is_empty);
            while !is_empty(&store.lock().unwrap_or_else(PoisonError::into_inner)) {
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_millis(300));
            drop(copies);
        });
        Ok(())
    }

    /// Starts a stopped balancer with what is kept, all of which is kept on.
    fn start_again(&self, waxwing: &mut Waxwing<'_>) -> Result<()> {
        let launcher = [
            "env",
            &self.variable,
            "python3",
            "-c",
            LAUNCHER,
            &self.launch,
        ];
        waxwing.set_wrapper(&launcher);
        let (launches, store) = (&self.launches, &*self.store);
        thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let (launched, _) = launches.accept()?;
                let store = store.lock().unwrap_or_else(PoisonError::into_inner);
                let kept = store.iter().flatten();
                // In another order than they were given in.
                let (names, kept): (Vec<&str>, Vec<_>) =
                    kept.rev().map(|(name, it)| (&**name, it.as_fd())).unzip();
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
                let mut rights = SendAncillaryBuffer::new(&mut space);
                rights.push(SendAncillaryMessage::ScmRights(&kept));
                let names = names.join(":");
                let names = [IoSlice::new(names.as_bytes())];
                sendmsg(&launched, &names, &mut rights, SendFlags::empty())?;
                anyhow::Ok(())
            });
            waxwing.restart()?;
            sent.join().ok().context("a thread has panicked")?
        })
    }
}

/// Returns the next datagram, and the descriptor with it.
fn receive(socket: &UnixDatagram) -> Result<(String, Option<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, into, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let text = String::from_utf8_lossy(&bytes[..received.bytes]);
    Ok((text.into_owned(), descriptor))
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
    let more = manager.arrived();
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
    let more = manager.arrived();
    ensure!(more.is_empty(), "it says more than it should: {more:?}");
    Ok(())
}

/// What should be a new process says each message in time, but never comes to an end.
fn an_upgrade_that_never_ends_leaves_it_fed() -> Result<()> {
    const WATCHDOG: Duration = Duration::from_secs(30);
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let manager = Manager::new(&topology)?;
    let watchdog = format!("WATCHDOG_USEC={}", WATCHDOG.as_micros());
    let wrapper = ["env", &manager.variable, &watchdog];
    let waxwing = Waxwing::start_under(&topology, &config, &wrapper)?;
    manager.assert_heard("READY=1\n")?;
    manager.assert_heard("WATCHDOG=1")?;
    let socket = PathBuf::from(format!("{}.upgrade", config.socket().display()));
    let mut stranger = UnixStream::connect(socket)?;
    let talks = thread::spawn(move || -> Result<()> {
        let hello = r#"{"version": 1, "layout": []}"#;
        say_slowly(&mut stranger, hello, Duration::from_secs(13))?;
        let mut answers = [(); 2].iter().map(|()| hear(&mut stranger));
        let welcome = answers.next().context("an answer")??;
        ensure!(
            welcome == b"\"Welcome\"",
            "{}",
            String::from_utf8_lossy(&welcome)
        );
        answers.next().context("the state")??;
        say_slowly(&mut stranger, r#""Take""#, Duration::from_secs(4))?;
        // It has the ports now, and does not say that it serves.
        stranger.read_to_end(&mut Vec::new())?;
        Ok(())
    });
    let fed = manager.heard.recv_timeout(WATCHDOG);
    ensure!(fed.as_deref() == Ok("WATCHDOG=1"), "{fed:?}");
    waxwing.wait_log("an upgrade failed, this process goes on")?;
    talks.join().ok().context("a thread has panicked")??;
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

/// Sends a message of an upgrade, a byte at a time, within so long.
fn say_slowly(stream: &mut UnixStream, message: &str, span: Duration) -> Result<()> {
    let message = format!("{message:<30}");
    stream.write_all(&(message.len() as u64).to_be_bytes())?;
    // The number of descriptors with it.
    stream.write_all(&[0; 4])?;
    for byte in message.bytes() {
        stream.write_all(&[byte])?;
        thread::sleep(span / 30);
    }
    Ok(())
}

/// Receives a message of an upgrade.
fn hear(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let (mut len, mut descriptors) = ([0; 8], [0; 4]);
    stream.read_exact(&mut len)?;
    stream.read_exact(&mut descriptors)?;
    let mut message = vec![0; usize::try_from(u64::from_be_bytes(len))?];
    stream.read_exact(&mut message)?;
    Ok(message)
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
    manager.arrived();
    let deadline = Instant::now() + TIMEOUT;
    while waxwing.log().matches(HANGS).count() < 4 {
        ensure!(Instant::now() < deadline, "it looked only once");
        waxwing.status()?;
    }
    let fed = manager.arrived();
    ensure!(fed.is_empty(), "it hides that a worker hangs: {fed:?}");

    ptrace::detach(worker, None)?;
    manager.assert_heard("WATCHDOG=1")?;
    waxwing.stop().map(drop)
}

/// Frames that arrive while nobody balances wait in the rings: no datagram is lost or comes twice.
fn what_the_manager_keeps_serves_on() -> Result<()> {
    const DATAGRAMS: u8 = 100;
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let config = config.with(Service::v4("echo", "udp", (7, 7007), 1));
    let _echo = Echo::start(&topology.servers[0], 7007)?;
    let manager = Manager::with_store(&topology, Some(BTreeMap::new()))?;
    let mut waxwing = Waxwing::start_under(&topology, &config, &["env", &manager.variable])?;
    let socket = topology.client.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.connect((VIP4, 7))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let asked = |number: u8| -> Result<()> {
        let mut answer = [0];
        socket.recv(&mut answer).context("no answer")?;
        ensure!(answer == [number], "{answer:?}, not {number}");
        Ok(())
    };
    socket.send(&[0])?;
    asked(0)?;
    let load = kept_alive(&topology, 10, Duration::from_secs(8))?;
    waxwing.wait_status("ten connections", |status| status.sessions() >= 11)?;

    stop(&mut waxwing)?;
    for port in topology.ports() {
        ensure!(topology.balancer.has_xdp(port)?, "{port} has no program");
    }
    for number in 0..DATAGRAMS {
        socket.send(&[number])?;
    }
    manager.start_again(&mut waxwing)?;
    for number in 0..DATAGRAMS {
        asked(number)?;
    }
    waxwing.wait_log("goes on with the ports that the service manager has kept")?;
    ensure!(
        manager.kept().iter().all(BTreeMap::is_empty),
        "it is kept on"
    );
    let tally = load.finish()?;
    ensure!(tally.failed() == 0, "{:?}", tally.failures);
    let opened = waxwing.status()?.counted("sessions_opened");
    ensure!(opened == 0, "{opened} sessions were opened again");

    // It stays stopped: the manager closes what it has.
    stop(&mut waxwing)?;
    ensure!(
        manager.kept().iter().any(|it| !it.is_empty()),
        "nothing is kept"
    );
    *manager.kept() = None;
    for port in topology.ports() {
        ensure!(!topology.balancer.has_xdp(port)?, "{port} has a program");
    }
    Ok(())
}

fn what_does_not_fit_is_closed_first() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let manager = Manager::with_store(&topology, Some(BTreeMap::new()))?;
    let mut waxwing = Waxwing::start_under(&topology, &config, &["env", &manager.variable])?;
    stop(&mut waxwing)?;
    waxwing.write_config(&(config.to_toml()? + "\n[rings]\nsize = 1024\n"))?;
    manager.copy_until_closed()?;
    manager.start_again(&mut waxwing)?;
    waxwing.wait_log("is not used: its rings.size: 2048; the new one's: 1024")?;
    ensure!(
        manager.kept().iter().all(BTreeMap::is_empty),
        "it is kept on"
    );
    assert_served(&topology, VIP4)?;

    // One of them is missing.
    stop(&mut waxwing)?;
    ensure!(
        manager
            .kept()
            .as_mut()
            .is_some_and(|it| it.remove("waxwing-1").is_some()),
        "there is no second one"
    );
    manager.start_again(&mut waxwing)?;
    waxwing.wait_log("is not used: number 1 is missing")?;
    assert_served(&topology, VIP4)?;
    *manager.kept() = None;
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
