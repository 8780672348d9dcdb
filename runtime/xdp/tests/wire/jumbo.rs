//! Jumbo frames in several chunks: each is answered byte for byte, or refused as a whole.

use std::net::UdpSocket;
use std::time::Instant;

use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo};
use waxwing_packet::Mac;
use waxwing_xdp::{Options, XdpFrame, XdpIo};

use crate::Outcome;
use crate::bed::{
    CLIENT, CLIENT_PORT, PATIENCE, PAYLOAD, PORT, SERVER, SERVER_PORT, Server, Wire, allocate,
    check_idle, end, ip, number, request, settle, small, swap_endpoints,
};
use crate::frames::{pop_tag, push_tag};

const MTU: u32 = 9000;

fn to_vec(frame: &XdpFrame) -> Vec<u8> {
    let mut bytes = vec![0; frame.frame_len()];
    assert_eq!(frame.copy_to(&mut bytes), bytes.len());
    bytes
}

/// Sends a request of each length, `window` at a time, until all were answered with the same payload.
fn send_all(io: &mut XdpIo, from: Mac, to: Mac, lens: &[usize], window: usize) -> Outcome {
    let mut back = vec![false; lens.len()];
    let (mut sent, mut answered) = (0, 0);
    let mut batch = Vec::with_capacity(BATCH);
    let deadline = Instant::now() + PATIENCE;
    while answered < lens.len() {
        while sent < lens.len() && sent - answered < window {
            let bytes = request(from, to, sent as u64, lens[sent]);
            let frame = allocate(io, &bytes).ok_or("no frame")?;
            io.send(PORT, frame).map_err(DropReason::label)?;
            sent += 1;
        }
        io.flush();
        io.receive(&mut batch);
        for frame in batch.drain(..) {
            let bytes = to_vec(&frame);
            let number = usize::try_from(number(&bytes).ok_or("a short answer")?)?;
            let mut expected = request(from, to, number as u64, lens[number]);
            swap_endpoints(&mut expected);
            if bytes != expected || std::mem::replace(&mut back[number], true) {
                return Err(
                    format!("request {number}: {} wrong bytes, or twice", bytes.len()).into(),
                );
            }
            answered += 1;
        }
        assert!(io.account().is_balanced());
        if Instant::now() > deadline {
            return Err(format!("{answered} of {sent} were answered: {:?}", io.account()).into());
        }
    }
    Ok(())
}

/// Returns lengths around every multiple of a chunk's capacity, and others, up to the MTU.
fn lengths(options: &Options, mtu: u32) -> Vec<usize> {
    let (chunk, longest) = (options.frame_size as usize - 256, mtu as usize + 14);
    let around = (1..=longest / chunk).flat_map(|n| [n * chunk - 1, n * chunk, n * chunk + 1]);
    let between = (60..longest).step_by(longest / 100 + 1);
    around
        .chain(between)
        .chain([60, 1514, longest])
        .filter(|len| *len <= longest)
        .collect()
}

