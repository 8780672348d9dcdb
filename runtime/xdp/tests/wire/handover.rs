//! A worker's sockets change their owner under traffic.
#![expect(unsafe_code, reason = "the new owner vouches that there is no other")]

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use waxwing_dataplane::{BATCH, FrameBuf as _, FrameIo as _};
use waxwing_xdp::{BoundSocket, Handover, Options, Umem, XdpIo};

use crate::Outcome;
use crate::bed::{
    CLIENT, CLIENT_PORT, SERVER, SERVER_PORT, Wire, check_idle, end, send_requests, settle, small,
    swap_endpoints,
};

/// Batches between two hand-overs.
const BATCHES: usize = 20;

/// Takes the sockets over as another process would: all it has are descriptors and addresses.
fn take_over(io: XdpIo, options: &Options) -> Result<XdpIo, Failed> {
    let before = io.account();
    let old = io.hand_over().ok_or("no sockets")?;
    let umem = old.umem.as_fd().try_clone_to_owned()?;
    let adopt = |(port, bound): (_, BoundSocket)| {
        let socket = bound.socket.try_clone()?;
        Ok((port, BoundSocket::of(socket)?))
    };
    let sockets = old.sockets.into_iter().map(adopt);
    let new = Handover {
        umem: Arc::new(Umem::adopt(umem, options.frame_size)?),
        sockets: sockets.collect::<Result<_, Failed>>()?,
        ..old
    };
    // SAFETY: the old owner gave everything up, between two batches.
    let io = unsafe { new.adopt(options)? }.into_io();
    let after = io.account();
    if after.total != before.total || !after.is_balanced() {
        return Err(format!("{before:?}, then {after:?}").into());
    }
    Ok(io)
}

/// Every request is answered once, although the server's sockets change their owner again and again.
pub(crate) fn no_frame_is_lost() -> Outcome {
    let _wire = Wire::new(1)?;
    let options = small();
    let (client, mut workers) = end("client", &options, (CLIENT, CLIENT_PORT))?;
    let (server, mut server_workers) = end("server", &options, (SERVER, SERVER_PORT))?;
    let sockets = server_workers.remove(0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let serve = scope.spawn(|| {
            let mut io = sockets.into_io();
            let (mut batch, mut batches, mut owners) = (Vec::with_capacity(BATCH), 0, 0);
            while !is_over.load(Ordering::Relaxed) {
                io.receive(&mut batch);
                if batch.is_empty() {
                    io.wait(Duration::from_millis(20));
                    continue;
                }
                for mut frame in batch.drain(..) {
                    swap_endpoints(frame.bytes_mut());
                    let port = frame.port();
                    io.send(port, frame).expect("room in the transmit ring");
                }
                batches += 1;
                if batches % BATCHES == 0 {
                    // Not flushed: the frames queued are sent by the hand-over.
                    io = take_over(io, &options)?;
                    owners += 1;
                } else {
                    io.flush();
                }
            }
            check_idle(settle(&mut io))?;
            Ok(owners)
        });
        let mut io = workers.remove(0).into_io();
        let sent = send_requests(&mut io, client.mac, server.mac, 20_000, 200);
        is_over.store(true, Ordering::Relaxed);
        let owners: Result<u32, Failed> = serve.join().map_err(|_| "the server panicked")?;
        let owners = owners?;
        sent?;
        println!("    20000 frames answered by {owners} owners in turn");
        check_idle(settle(&mut io))?;
        if owners < 5 {
            Err("too few hand-overs".into())
        } else {
            Ok(())
        }
    })
}
