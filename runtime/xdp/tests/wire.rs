//! Frames over a real wire: both ends of a veth pair, in a network namespace of the test's own.
//!
//! The test runs itself again inside the namespace and removes that at the end, also after a
//! failure. One end of the pair asks, the other answers; both are this crate.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use waxwing_dataplane::steering::{Rules, Steering};
use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo, PortId};
use waxwing_packet::{Address, Mac};
use waxwing_xdp::{
    AttachMode, Attached, Class, FrameAccount, Options, PollMode, PortOptions, WorkerParts,
    XdpError, XdpFrame, XdpIo, ZeroCopy, attach,
};

type Outcome = Result<(), Failed>;
type Test = Box<dyn FnOnce() -> Outcome + Send>;

/// Says which part of this program the process is.
const ROLE: &str = "WAXWING_WIRE_TEST";

const UDP: u8 = 17;
const ASKER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const ANSWERER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const ASKER_PORT: u16 = 40_000;
const ANSWERER_PORT: u16 = 7;
const PORT: PortId = PortId(0);
/// Ethernet, IPv4 and UDP headers; the sequence number follows.
const PAYLOAD: usize = 42;
const FRAME_LEN: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);

fn ip(arguments: &str) -> Outcome {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// A veth pair, both ends up; removed when dropped.
struct Wire;

impl Wire {
    fn new(queues: u32) -> Result<Self, Failed> {
        let many = format!("numrxqueues {queues} numtxqueues {queues}");
        ip(&format!(
            "link add ask {many} type veth peer name answer {many}"
        ))?;
        let wire = Self;
        ip("link set ask up")?;
        ip("link set answer up")?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = ip("link del ask");
    }
}

/// One end of the wire, attached.
struct End {
    attached: Attached,
    mac: Mac,
}

fn small() -> Options {
    Options {
        ring_size: 512,
        frames_per_queue: 1024 + 256,
        kernel_path: None,
        services_max: 16,
        backends_max: 16,
        locals_max: 16,
        ..Options::default()
    }
}

/// Attaches `interface`, steering UDP to this address and port.
fn end(
    interface: &str,
    options: &Options,
    to: (Ipv4Addr, u16),
) -> Result<(End, Vec<WorkerParts>), Failed> {
    let (mut attached, workers) = attach(
        &[PortOptions {
            interface: interface.into(),
        }],
        options,
    )?;
    let services = [(Address::v4(to.0.octets()), to.1, UDP)].into();
    attached.apply(&Rules {
        services,
        ..Rules::default()
    })?;
    let mac = attached.reports()[0].interface.mac;
    Ok((End { attached, mac }, workers))
}

/// A UDP frame that carries a number.
fn write_question(frame: &mut XdpFrame, from: Mac, to: Mac, number: u64) {
    assert!(frame.set_len(FRAME_LEN));
    let bytes = frame.bytes_mut();
    bytes.fill(0);
    bytes[0..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&50_u16.to_be_bytes());
    bytes[22] = 64;
    bytes[23] = UDP;
    bytes[26..30].copy_from_slice(&ASKER.octets());
    bytes[30..34].copy_from_slice(&ANSWERER.octets());
    let sum: u32 = (14..34)
        .step_by(2)
        .map(|at| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])))
        .sum();
    let folded = !(sum + (sum >> 16)).to_be_bytes()[2..]
        .iter()
        .fold(0_u16, |value, &byte| (value << 8) | u16::from(byte));
    bytes[24..26].copy_from_slice(&folded.to_be_bytes());
    bytes[34..36].copy_from_slice(&ASKER_PORT.to_be_bytes());
    bytes[36..38].copy_from_slice(&ANSWERER_PORT.to_be_bytes());
    bytes[38..40].copy_from_slice(&30_u16.to_be_bytes());
    bytes[PAYLOAD..PAYLOAD + 8].copy_from_slice(&number.to_be_bytes());
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(
        bytes.get(PAYLOAD..PAYLOAD + 8)?.try_into().ok()?,
    ))
}

