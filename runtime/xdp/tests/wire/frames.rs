//! Frames there and back: none is lost, and each is accounted for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use waxwing_dataplane::{DropReason, FrameBuf, FrameIo, PortId};
use waxwing_xdp::{Class, Options, XdpFrame};

use crate::Outcome;
use crate::bed::{
    ANSWERER, ANSWERER_PORT, ASKER, ASKER_PORT, Answerer, FRAME_LEN, PATIENCE, PORT, Wire, ask,
    at_rest, end, number, settle, small, turn_around, write_question,
};

/// Every frame comes back once, and at the end every frame is where it was at the start.
pub(crate) fn all_come_back(options: &Options, count: u64, window: u64) -> Outcome {
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

pub(crate) fn two_queues() -> Outcome {
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
pub(crate) fn pop_tag(frame: &mut XdpFrame) {
    let macs: [u8; 12] = frame.bytes()[..12].try_into().expect("twelve bytes");
    assert!(frame.move_start(4));
    frame.bytes_mut()[..12].copy_from_slice(&macs);
}

/// A tag after the MAC addresses; the head is first cut, so that growing it moves bytes.
pub(crate) fn push_tag(frame: &mut XdpFrame) {
    let macs: [u8; 12] = frame.bytes()[..12].try_into().expect("twelve bytes");
    assert!(frame.move_start(4));
    assert!(frame.move_start(-8));
    frame.bytes_mut()[..12].copy_from_slice(&macs);
    frame.bytes_mut()[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
}

/// A frame whose head grew and shrank arrives as it should.
pub(crate) fn heads_move() -> Outcome {
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
pub(crate) fn transmit_ring_full() -> Outcome {
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
