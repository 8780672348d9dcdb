//! The host's own sockets and interfaces, while a port is attached and after it ends in any way.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use waxwing_dataplane::steering::{Rules, Steering as _};
use waxwing_dataplane::{DropReason, FrameBuf, FrameIo};
use waxwing_packet::Address;
use waxwing_xdp::{AttachMode, Class, Options, PollMode, PortOptions, XdpError, ZeroCopy, attach};

use crate::bed::{
    CLIENT, CLIENT_PORT, FRAME_LEN, PATIENCE, PORT, SERVER, SERVER_PORT, UDP, Wire, allocate,
    check_idle, end, ip, request, settle, small,
};
use crate::{Outcome, ROLE};

/// A frame passed to the kernel, tagged or not, reaches a socket of the host.
pub(crate) fn kernel_path() -> Outcome {
    let _wire = Wire::new(1)?;
    ip(&format!("address add {SERVER}/24 dev server"))?;
    let host = UdpSocket::bind((SERVER, SERVER_PORT))?;
    host.set_read_timeout(Some(PATIENCE))?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", &with_kernel_path(), (SERVER, SERVER_PORT))?;
    let mut client_io = workers.remove(0).into_io();
    let mut io = server_workers.remove(0).into_io();
    let mut batch = Vec::new();
    for tagged in [false, true] {
        let bytes = request(client.mac, server.mac, u64::from(tagged), FRAME_LEN);
        let mut frame = allocate(&mut client_io, &bytes).ok_or("no frame")?;
        if tagged {
            assert!(frame.move_start(-4));
            frame.bytes_mut().copy_within(4..16, 0);
            frame.bytes_mut()[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
        }
        client_io.send(PORT, frame).map_err(DropReason::label)?;
        client_io.flush();
        while batch.is_empty() {
            io.receive(&mut batch);
        }
        for frame in batch.drain(..) {
            io.pass_to_kernel(frame).map_err(DropReason::label)?;
        }
        let mut buffer = [0; 64];
        let (len, from) = host.recv_from(&mut buffer)?;
        let expected = (CLIENT, CLIENT_PORT).into();
        if from != expected || len != 22 || buffer[7] != u8::from(tagged) {
            return Err(format!("{len} bytes from {from}: {:02x?}", &buffer[..len]).into());
        }
    }
    check_idle(settle(&mut io))?;
    drop(io);
    drop(server_workers);
    // It holds the descriptors for as long as ports may be attached again.
    drop(server);
    match ip("link show wwxtap") {
        Ok(()) => Err("the TAP device still exists".into()),
        Err(_) => Ok(()),
    }
}

/// A port that is made again under its name, here with fewer queues, is attached at once. Rules older than
/// that do not give it the MAC address that it had: its frames would stay with the kernel, which routes them
/// past NAT.
pub(crate) fn made_again() -> Outcome {
    let wire = Wire::new(2)?;
    let (mut server, workers) = end("server", &small(), (SERVER, SERVER_PORT))?;
    let old = Rules {
        services: [(Address::v4(SERVER.octets()), SERVER_PORT, UDP)].into(),
        macs: vec![server.mac],
        ..Rules::default()
    };
    let port = &mut server.attached;
    port.apply(&old)?;
    drop(wire);
    if port.follow().must_bind {
        return Err("it is to be bound while it is missing".into());
    }
    let _wire = Wire::new(1)?;
    let changes = port.follow();
    if !changes.must_bind || !is_attached("server")? {
        return Err(format!("not attached again: {changes:?}").into());
    }
    port.apply(&old)?;
    drop(workers);
    let mut workers = port.bind_again()?;
    port.apply(&old)?;
    let mac = port.reports()[0].interface.mac;
    if workers.len() != 2 || mac == server.mac {
        return Err(format!("{} workers, {mac:?}", workers.len()).into());
    }
    let mut io = workers.remove(0).into_io();
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let mut client_io = workers.remove(0).into_io();
    let bytes = request(client.mac, mac, 5, FRAME_LEN);
    let frame = allocate(&mut client_io, &bytes).ok_or("no frame")?;
    client_io.send(PORT, frame).map_err(DropReason::label)?;
    client_io.flush();
    let mut batch = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while batch.is_empty() {
        if Instant::now() > deadline {
            return Err(format!("not received: {:?}", server.attached.classes()).into());
        }
        io.receive(&mut batch);
    }
    Ok(())
}

fn server_port() -> [PortOptions; 1] {
    [PortOptions {
        interface: "server".into(),
    }]
}

fn with_kernel_path() -> Options {
    Options {
        kernel_path: Some("wwxtap".into()),
        ..small()
    }
}

fn is_attached(interface: &str) -> Result<bool, Failed> {
    let output = Command::new("ip")
        .args(["link", "show", interface])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("xdp"))
}