/// Source and destination change places, in all three headers.
fn turn_around(bytes: &mut [u8]) {
    let (to, from) = bytes[0..12].split_at_mut(6);
    to.swap_with_slice(from);
    let (from, to) = bytes[26..34].split_at_mut(4);
    from.swap_with_slice(to);
    let (from, to) = bytes[34..38].split_at_mut(2);
    from.swap_with_slice(to);
}

/// Answers what it receives until told to end.
struct Answerer {
    end: Option<Arc<AtomicBool>>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<FrameAccount>>,
}

impl Answerer {
    fn start(parts: WorkerParts, answer: fn(&mut XdpFrame)) -> Self {
        let (end, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (ended, count) = (Arc::clone(&end), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            let mut io = parts.into_io();
            let mut batch = Vec::with_capacity(BATCH);
            while !ended.load(Ordering::Relaxed) {
                io.receive(&mut batch);
                if batch.is_empty() {
                    io.wait(Duration::from_millis(20));
                    continue;
                }
                count.fetch_add(batch.len() as u64, Ordering::Relaxed);
                for mut frame in batch.drain(..) {
                    answer(&mut frame);
                    let port = frame.port();
                    io.send(port, frame).expect("room in the transmit ring");
                }
                io.flush();
                assert!(io.account().is_balanced());
            }
            settle(&mut io)
        });
        Self {
            end: Some(end),
            answered,
            thread: Some(thread),
        }
    }

    fn stop(&mut self) -> Result<FrameAccount, Failed> {
        if let Some(end) = self.end.take() {
            end.store(true, Ordering::Relaxed);
        }
        let thread = self.thread.take().ok_or("stopped twice")?;
        thread
            .join()
            .map_err(|_| "the answering worker panicked".into())
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.stop();
        }
    }
}

/// Waits until nothing is on its way out, and counts.
fn settle(io: &mut XdpIo) -> FrameAccount {
    let deadline = Instant::now() + PATIENCE;
    let mut batch = Vec::new();
    loop {
        io.receive(&mut batch);
        batch.clear();
        let account = io.account();
        if account.tx + account.completion + account.rx == 0 || Instant::now() > deadline {
            return account;
        }
        io.wait(Duration::from_millis(1));
    }
}

/// At rest every frame is in the pool or lent to receive into.
fn at_rest(account: FrameAccount) -> Outcome {
    let FrameAccount {
        free, fill, total, ..
    } = account;
    if account.is_balanced() && free + fill == total {
        Ok(())
    } else {
        Err(format!("{account:?}").into())
    }
}

/// Asks `count` questions, `window` at a time, until each was answered once.
fn ask(io: &mut XdpIo, from: Mac, to: Mac, count: u64, window: u64) -> Outcome {
    let mut answered = vec![false; usize::try_from(count)?];
    let (mut asked, mut back) = (0, 0);
    let mut batch = Vec::with_capacity(BATCH);
    let deadline = Instant::now() + PATIENCE;
    while back < count {
        while asked < count && asked - back < window {
            let Some(mut frame) = io.allocate(PORT) else {
                break;
            };
            write_question(&mut frame, from, to, asked);
            io.send(PORT, frame).map_err(DropReason::label)?;
            asked += 1;
        }
        io.flush();
        io.receive(&mut batch);
        if batch.is_empty() {
            io.wait(Duration::from_millis(20));
        }
        for frame in batch.drain(..) {
            let number = number(frame.bytes()).ok_or("a short answer")?;
            let seen = answered
                .get_mut(usize::try_from(number)?)
                .ok_or("a wrong answer")?;
            if std::mem::replace(seen, true) {
                return Err(format!("question {number} answered twice").into());
            }
            back += 1;
        }
        if Instant::now() > deadline {
            return Err(format!("{back} of {asked} came back: {:?}", io.account()).into());
        }
    }
    Ok(())
}

