//! Jumbo frames, which lie in several chunks: each comes back byte for byte, or is refused whole.

use std::net::UdpSocket;
use std::time::Instant;

use waxwing_dataplane::{BATCH, DropReason, FrameBuf, FrameIo};
use waxwing_packet::Mac;
use waxwing_xdp::{Options, XdpFrame, XdpIo};

use crate::Outcome;
use crate::bed::{
    ANSWERER, ANSWERER_PORT, ASKER, ASKER_PORT, Answerer, PATIENCE, PAYLOAD, PORT, Wire, at_rest,
    end, ip, number, settle, small, turn_around, write_headers,
};
use crate::frames::{pop_tag, push_tag};

const MTU: u32 = 9000;

/// The question of this number, in so many bytes: no two have the same payload.
fn question(from: Mac, to: Mac, number: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len)
        .map(|at| (at as u64 * 7 + number * 13 + at as u64 / 256).to_le_bytes()[0])
        .collect();
    bytes[..PAYLOAD].fill(0);
    write_headers(&mut bytes, from, to, number);
    bytes
}

fn to_vec(frame: &XdpFrame) -> Vec<u8> {
    let mut bytes = vec![0; frame.frame_len()];
    assert_eq!(frame.copy_to(&mut bytes), bytes.len());
    bytes
}

/// Asks one question of each length, `window` at a time, until all came back with their bytes.
fn ask_all(io: &mut XdpIo, from: Mac, to: Mac, lens: &[usize], window: usize) -> Outcome {
    let mut back = vec![false; lens.len()];
    let (mut asked, mut answered) = (0, 0);
    let mut batch = Vec::with_capacity(BATCH);
    let deadline = Instant::now() + PATIENCE;
    while answered < lens.len() {
        while asked < lens.len() && asked - answered < window {
            let mut frame = io.allocate(PORT).ok_or("no frame")?;
            assert!(frame.set_len(lens[asked]));
            frame.copy_from(&question(from, to, asked as u64, lens[asked]));
            io.send(PORT, frame).map_err(DropReason::label)?;
            asked += 1;
        }
        io.flush();
        io.receive(&mut batch);
        for frame in batch.drain(..) {
            let bytes = to_vec(&frame);
            let number = usize::try_from(number(&bytes).ok_or("a short answer")?)?;
            let mut expected = question(from, to, number as u64, lens[number]);
            turn_around(&mut expected);
            if bytes != expected || std::mem::replace(&mut back[number], true) {
                return Err(format!("question {number}: {} bytes, or twice", bytes.len()).into());
            }
            answered += 1;
        }
        assert!(io.account().is_balanced());
        if Instant::now() > deadline {
            return Err(format!("{answered} of {asked} came back: {:?}", io.account()).into());
        }
    }
    Ok(())
}

/// Lengths around every multiple of what a chunk holds, and some between, up to what the MTU takes.
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

pub(crate) fn jumbo_frames_come_back(options: &Options, mtu: u32) -> Outcome {
    let _wire = Wire::with_mtu(1, mtu)?;
    let (asker, mut workers) = end("ask", options, (ASKER, ASKER_PORT))?;
    let (answerer, mut answering) = end("answer", options, (ANSWERER, ANSWERER_PORT))?;
    let mut echo = Answerer::start(answering.remove(0), |frame| turn_around(frame.bytes_mut()));
    let mut io = workers.remove(0).into_io();
    let lens = lengths(options, mtu);
    for window in [1, 16] {
        ask_all(&mut io, asker.mac, answerer.mac, &lens, window)?;
    }
    // As many at once as half a ring takes: batches end within frames.
    let longest = mtu as usize + 14;
    let chunks = longest.div_ceil(options.frame_size as usize - 256);
    let (many, window) = (vec![longest; 1000], 256 / chunks);
    ask_all(&mut io, asker.mac, answerer.mac, &many, window)?;
    for report in asker.attached.reports() {
        println!("    {:?} XDP, {:?}", report.attach_mode, report.attach_why);
    }
    at_rest(settle(&mut io))?;
    at_rest(echo.stop()?)
}

