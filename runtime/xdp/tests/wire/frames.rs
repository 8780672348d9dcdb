//! Frames to the server and back: none is lost, and the chunk counts are balanced.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use waxwing_dataplane::{DropReason, FrameBuf, FrameIo, PortId};
use waxwing_xdp::{Class, Options, XdpFrame};

use crate::Outcome;
use crate::bed::{
    CLIENT, CLIENT_PORT, FRAME_LEN, PATIENCE, PORT, SERVER, SERVER_PORT, Server, Wire, allocate,
    check_idle, end, number, request, send_requests, settle, small, swap_endpoints,
};

/// Every frame is answered once; at the end every chunk is free or in a fill ring.
pub(crate) fn every_frame_is_answered(options: &Options, count: u64, window: u64) -> Outcome {
    let _wire = Wire::new(1)?;
    let (client, mut workers) = end("client", options, (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", options, (SERVER, SERVER_PORT))?;
    let mut echo = Server::start(server_workers.remove(0), |frame| {
        swap_endpoints(frame.bytes_mut());
    });
    let mut io = workers.remove(0).into_io();
    let start = Instant::now();
    send_requests(&mut io, client.mac, server.mac, count, window)?;
    let each = start.elapsed() / u32::try_from(count)?;
    println!("    {count} frames answered, {window} at a time: {each:?} each");
    check_idle(settle(&mut io))?;
    check_idle(echo.stop()?)?;
    let classes = server.attached.classes();
    if !classes.contains(&(Class::Service, count)) {
        return Err(format!("{classes:?}").into());
    }
    let statistics = server.attached.statistics();
    if statistics.iter().any(|queue| queue.counts.is_some()) {
        return Err("a closed socket still has counters".into());
    }
    Ok(())
}

pub(crate) fn two_queues() -> Outcome {
    let _wire = Wire::new(2)?;
    let (client, workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let (server, server_workers) = end("server", &small(), (SERVER, SERVER_PORT))?;
    if workers.len() != 2 || server_workers.len() != 2 {
        return Err(format!("{} and {} workers", workers.len(), server_workers.len()).into());
    }
    let swap = |frame: &mut XdpFrame| swap_endpoints(frame.bytes_mut());
    let mut echoes: Vec<_> = server_workers
        .into_iter()
        .map(|sockets| Server::start(sockets, swap))
        .collect();
    for (sockets, count) in workers.into_iter().zip([3000, 2000]) {
        let mut io = sockets.into_io();
        send_requests(&mut io, client.mac, server.mac, count, 64)?;
        check_idle(settle(&mut io))?;
    }
    let answered: Vec<_> = echoes
        .iter()
        .map(|e| e.answered.load(Ordering::Relaxed))
        .collect();
    for echo in &mut echoes {
        check_idle(echo.stop()?)?;
    }
    if answered == [3000, 2000] {
        Ok(())
    } else {
        Err(format!("{answered:?} by queue").into())
    }
}

/// Removes the VLAN tag behind the MAC addresses.
pub(crate) fn pop_tag(frame: &mut XdpFrame) {
    let macs: [u8; 12] = frame.bytes()[..12].try_into().expect("twelve bytes");
    assert!(frame.move_start(4));
    frame.bytes_mut()[..12].copy_from_slice(&macs);
}

/// Inserts a VLAN tag behind the MAC addresses. First removes bytes at the start, so that adding some moves
/// the packet.
pub(crate) fn push_tag(frame: &mut XdpFrame) {
    let macs: [u8; 12] = frame.bytes()[..12].try_into().expect("twelve bytes");
    assert!(frame.move_start(4));
    assert!(frame.move_start(-8));
    frame.bytes_mut()[..12].copy_from_slice(&macs);
    frame.bytes_mut()[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
}

/// A frame arrives intact after its start has moved.
pub(crate) fn frame_start_moves() -> Outcome {
    let _wire = Wire::new(1)?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", &small(), (SERVER, SERVER_PORT))?;
    let _echo = Server::start(server_workers.remove(0), |frame| {
        swap_endpoints(frame.bytes_mut());
        push_tag(frame);
        push_tag(frame);
        pop_tag(frame);
    });
    let mut io = workers.remove(0).into_io();
    let bytes = request(client.mac, server.mac, 77, FRAME_LEN);
    let frame = allocate(&mut io, &bytes).ok_or("no frame")?;
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

/// Frames that exceed the transmit ring are refused, and their chunks not lost.
pub(crate) fn transmit_ring_full() -> Outcome {
    let _wire = Wire::new(1)?;
    let (client, mut workers) = end("client", &small(), (CLIENT, CLIENT_PORT))?;
    let mut io = workers.remove(0).into_io();
    let mut refused = 0;
    for sequence in 0..600 {
        let bytes = request(client.mac, client.mac, sequence, FRAME_LEN);
        let frame = allocate(&mut io, &bytes).ok_or("the pool is empty")?;
        if io.send(PORT, frame) == Err(DropReason::TransmitRingFull) {
            refused += 1;
        }
    }
    if refused != 600 - 512 {
        return Err(format!("{refused} refused").into());
    }
    let frame = io.allocate(PORT).ok_or("the pool is empty")?;
    if io.send(PortId(9), frame) != Err(DropReason::PortMissing) {
        return Err("sent to a port that does not exist".into());
    }
    io.flush();
    check_idle(settle(&mut io))
}
