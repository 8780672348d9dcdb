//! What the host keeps: its sockets, its interfaces, and both after an end of any kind.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use waxwing_dataplane::{DropReason, FrameBuf, FrameIo};
use waxwing_xdp::{AttachMode, Options, PollMode, PortOptions, XdpError, ZeroCopy, attach};

use crate::bed::{
    ANSWERER, ANSWERER_PORT, ASKER, ASKER_PORT, PATIENCE, PORT, Wire, at_rest, end, ip, settle,
    small, write_question,
};
use crate::{Outcome, ROLE};

/// A frame handed back reaches a socket of the host, a tagged one too.
pub(crate) fn kernel_path() -> Outcome {
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

pub(crate) fn is_attached(interface: &str) -> Result<bool, Failed> {
    let output = Command::new("ip")
        .args(["link", "show", interface])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("xdp"))
}

/// An interface in use is refused and left as it is; one given up can be taken at once.
pub(crate) fn one_owner() -> Outcome {
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
pub(crate) fn without_a_socket_the_kernel_has_it() -> Outcome {
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
pub(crate) fn killed() -> Outcome {
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
pub(crate) fn hold() -> ExitCode {
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
pub(crate) fn veth_keeps_its_interrupts() -> Outcome {
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

pub(crate) fn mtu_too_large() -> Outcome {
    let _wire = Wire::new(1)?;
    ip("link set answer mtu 65535")?;
    match attach(
        &[PortOptions {
            interface: "answer".into(),
        }],
        &small(),
    )
    .err()
    {
        Some(XdpError::MtuTooLarge {
            mtu: 65_535,
            mtu_max: 65_513,
            ..
        }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}