/// Every frame comes back once, and at the end every frame is where it was at the start.
fn all_come_back(options: &Options, count: u64, window: u64) -> Outcome {
    let _wire = Wire::new(1)?;
    let (asker, mut workers) = end("ask", options, (ASKER, ASKER_PORT))?;
    let (answerer, mut answering) = end("answer", options, (ANSWERER, ANSWERER_PORT))?;
    let mut echo = Answerer::start(answering.remove(0), |frame| turn_around(frame.bytes_mut()));
    let mut io = workers.remove(0).into_io();
    let begun = Instant::now();
    ask(&mut io, asker.mac, answerer.mac, count, window)?;
    let each = begun.elapsed() / u32::try_from(count)?;
    println!("    {count} frames there and back, {window} at a time: {each:?} each");
    at_rest(settle(&mut io))?;
    at_rest(echo.stop()?)?;
    let classes = answerer.attached.classes();
    if !classes.contains(&(Class::Service, count)) {
        return Err(format!("{classes:?}").into());
    }
    let statistics = answerer.attached.statistics();
    if statistics.iter().any(|queue| queue.counts.is_some()) {
        return Err("a closed socket still has counts".into());
    }
    Ok(())
}

fn two_queues() -> Outcome {
    let _wire = Wire::new(2)?;
    let (asker, workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let (answerer, answering) = end("answer", &small(), (ANSWERER, ANSWERER_PORT))?;
    if workers.len() != 2 || answering.len() != 2 {
        return Err(format!("{} and {} workers", workers.len(), answering.len()).into());
    }
    let turn = |frame: &mut XdpFrame| turn_around(frame.bytes_mut());
    let mut echoes: Vec<_> = answering
        .into_iter()
        .map(|parts| Answerer::start(parts, turn))
        .collect();
    for (parts, count) in workers.into_iter().zip([3000, 2000]) {
        let mut io = parts.into_io();
        ask(&mut io, asker.mac, answerer.mac, count, 64)?;
        at_rest(settle(&mut io))?;
    }
    let answered: Vec<_> = echoes
        .iter()
        .map(|e| e.answered.load(Ordering::Relaxed))
        .collect();
    for echo in &mut echoes {
        at_rest(echo.stop()?)?;
    }
    if answered == [3000, 2000] {
        Ok(())
    } else {
        Err(format!("{answered:?} by queue").into())
    }
}

/// Bytes 0 to 12 of the frame, cut off its head with the tag that follows, and put before the rest.
fn pop_tag(frame: &mut XdpFrame) {
    let macs: [u8; 12] = frame.bytes()[..12].try_into().expect("twelve bytes");
    assert!(frame.move_start(4));
    frame.bytes_mut()[..12].copy_from_slice(&macs);
}

/// A tag after the MAC addresses; the head is first cut, so that growing it moves bytes.
fn push_tag(frame: &mut XdpFrame) {
    let macs: [u8; 12] = frame.bytes()[..12].try_into().expect("twelve bytes");
    assert!(frame.move_start(4));
    assert!(frame.move_start(-8));
    frame.bytes_mut()[..12].copy_from_slice(&macs);
    frame.bytes_mut()[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
}

/// A frame whose head grew and shrank arrives as it should.
fn heads_move() -> Outcome {
    let _wire = Wire::new(1)?;
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let (answerer, mut answering) = end("answer", &small(), (ANSWERER, ANSWERER_PORT))?;
    let _echo = Answerer::start(answering.remove(0), |frame| {
        turn_around(frame.bytes_mut());
        push_tag(frame);
        push_tag(frame);
        pop_tag(frame);
    });
    let mut io = workers.remove(0).into_io();
    let mut frame = io.allocate(PORT).ok_or("no frame")?;
    write_question(&mut frame, asker.mac, answerer.mac, 77);
    io.send(PORT, frame).map_err(DropReason::label)?;
    io.flush();
    let mut batch = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while batch.is_empty() && Instant::now() < deadline {
        io.receive(&mut batch);
        io.wait(Duration::from_millis(5));
    }
    let mut frame = batch.pop().ok_or("no answer")?;
    let tagged = frame.bytes()[12..18] == [0x81, 0, 0, 5, 8, 0];
    pop_tag(&mut frame);
    match number(frame.bytes()) {
        Some(77) if tagged && frame.bytes().len() == FRAME_LEN => Ok(()),
        _ => Err(format!("{:02x?}", frame.bytes()).into()),
    }
}

/// What does not fit the transmit ring is refused and not lost.
fn transmit_ring_full() -> Outcome {
    let _wire = Wire::new(1)?;
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let mut io = workers.remove(0).into_io();
    let mut refused = 0;
    for sequence in 0..600 {
        let mut frame = io.allocate(PORT).ok_or("the pool is empty")?;
        write_question(&mut frame, asker.mac, asker.mac, sequence);
        if io.send(PORT, frame) == Err(DropReason::TransmitRingFull) {
            refused += 1;
        }
    }
    if refused != 600 - 512 {
        return Err(format!("{refused} refused").into());
    }
    let frame = io.allocate(PORT).ok_or("the pool is empty")?;
    if io.send(PortId(9), frame) != Err(DropReason::PortMissing) {
        return Err("a port that is not there".into());
    }
    io.flush();
    at_rest(settle(&mut io))
}

/// A frame handed back reaches a socket of the host, a tagged one too.
fn kernel_path() -> Outcome {
    let _wire = Wire::new(1)?;
    ip(&format!("address add {ANSWERER}/24 dev answer"))?;
    let host = UdpSocket::bind((ANSWERER, ANSWERER_PORT))?;
    host.set_read_timeout(Some(PATIENCE))?;
    let with_path = Options {
        kernel_path: Some("wwxtap".into()),
        ..small()
    };
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let (answerer, mut answering) = end("answer", &with_path, (ANSWERER, ANSWERER_PORT))?;
    let mut asking = workers.remove(0).into_io();
    let mut io = answering.remove(0).into_io();
    let mut batch = Vec::new();
    for tagged in [false, true] {
        let mut frame = asking.allocate(PORT).ok_or("no frame")?;
        write_question(&mut frame, asker.mac, answerer.mac, u64::from(tagged));
        if tagged {
            assert!(frame.move_start(-4));
            frame.bytes_mut().copy_within(4..16, 0);
            frame.bytes_mut()[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
        }
        asking.send(PORT, frame).map_err(DropReason::label)?;
        asking.flush();
        while batch.is_empty() {
            io.receive(&mut batch);
        }
        for frame in batch.drain(..) {
            io.pass_to_kernel(frame).map_err(DropReason::label)?;
        }
        let mut buffer = [0; 64];
        let (len, from) = host.recv_from(&mut buffer)?;
        let expected = (ASKER, ASKER_PORT).into();
        if from != expected || len != 22 || buffer[7] != u8::from(tagged) {
            return Err(format!("{len} bytes from {from}: {:02x?}", &buffer[..len]).into());
        }
    }
    at_rest(settle(&mut io))?;
    drop(io);
    drop(answering);
    match ip("link show wwxtap") {
        Ok(()) => Err("the TAP device is still there".into()),
        Err(_) => Ok(()),
    }
}

fn is_attached(interface: &str) -> Result<bool, Failed> {
    let output = Command::new("ip")
        .args(["link", "show", interface])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("xdp"))
}

/// An interface in use is refused and left as it is; one given up can be taken at once.
fn one_owner() -> Outcome {
    let _wire = Wire::new(2)?;
    let port = [PortOptions {
        interface: "answer".into(),
    }];
    let first = attach(&port, &small())?;
    let report = &first.0.reports()[0];
    let zero_copy = report
        .queues
        .iter()
        .any(|queue| queue.zero_copy || queue.why.is_none());
    if report.attach_mode != AttachMode::Native || report.queues.len() != 2 || zero_copy {
        return Err(format!("{report:?}").into());
    }
    match attach(&port, &small()).err() {
        Some(XdpError::Occupied(name)) if name == "answer" => {}
        other => return Err(format!("{other:?}").into()),
    }
    if !is_attached("answer")? {
        return Err("the first one was detached".into());
    }
    drop(first);
    if is_attached("answer")? {
        return Err("still attached".into());
    }
    for _ in 0..3 {
        drop(attach(&port, &small())?);
    }
    match attach(
        &port,
        &Options {
            zero_copy: ZeroCopy::Require,
            ..small()
        },
    )
    .err()
    {
        Some(XdpError::NoZeroCopy { queue: 0, .. }) => {}
        other => return Err(format!("{other:?}").into()),
    }
    if is_attached("answer")? {
        Err("still attached".into())
    } else {
        Ok(())
    }
}

/// A port whose worker is gone, though the program is attached, is the kernel's.
fn without_a_socket_the_kernel_has_it() -> Outcome {
    let _wire = Wire::new(1)?;
    ip(&format!("address add {ANSWERER}/24 dev answer"))?;
    ip("link set dev answer arp off")?;
    let host = UdpSocket::bind((ANSWERER, ANSWERER_PORT))?;
    host.set_read_timeout(Some(PATIENCE))?;
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let (answerer, answering) = end("answer", &small(), (ANSWERER, ANSWERER_PORT))?;
    drop(answering);
    let mut io = workers.remove(0).into_io();
    let mut frame = io.allocate(PORT).ok_or("no frame")?;
    write_question(&mut frame, asker.mac, answerer.mac, 5);
    io.send(PORT, frame).map_err(DropReason::label)?;
    io.flush();
    let mut buffer = [0; 64];
    host.recv_from(&mut buffer)?;
    if buffer[7] == 5 {
        Ok(())
    } else {
        Err("another datagram".into())
    }
}

/// A killed process leaves nothing behind, and another starts at once.
fn killed() -> Outcome {
    let _wire = Wire::new(1)?;
    let mut holder: Child = Command::new(env::current_exe()?)
        .env(ROLE, "holder")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = holder.stdout.take().ok_or("no output")?;
    let read = BufReader::new(stdout).read_line(&mut line);
    let attached = is_attached("answer");
    holder.kill()?;
    holder.wait()?;
    read?;
    if line.trim() != "attached" || !attached? {
        return Err(format!("the process to kill said {line:?}").into());
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while is_attached("answer")? {
        if Instant::now() > deadline {
            return Err("still attached a second after the kill".into());
        }
    }
    let options = Options {
        kernel_path: Some("wwxtap".into()),
        ..small()
    };
    attach(
        &[PortOptions {
            interface: "answer".into(),
        }],
        &options,
    )?;
    Ok(())
}

/// The process that [`killed`] kills.
fn hold() -> ExitCode {
    let options = Options {
        kernel_path: Some("wwxtap".into()),
        ..small()
    };
    match attach(
        &[PortOptions {
            interface: "answer".into(),
        }],
        &options,
    ) {
        Ok(_held) => {
            println!("attached");
            thread::sleep(Duration::from_secs(30));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A device that cannot be busy polled keeps its interrupts: frames would wait for a timer.
fn veth_keeps_its_interrupts() -> Outcome {
    let setting = "/sys/class/net/answer/napi_defer_hard_irqs";
    let _wire = Wire::new(1)?;
    let before = std::fs::read_to_string(setting)?;
    let options = Options {
        poll: PollMode::Busy,
        ..small()
    };
    let (attached, _workers) = attach(
        &[PortOptions {
            interface: "answer".into(),
        }],
        &options,
    )?;
    let deferred = attached.reports()[0].interrupts_deferred;
    let during = std::fs::read_to_string(setting)?;
    if before == during && !deferred {
        Ok(())
    } else {
        Err(format!("{before} {during}, {deferred}").into())
    }
}

fn mtu_too_large() -> Outcome {
    let _wire = Wire::new(1)?;
    ip("link set answer mtu 9000")?;
    match attach(
        &[PortOptions {
            interface: "answer".into(),
        }],
        &small(),
    )
    .err()
    {
        Some(XdpError::MtuTooLarge { mtu: 9000, .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn trials(skip: bool) -> Vec<Trial> {
    let busy = || Options {
        poll: PollMode::Busy,
        ..small()
    };
    let small_frames = || Options {
        frame_size: 2048,
        ..small()
    };
    let no_wakeup = || Options {
        need_wakeup: false,
        ..small()
    };
    let all: Vec<(&str, Test)> = vec![
        (
            "10,000 frames all come back",
            Box::new(|| all_come_back(&small(), 10_000, 64)),
        ),
        (
            "one at a time",
            Box::new(|| all_come_back(&small(), 500, 1)),
        ),
        (
            "with more in flight than a batch",
            Box::new(|| all_come_back(&small(), 10_000, 400)),
        ),
        (
            "by busy polling",
            Box::new(move || all_come_back(&busy(), 10_000, 64)),
        ),
        (
            "by busy polling, one at a time",
            Box::new(move || all_come_back(&busy(), 500, 1)),
        ),
        (
            "in frames of 2048 bytes",
            Box::new(move || all_come_back(&small_frames(), 10_000, 64)),
        ),
        (
            "without need-wakeup",
            Box::new(move || all_come_back(&no_wakeup(), 1_000, 16)),
        ),
        (
            "with the default sizes",
            Box::new(|| {
                all_come_back(
                    &Options {
                        kernel_path: None,
                        ..Options::default()
                    },
                    20_000,
                    64,
                )
            }),
        ),
        ("two queues, two workers", Box::new(two_queues)),
        ("heads grow and shrink", Box::new(heads_move)),
        ("a full transmit ring", Box::new(transmit_ring_full)),
        ("frames handed back to the kernel", Box::new(kernel_path)),
        ("one owner of an interface", Box::new(one_owner)),
        (
            "without a socket the kernel has it",
            Box::new(without_a_socket_the_kernel_has_it),
        ),
        ("killed", Box::new(killed)),
        (
            "veth keeps its interrupts",
            Box::new(veth_keeps_its_interrupts),
        ),
        ("an MTU that is too large", Box::new(mtu_too_large)),
    ];
    all.into_iter()
        .map(|(name, test)| Trial::test(name, test).with_ignored_flag(skip))
        .collect()
}

/// Runs this program again inside a namespace made for it.
fn inside_a_namespace() -> Result<ExitCode, Failed> {
    let name = format!("wwx-xdp-{}", std::process::id());
    ip(&format!("netns add {name}"))?;
    let status = Command::new("ip")
        .args(["netns", "exec", &name])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(ROLE, "inside")
        .status();
    ip(&format!("netns del {name}"))?;
    Ok(if status?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    match env::var(ROLE).as_deref() {
        Ok("holder") => return hold(),
        Ok("inside") => {}
        _ if arguments.list => {}
        _ => match inside_a_namespace() {
            Ok(code) => return code,
            Err(error) => {
                let reason = error.message().unwrap_or("no namespace").trim().to_owned();
                println!("skipped, as there is no namespace to run in (needs root): {reason}");
                return libtest_mimic::run(&arguments, trials(true)).exit_code();
            }
        },
    }
    // Frames of the kernel's own (router solicitations) are no part of these tests.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0");
    libtest_mimic::run(&arguments, trials(false)).exit_code()
}