/// An interface in use is refused and not changed. After it is released it can be attached at once.
pub(crate) fn one_owner() -> Outcome {
    let _wire = Wire::new(2)?;
    let port = server_port();
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
        Some(XdpError::Occupied {
            interface,
            holder: Some(holder),
        }) if interface == "server" && holder.pid == std::process::id() => {}
        other => return Err(format!("{other:?}").into()),
    }
    if !is_attached("server")? {
        return Err("the first one was detached".into());
    }
    drop(first);
    if is_attached("server")? {
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
    if is_attached("server")? {
        Err("still attached".into())
    } else {
        Ok(())
    }
}

/// A frame of a service whose queue has no socket is dropped and counted: the kernel would forward it without
/// NAT.
pub(crate) fn without_a_socket_frames_are_counted() -> Outcome {
    let _wire = Wire::new(1)?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let (server, server_workers) = end("server", &small(), (SERVER, SERVER_PORT))?;
    drop(server_workers);
    let mut io = workers.remove(0).into_io();
    let bytes = request(client.mac, server.mac, 5, FRAME_LEN);
    let frame = allocate(&mut io, &bytes).ok_or("no frame")?;
    io.send(PORT, frame).map_err(DropReason::label)?;
    io.flush();
    let deadline = Instant::now() + PATIENCE;
    let counted = || {
        let classes = server.attached.classes();
        classes.contains(&(Class::NoSocket, 1))
    };
    while !counted() {
        if Instant::now() > deadline {
            return Err(format!("not counted: {:?}", server.attached.classes()).into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A killed process leaves nothing attached, and another one can attach at once.
pub(crate) fn killed() -> Outcome {
    let _wire = Wire::new(1)?;
    let mut holder: Child = Command::new(env::current_exe()?)
        .env(ROLE, "holder")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = holder.stdout.take().ok_or("no output")?;
    let read = BufReader::new(stdout).read_line(&mut line);
    let attached = is_attached("server");
    holder.kill()?;
    holder.wait()?;
    read?;
    if line.trim() != "attached" || !attached? {
        return Err(format!("the process to kill printed {line:?}").into());
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while is_attached("server")? {
        if Instant::now() > deadline {
            return Err("still attached a second after the kill".into());
        }
    }
    attach(&server_port(), &with_kernel_path())?;
    Ok(())
}

/// Runs as the process that [`killed`] kills.
pub(crate) fn hold() -> ExitCode {
    match attach(&server_port(), &with_kernel_path()) {
        Ok(_attached) => {
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

/// A device that cannot be busy polled keeps its interrupts; without them frames would wait for a timer.
pub(crate) fn veth_keeps_its_interrupts() -> Outcome {
    let setting = "/sys/class/net/server/napi_defer_hard_irqs";
    let _wire = Wire::new(1)?;
    let before = std::fs::read_to_string(setting)?;
    let options = Options {
        poll: PollMode::Busy,
        ..small()
    };
    let (attached, _workers) = attach(&server_port(), &options)?;
    let deferred = attached.reports()[0].interrupts_deferred;
    let during = std::fs::read_to_string(setting)?;
    if before == during && !deferred {
        Ok(())
    } else {
        Err(format!("{before} {during}, {deferred}").into())
    }
}

pub(crate) fn mtu_too_large() -> Outcome {
    let _wire = Wire::new(1)?;
    ip("link set server mtu 65535")?;
    match attach(&server_port(), &small()).err() {
        Some(XdpError::MtuTooLarge {
            mtu: 65_535,
            mtu_max: 65_513,
            ..
        }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}
