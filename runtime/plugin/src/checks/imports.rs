//! What a health check may call: its one way out of the sandbox.
//!
//! Invariant: a place in memory is checked before anything is done with it, and a wrong one is a trap;
//! a wrong number costs the module an error. Guest memory is never held while something is waited for.

use std::ops::Range;
use std::time::{Duration, Instant};

use tracing::debug;
use wasmtime::{Caller, Engine, Extern, Linker, bail};
use waxwing_packet::Protocol;
use waxwing_sdk::abi::health::errors::{INVALID, LIMIT, TLS as TLS_FAILED};
use waxwing_sdk::abi::health::imports::{
    CLOSE, CONNECT, ERROR_TEXT, LOG, MODULE, NOW_MS, RECV, SEND, SLEEP_MS, TLS,
};
use waxwing_sdk::abi::{PROTOCOL_TCP, PROTOCOL_UDP, exports};

use super::connection::{Connection, Failed};
use super::meter::Doing;
use super::state::State;
use crate::words::fit_for_people;

/// The most bytes that one call receives of a stream.
const RECEIVE_MAX: usize = 16 << 10;

/// The largest datagram.
const DATAGRAM_MAX: usize = 64 << 10;

/// The longest line of the log, in bytes.
const LINE_MAX: usize = 512;

/// The longest list of TLS protocols, in bytes.
const ALPN_MAX: usize = 256;

type Called<'a> = Caller<'a, State>;

/// All imports.
pub(super) fn link(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    link_target(&mut linker)?;
    link_host(&mut linker)?;
    Ok(linker)
}

/// What is done with the target.
fn link_target(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, CONNECT, |mut caller: Called<'_>, (protocol,)| {
        Box::new(async move {
            begin(&caller, CONNECT, Doing::Connecting)?;
            let done = connect(&mut caller, protocol).await;
            Ok(end(&mut caller, done))
        })
    })?;
    let exchanges = [
        (TLS, Doing::Tls),
        (SEND, Doing::Sending),
        (RECV, Doing::Receiving),
    ];
    for (name, doing) in exchanges {
        linker.func_wrap_async(MODULE, name, move |caller: Called<'_>, given| {
            Box::new(exchange(caller, name, doing, given))
        })?;
    }
    linker.func_wrap(MODULE, CLOSE, |mut caller: Called<'_>, number: i32| {
        begin(&caller, CLOSE, Doing::Computing)?;
        caller.data_mut().close(number);
        Ok(())
    })?;
    Ok(())
}

/// What is asked of the host alone.
fn link_host(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, SLEEP_MS, |caller: Called<'_>, (ms,): (i32,)| {
        Box::new(async move {
            begin(&caller, SLEEP_MS, Doing::Sleeping)?;
            tokio::time::sleep(Duration::from_millis(ms.cast_unsigned().into())).await;
            caller.data().meter.set_doing(Doing::Computing);
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, NOW_MS, |caller: Called<'_>| {
        begin(&caller, NOW_MS, Doing::Computing)?;
        let now = Instant::now().duration_since(caller.data().start);
        Ok(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
    })?;
    linker.func_wrap(
        MODULE,
        ERROR_TEXT,
        |mut caller: Called<'_>, address: i32, len: i32| {
            begin(&caller, ERROR_TEXT, Doing::Computing)?;
            let place = place(&mut caller, ERROR_TEXT, (address, len))?;
            Ok(error_text(&mut caller, place))
        },
    )?;
    linker.func_wrap(
        MODULE,
        LOG,
        |mut caller: Called<'_>, address: i32, len: i32| {
            let place = place(&mut caller, LOG, (address, len))?;
            log(&mut caller, place);
            Ok(())
        },
    )?;
    Ok(())
}

/// What is done with a connection and a place in memory.
async fn exchange(
    mut caller: Called<'_>,
    name: &'static str,
    doing: Doing,
    (number, address, len): (i32, i32, i32),
) -> wasmtime::Result<i32> {
    begin(&caller, name, doing)?;
    let place = place(&mut caller, name, (address, len))?;
    let done = match doing {
        Doing::Tls => secure(&mut caller, number, place).await,
        Doing::Sending => send(&mut caller, number, place).await,
        _ => receive(&mut caller, number, place).await,
    };
    Ok(end(&mut caller, done))
}

/// Only the check itself may call the target, or wait.
fn begin(caller: &Called<'_>, name: &str, doing: Doing) -> wasmtime::Result<()> {
    let state = caller.data();
    if !state.may_connect {
        bail!("called `{name}` outside of waxwing_check, where only `{LOG}` may be called");
    }
    state.meter.set_doing(doing);
    Ok(())
}

/// What the module gets.
fn end(caller: &mut Called<'_>, done: Result<i32, Failed>) -> i32 {
    let state = caller.data_mut();
    state.meter.set_doing(Doing::Computing);
    done.unwrap_or_else(|failed| {
        if failed.is_local {
            state.meter.hinder(&failed.words);
        }
        state.words = failed.words;
        failed.code
    })
}