pub(crate) fn jumbo_frames_are_answered(options: &Options, mtu: u32) -> Outcome {
    let _wire = Wire::with_mtu(1, mtu)?;
    let (client, mut workers) = end("client", options, (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", options, (SERVER, SERVER_PORT))?;
    let mut echo = Server::start(server_workers.remove(0), |frame| {
        swap_endpoints(frame.bytes_mut());
    });
    let mut io = workers.remove(0).into_io();
    let lens = lengths(options, mtu);
    for window in [1, 16] {
        send_all(&mut io, client.mac, server.mac, &lens, window)?;
    }
    // Half a ring at once: batches end inside frames.
    let longest = mtu as usize + 14;
    let chunks = longest.div_ceil(options.frame_size as usize - 256);
    let (many, window) = (vec![longest; 1000], 256 / chunks);
    send_all(&mut io, client.mac, server.mac, &many, window)?;
    for report in client.attached.reports() {
        println!("    {:?} XDP, {:?}", report.attach_mode, report.attach_why);
    }
    check_idle(settle(&mut io))?;
    check_idle(echo.stop()?)
}

/// Sends a frame of each length to a server that runs `answer`; returns the answers.
fn answers(
    lens: &[usize],
    answer: fn(&mut XdpFrame),
) -> Result<Vec<Vec<u8>>, libtest_mimic::Failed> {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", &small(), (SERVER, SERVER_PORT))?;
    let mut echo = Server::start(server_workers.remove(0), answer);
    let mut io = workers.remove(0).into_io();
    let mut got = Vec::new();
    for (number, &len) in (0..).zip(lens) {
        let bytes = request(client.mac, server.mac, number, len);
        let frame = allocate(&mut io, &bytes).ok_or("no frame")?;
        io.send(PORT, frame).map_err(DropReason::label)?;
        io.flush();
        let mut batch = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while batch.is_empty() && Instant::now() < deadline {
            io.receive(&mut batch);
        }
        got.extend(batch.iter().map(to_vec));
    }
    check_idle(settle(&mut io))?;
    check_idle(echo.stop()?)?;
    Ok(got)
}

/// A received frame's first chunk is full, so bytes added at its start move others into a new chunk.
pub(crate) fn jumbo_frame_start_moves() -> Outcome {
    let lens = [3836, 3837, 3840, 3841, 7680, 9010];
    let got = answers(&lens, |frame| {
        let before = frame.frame_len();
        swap_endpoints(frame.bytes_mut());
        push_tag(frame);
        push_tag(frame);
        assert_eq!(frame.frame_len(), before + 8);
        pop_tag(frame);
    })?;
    for (number, (len, mut bytes)) in lens.into_iter().zip(got).enumerate() {
        assert_eq!(bytes[12..18], [0x81, 0, 0, 5, 8, 0], "{len}");
        bytes.drain(12..16);
        swap_endpoints(&mut bytes);
        let macs: [Mac; 2] = [0, 6].map(|at| Mac(std::array::from_fn(|i| bytes[at + i])));
        assert!(
            bytes == request(macs[1], macs[0], number as u64, len),
            "{len}"
        );
    }
    Ok(())
}

/// A frame is shortened to a length in its first chunk, in a later one, and at a chunk's end; then emptied
/// and extended again.
pub(crate) fn jumbo_length_changes() -> Outcome {
    const CUTS: [usize; 7] = [64, 3840, 3841, 7000, 7680, 9000, 9014];
    let lens = [9014; 7];
    let got = answers(&lens, |frame| {
        swap_endpoints(frame.bytes_mut());
        let number = number(frame.bytes()).and_then(|number| usize::try_from(number).ok());
        let cut = CUTS[number.expect("a request")];
        assert!(
            !frame.set_len(9015),
            "a frame in several chunks cannot grow"
        );
        assert!(frame.set_len(cut));
        assert_eq!(frame.frame_len(), cut);
        let bytes = to_vec(frame);
        assert!(frame.set_len(0));
        assert!(
            !frame.set_len(18 * 3840 + 1),
            "the maximum number of chunks"
        );
        assert_eq!(frame.frame_len(), 0);
        assert!(frame.set_len(cut));
        frame.copy_from(&bytes);
    })?;
    for (number, (cut, mut bytes)) in CUTS.into_iter().zip(got).enumerate() {
        assert_eq!(bytes.len(), cut);
        swap_endpoints(&mut bytes);
        let macs: [Mac; 2] = [0, 6].map(|at| Mac(std::array::from_fn(|i| bytes[at + i])));
        let whole = request(macs[1], macs[0], number as u64, 9014);
        assert!(bytes == whole[..cut], "{cut}");
    }
    Ok(())
}

/// 512 slots take 170 frames of three chunks, and no part of another.
pub(crate) fn jumbo_ring_full() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let mut io = workers.remove(0).into_io();
    let mut refused = 0;
    for sequence in 0..180 {
        let bytes = request(client.mac, client.mac, sequence, 9014);
        let frame = allocate(&mut io, &bytes).ok_or("the pool is empty")?;
        if io.send(PORT, frame) == Err(DropReason::TransmitRingFull) {
            refused += 1;
        }
        assert!(io.account().is_balanced());
    }
    if refused != 180 - 512 / 3 {
        return Err(format!("{refused} refused").into());
    }
    io.flush();
    check_idle(settle(&mut io))
}

/// More frames than the receiver has chunks: the kernel drops whole frames, and the others arrive intact.
pub(crate) fn jumbo_overload() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", &small(), (SERVER, SERVER_PORT))?;
    let mut io = workers.remove(0).into_io();
    let mut other = server_workers.remove(0).into_io();
    let length = |number: u64| usize::try_from(64 + number * 977 % 8950).expect("a frame");
    let (mut sent, mut arrived) = (0, 0);
    let mut batch = Vec::new();
    for round in 0..40 {
        while sent < (round + 1) * 50 {
            io.receive(&mut batch);
            let bytes = request(client.mac, server.mac, sent, length(sent));
            let Some(frame) = allocate(&mut io, &bytes) else {
                continue;
            };
            sent += u64::from(io.send(PORT, frame).is_ok());
            io.flush();
        }
        // One batch for fifty frames is too slow for all of them.
        other.receive(&mut batch);
        for frame in batch.drain(..) {
            let bytes = to_vec(&frame);
            let number = number(&bytes).ok_or("a short frame")?;
            let expected = request(client.mac, server.mac, number, length(number));
            if bytes != expected {
                return Err(format!("frame {number} is damaged").into());
            }
            arrived += 1;
        }
        assert!(other.account().is_balanced());
    }
    println!("    {arrived} of {sent} arrived");
    check_idle(settle(&mut io))?;
    if arrived == 0 || arrived == sent {
        return Err("no overload".into());
    }
    Ok(())
}