/// Sends frames to be answered in another way, and gives each answer.
fn answers(
    lens: &[usize],
    answer: fn(&mut XdpFrame),
) -> Result<Vec<Vec<u8>>, libtest_mimic::Failed> {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let (answerer, mut answering) = end("answer", &small(), (ANSWERER, ANSWERER_PORT))?;
    let mut echo = Answerer::start(answering.remove(0), answer);
    let mut io = workers.remove(0).into_io();
    let mut got = Vec::new();
    for (number, &len) in (0..).zip(lens) {
        let mut frame = io.allocate(PORT).ok_or("no frame")?;
        assert!(frame.set_len(len));
        frame.copy_from(&question(asker.mac, answerer.mac, number, len));
        io.send(PORT, frame).map_err(DropReason::label)?;
        io.flush();
        let mut batch = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while batch.is_empty() && Instant::now() < deadline {
            io.receive(&mut batch);
        }
        got.extend(batch.iter().map(to_vec));
    }
    at_rest(settle(&mut io))?;
    at_rest(echo.stop()?)?;
    Ok(got)
}

/// The first chunk of a received frame is full: what its head grows by moves on into another.
pub(crate) fn jumbo_heads_move() -> Outcome {
    let lens = [3836, 3837, 3840, 3841, 7680, 9010];
    let got = answers(&lens, |frame| {
        let before = frame.frame_len();
        turn_around(frame.bytes_mut());
        push_tag(frame);
        push_tag(frame);
        assert_eq!(frame.frame_len(), before + 8);
        pop_tag(frame);
    })?;
    for (number, (len, mut bytes)) in lens.into_iter().zip(got).enumerate() {
        assert_eq!(bytes[12..18], [0x81, 0, 0, 5, 8, 0], "{len}");
        bytes.drain(12..16);
        turn_around(&mut bytes);
        let macs: [Mac; 2] = [0, 6].map(|at| Mac(std::array::from_fn(|i| bytes[at + i])));
        assert!(
            bytes == question(macs[1], macs[0], number as u64, len),
            "{len}"
        );
    }
    Ok(())
}

/// A frame is cut within its first chunk, within a later one and at the end of one, and an empty one
/// made as long as it was.
pub(crate) fn jumbo_lengths() -> Outcome {
    const CUTS: [usize; 7] = [64, 3840, 3841, 7000, 7680, 9000, 9014];
    let lens = [9014; 7];
    let got = answers(&lens, |frame| {
        turn_around(frame.bytes_mut());
        let number = number(frame.bytes()).and_then(|number| usize::try_from(number).ok());
        let cut = CUTS[number.expect("a question")];
        assert!(
            !frame.set_len(9015),
            "what lies in several chunks does not grow"
        );
        assert!(frame.set_len(cut));
        assert_eq!(frame.frame_len(), cut);
        let bytes = to_vec(frame);
        assert!(frame.set_len(0));
        assert!(
            !frame.set_len(18 * 3840 + 1),
            "more chunks than a frame may have"
        );
        assert_eq!(frame.frame_len(), 0);
        assert!(frame.set_len(cut));
        frame.copy_from(&bytes);
    })?;
    for (number, (cut, mut bytes)) in CUTS.into_iter().zip(got).enumerate() {
        assert_eq!(bytes.len(), cut);
        turn_around(&mut bytes);
        let macs: [Mac; 2] = [0, 6].map(|at| Mac(std::array::from_fn(|i| bytes[at + i])));
        let whole = question(macs[1], macs[0], number as u64, 9014);
        assert!(bytes == whole[..cut], "{cut}");
    }
    Ok(())
}