/// Bytes that the module has: they are there for as long as its instance is, for memory never shrinks.
fn place(
    caller: &mut Called<'_>,
    name: &str,
    (address, len): (i32, i32),
) -> wasmtime::Result<Range<usize>> {
    let (start, len) = (
        address.cast_unsigned() as usize,
        len.cast_unsigned() as usize,
    );
    let place = start..start.saturating_add(len);
    if split(caller).0.get(place.clone()).is_none() {
        bail!("gave `{name}` {len} bytes at {start:#x}, which are outside of memory");
    }
    Ok(place)
}

/// The module's memory, and what the run carries.
fn split<'a>(caller: &'a mut Called<'_>) -> (&'a mut [u8], &'a mut State) {
    match caller.get_export(exports::MEMORY) {
        Some(Extern::Memory(memory)) => memory.data_and_store_mut(caller),
        _ => (&mut [], caller.data_mut()),
    }
}

async fn connect(caller: &mut Called<'_>, protocol: i32) -> Result<i32, Failed> {
    let protocol = match u8::try_from(protocol) {
        Ok(PROTOCOL_TCP) => Protocol::Tcp,
        Ok(PROTOCOL_UDP) => Protocol::Udp,
        _ => {
            let words = format!("{protocol} is neither TCP's number nor UDP's");
            return Err(Failed::new(INVALID, words));
        }
    };
    let state = caller.data_mut();
    state.check_room()?;
    let connection = Connection::open(state.scene.target.address, protocol).await?;
    state.keep(connection)
}

async fn secure(caller: &mut Called<'_>, number: i32, alpn: Range<usize>) -> Result<i32, Failed> {
    let (memory, state) = split(caller);
    if alpn.len() > ALPN_MAX {
        let words = format!("the list of protocols is longer than {ALPN_MAX} bytes");
        return Err(Failed::new(LIMIT, words));
    }
    let alpn = memory[alpn].to_vec();
    let target = &state.scene.target;
    let (address, tls) = (target.address, target.tls.clone());
    let kept = state.kept(number)?;
    // After a handshake that failed, there is no more to be had of the connection.
    let Some(connection) = kept.take() else {
        return Err(Failed::new(INVALID, "it is closed"));
    };
    let tls = tls.ok_or_else(|| {
        let words = "TLS is not set up; write `tls = {}` for this check";
        Failed::new(TLS_FAILED, words)
    })?;
    *kept = Some(connection.secure(&tls, address, &alpn).await?);
    Ok(0)
}

async fn send(caller: &mut Called<'_>, number: i32, bytes: Range<usize>) -> Result<i32, Failed> {
    let (memory, state) = split(caller);
    let (len, room, max) = (bytes.len(), state.left.sent, state.limits.sent);
    let connection = state.connection(number)?;
    let (overhead, is_datagram) = (connection.overhead(), connection.is_udp());
    if len > 0 && room == 0 || is_datagram && len + overhead > room {
        let words = format!("{max} bytes are the most that one check sends");
        return Err(Failed::new(LIMIT, words));
    }
    let bytes = memory[bytes][..len.min(room)].to_vec();
    state.left.sent -= bytes.len() + overhead;
    let sent = state.connection(number)?.send(&bytes).await?;
    Ok(count(sent))
}

async fn receive(caller: &mut Called<'_>, number: i32, place: Range<usize>) -> Result<i32, Failed> {
    let state = caller.data_mut();
    let (len, room, max) = (place.len(), state.left.received, state.limits.received);
    let connection = state.connection(number)?;
    if len > 0 && room == 0 {
        let words = format!("{max} bytes are the most that one check receives");
        return Err(Failed::new(LIMIT, words));
    }
    let once = if connection.is_udp() {
        DATAGRAM_MAX
    } else {
        RECEIVE_MAX
    };
    let mut buffer = vec![0; len.min(room).min(once)];
    if buffer.is_empty() {
        return Ok(0);
    }
    let received = connection.receive(&mut buffer).await?;
    let cost = received + connection.overhead();
    state.left.received = room.saturating_sub(cost);
    let (memory, _) = split(caller);
    memory[place][..received].copy_from_slice(&buffer[..received]);
    Ok(count(received))
}

fn error_text(caller: &mut Called<'_>, place: Range<usize>) -> i32 {
    let (memory, state) = split(caller);
    let len = state.words.floor_char_boundary(place.len());
    memory[place][..len].copy_from_slice(&state.words.as_bytes()[..len]);
    count(len)
}

fn log(caller: &mut Called<'_>, line: Range<usize>) {
    let (memory, state) = split(caller);
    let Some(left) = state.left.log_lines.checked_sub(1) else {
        return;
    };
    state.left.log_lines = left;
    let line = &memory[line];
    let line = fit_for_people(&line[..line.len().min(LINE_MAX)]);
    let (module, target) = (&state.scene.module.name, &state.scene.target);
    let (service, backend) = (&target.service, &target.backend);
    debug!(%module, %service, %backend, "{line}");
}

/// A count of bytes, for the module: all are below 2^31, for they were counted in its memory.
fn count(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