/// A jumbo frame passed to the kernel reaches a socket of the host intact.
pub(crate) fn jumbo_kernel_path() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
    ip(&format!("address add {SERVER}/24 dev server"))?;
    let host = UdpSocket::bind((SERVER, SERVER_PORT))?;
    host.set_read_timeout(Some(PATIENCE))?;
    let with_path = Options {
        kernel_path: Some("wwxtap".into()),
        ..small()
    };
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", &with_path, (SERVER, SERVER_PORT))?;
    let mut client_io = workers.remove(0).into_io();
    let mut io = server_workers.remove(0).into_io();
    for (number, len) in (0..).zip([64, 4000, 9014]) {
        let bytes = request(client.mac, server.mac, number, len);
        let frame = allocate(&mut client_io, &bytes).ok_or("no frame")?;
        client_io.send(PORT, frame).map_err(DropReason::label)?;
        client_io.flush();
        let mut batch = Vec::new();
        while batch.is_empty() {
            io.receive(&mut batch);
        }
        for frame in batch.drain(..) {
            io.pass_to_kernel(frame).map_err(DropReason::label)?;
        }
        let mut buffer = [0; 10_000];
        let (received, _) = host.recv_from(&mut buffer)?;
        if buffer[..received] != bytes[PAYLOAD..] {
            return Err(format!("{received} bytes of {len}").into());
        }
    }
    check_idle(settle(&mut io))
}

/// The server closes while frames arrive, and opens again: frames in flight are lost, later ones are intact.
pub(crate) fn jumbo_reopened() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let mut io = workers.remove(0).into_io();
    for _ in 0..5 {
        let (server, mut server_workers) = end("server", &small(), (SERVER, SERVER_PORT))?;
        let mut echo = Server::start(server_workers.remove(0), |frame| {
            swap_endpoints(frame.bytes_mut());
        });
        send_all(&mut io, client.mac, server.mac, &[9014; 100], 20)?;
        for number in 0..100 {
            let bytes = request(client.mac, server.mac, number, 9014);
            let frame = allocate(&mut io, &bytes).ok_or("no frame")?;
            io.send(PORT, frame).map_err(DropReason::label)?;
        }
        io.flush();
        let account = echo.stop()?;
        assert!(account.is_balanced(), "{account:?}");
        drop(server);
        check_idle(settle(&mut io))?;
    }
    Ok(())
}