/// 512 slots take 170 frames of three chunks; none is torn.
pub(crate) fn jumbo_ring_full() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let mut io = workers.remove(0).into_io();
    let mut refused = 0;
    for sequence in 0..180 {
        let mut frame = io.allocate(PORT).ok_or("the pool is empty")?;
        assert!(frame.set_len(9014));
        frame.copy_from(&question(asker.mac, asker.mac, sequence, 9014));
        if io.send(PORT, frame) == Err(DropReason::TransmitRingFull) {
            refused += 1;
        }
        assert!(io.account().is_balanced());
    }
    if refused != 180 - 512 / 3 {
        return Err(format!("{refused} refused").into());
    }
    io.flush();
    at_rest(settle(&mut io))
}

/// More frames than the other end has chunks for: the kernel drops whole ones, and the others arrive
/// with their bytes, each in its turn.
pub(crate) fn jumbo_overload() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let (answerer, mut answering) = end("answer", &small(), (ANSWERER, ANSWERER_PORT))?;
    let mut io = workers.remove(0).into_io();
    let mut other = answering.remove(0).into_io();
    let length = |number: u64| usize::try_from(64 + number * 977 % 8950).expect("a frame");
    let (mut sent, mut arrived) = (0, 0);
    let mut batch = Vec::new();
    for round in 0..40 {
        while sent < (round + 1) * 50 {
            io.receive(&mut batch);
            let Some(mut frame) = io.allocate(PORT) else {
                continue;
            };
            assert!(frame.set_len(length(sent)));
            frame.copy_from(&question(asker.mac, answerer.mac, sent, length(sent)));
            sent += u64::from(io.send(PORT, frame).is_ok());
            io.flush();
        }
        // One turn for each fifty frames is less than what comes.
        other.receive(&mut batch);
        for frame in batch.drain(..) {
            let bytes = to_vec(&frame);
            let number = number(&bytes).ok_or("a short frame")?;
            let expected = question(asker.mac, answerer.mac, number, length(number));
            if bytes != expected {
                return Err(format!("frame {number} is torn").into());
            }
            arrived += 1;
        }
        assert!(other.account().is_balanced());
    }
    println!("    {arrived} of {sent} arrived");
    at_rest(settle(&mut io))?;
    if arrived == 0 || arrived == sent {
        return Err("no overload".into());
    }
    Ok(())
}

/// A frame handed back reaches a socket of the host as it was.
pub(crate) fn jumbo_kernel_path() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
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
    for (number, len) in (0..).zip([64, 4000, 9014]) {
        let bytes = question(asker.mac, answerer.mac, number, len);
        let mut frame = asking.allocate(PORT).ok_or("no frame")?;
        assert!(frame.set_len(len));
        frame.copy_from(&bytes);
        asking.send(PORT, frame).map_err(DropReason::label)?;
        asking.flush();
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
    at_rest(settle(&mut io))
}

/// An end that is closed among frames and opened again: those that were under way are lost, and the
/// next ones whole.
pub(crate) fn jumbo_reopened() -> Outcome {
    let _wire = Wire::with_mtu(1, MTU)?;
    let (asker, mut workers) = end("ask", &small(), (ASKER, ASKER_PORT))?;
    let mut io = workers.remove(0).into_io();
    for _ in 0..5 {
        let (answerer, mut answering) = end("answer", &small(), (ANSWERER, ANSWERER_PORT))?;
        let mut echo = Answerer::start(answering.remove(0), |frame| turn_around(frame.bytes_mut()));
        ask_all(&mut io, asker.mac, answerer.mac, &[9014; 100], 20)?;
        for number in 0..100 {
            let mut frame = io.allocate(PORT).ok_or("no frame")?;
            assert!(frame.set_len(9014));
            frame.copy_from(&question(asker.mac, answerer.mac, number, 9014));
            io.send(PORT, frame).map_err(DropReason::label)?;
        }
        io.flush();
        let account = echo.stop()?;
        assert!(account.is_balanced(), "{account:?}");
        drop(answerer);
        at_rest(settle(&mut io))?;
    }
    Ok(())
}
