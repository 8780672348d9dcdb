//! What a health check may call: its one way out of the sandbox.
//!
//! Invariant: every address and number that a module gives is checked before it is used, and a wrong
//! one costs it an error; guest memory is never held while something is waited for.

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
    linker.func_wrap_async(MODULE, CONNECT, |mut caller: Called<'_>, (protocol,)| {
        Box::new(async move {
            begin(&mut caller, CONNECT, Doing::Connecting)?;
            let done = connect(&mut caller, protocol).await;
            Ok(end(&mut caller, done))
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        TLS,
        |mut caller: Called<'_>, (number, address, len)| {
            Box::new(async move {
                begin(&mut caller, TLS, Doing::Tls)?;
                let done = secure(&mut caller, number, (address, len)).await;
                Ok(end(&mut caller, done))
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        SEND,
        |mut caller: Called<'_>, (number, address, len)| {
            Box::new(async move {
                begin(&mut caller, SEND, Doing::Sending)?;
                let done = send(&mut caller, number, (address, len)).await;
                Ok(end(&mut caller, done))
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        RECV,
        |mut caller: Called<'_>, (number, address, len)| {
            Box::new(async move {
                begin(&mut caller, RECV, Doing::Receiving)?;
                let done = receive(&mut caller, number, (address, len)).await;
                Ok(end(&mut caller, done))
            })
        },
    )?;
    linker.func_wrap_async(MODULE, SLEEP_MS, |mut caller: Called<'_>, (ms,): (i32,)| {
        Box::new(async move {
            begin(&mut caller, SLEEP_MS, Doing::Sleeping)?;
            tokio::time::sleep(Duration::from_millis(ms.cast_unsigned().into())).await;
            caller.data().meter.set_doing(Doing::Computing);
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, CLOSE, |mut caller: Called<'_>, number: i32| {
        begin(&mut caller, CLOSE, Doing::Computing)?;
        caller.data_mut().close(number);
        Ok(())
    })?;
    linker.func_wrap(MODULE, NOW_MS, |mut caller: Called<'_>| {
        begin(&mut caller, NOW_MS, Doing::Computing)?;
        let now = Instant::now().duration_since(caller.data().start);
        Ok(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
    })?;
    linker.func_wrap(
        MODULE,
        ERROR_TEXT,
        |mut caller: Called<'_>, address: i32, len: i32| {
            begin(&mut caller, ERROR_TEXT, Doing::Computing)?;
            Ok(error_text(&mut caller, (address, len)).unwrap_or_else(|failed| failed.code))
        },
    )?;
    linker.func_wrap(
        MODULE,
        LOG,
        |mut caller: Called<'_>, address: i32, len: i32| {
            // A line that is nowhere is no line.
            let _ = log(&mut caller, (address, len));
        },
    )?;
    Ok(linker)
}

/// Only the check itself may call the target, or wait.
fn begin(caller: &mut Called<'_>, name: &str, doing: Doing) -> wasmtime::Result<()> {
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
        state.words = failed.words;
        failed.code
    })
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

async fn secure(caller: &mut Called<'_>, number: i32, alpn: (i32, i32)) -> Result<i32, Failed> {
    let alpn = memory(caller, alpn)?.1;
    if alpn.len() > ALPN_MAX {
        let words = format!("the list of protocols is longer than {ALPN_MAX} bytes");
        return Err(Failed::new(LIMIT, words));
    }
    let alpn = alpn.to_vec();
    let state = caller.data_mut();
    let tls = state.scene.target.tls.clone().ok_or_else(|| {
        Failed::new(
            TLS_FAILED,
            "TLS is not set up; write `tls = {}` for this check",
        )
    })?;
    let address = state.scene.target.address;
    let place = state.place(number)?;
    // After a handshake that failed, there is no more to be had of the connection.
    let Some(connection) = place.take() else {
        return Err(Failed::new(INVALID, "it is closed"));
    };
    *place = Some(connection.secure(&tls, address, &alpn).await?);
    Ok(0)
}

async fn send(caller: &mut Called<'_>, number: i32, at: (i32, i32)) -> Result<i32, Failed> {
    let (_, bytes, state) = memory_and_state(caller, at)?;
    let (len, room, max) = (bytes.len(), state.left.sent, state.limits.sent);
    let is_datagram = state.connection(number)?.is_udp();
    if len > 0 && room == 0 || is_datagram && len > room {
        let words = format!("{max} bytes are the most that one check sends");
        return Err(Failed::new(LIMIT, words));
    }
    let bytes = bytes[..len.min(room)].to_vec();
    state.left.sent -= bytes.len();
    let sent = state.connection(number)?.send(&bytes).await?;
    Ok(count(sent))
}

async fn receive(caller: &mut Called<'_>, number: i32, at: (i32, i32)) -> Result<i32, Failed> {
    let (range, bytes, state) = memory_and_state(caller, at)?;
    let (len, room, max) = (bytes.len(), state.left.received, state.limits.received);
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
    state.left.received -= received;
    let (bytes, _) = split(caller)?;
    bytes[range][..received].copy_from_slice(&buffer[..received]);
    Ok(count(received))
}

fn error_text(caller: &mut Called<'_>, at: (i32, i32)) -> Result<i32, Failed> {
    let (range, ..) = memory_and_state(caller, at)?;
    let (bytes, state) = split(caller)?;
    let words = state.words.as_bytes();
    let len = range.len().min(words.len());
    bytes[range][..len].copy_from_slice(&words[..len]);
    Ok(count(len))
}

fn log(caller: &mut Called<'_>, at: (i32, i32)) -> Result<(), Failed> {
    let (_, bytes, state) = memory_and_state(caller, at)?;
    let Some(left) = state.left.log_lines.checked_sub(1) else {
        return Ok(());
    };
    state.left.log_lines = left;
    let line = fit_for_people(&bytes[..bytes.len().min(LINE_MAX)]);
    let (module, target) = (&state.scene.module, &state.scene.target);
    let (service, backend) = (&target.service, &target.backend);
    debug!(%module, %service, %backend, "{line}");
    Ok(())
}

/// The module's memory, and what the run carries.
fn split<'a>(caller: &'a mut Called<'_>) -> Result<(&'a mut [u8], &'a mut State), Failed> {
    match caller.get_export(exports::MEMORY) {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => Err(Failed::new(INVALID, "there is no memory")),
    }
}

/// The bytes at an address, where they are, and what the run carries.
fn memory_and_state<'a>(
    caller: &'a mut Called<'_>,
    (address, len): (i32, i32),
) -> Result<(Range<usize>, &'a [u8], &'a mut State), Failed> {
    let (start, len) = (
        address.cast_unsigned() as usize,
        len.cast_unsigned() as usize,
    );
    let range = start..start.saturating_add(len);
    let (memory, state) = split(caller)?;
    let bytes = memory.get(range.clone()).ok_or_else(|| {
        let words = format!("{len} bytes at {start:#x} are outside of memory");
        Failed::new(INVALID, words)
    })?;
    Ok((range, bytes, state))
}

fn memory<'a>(
    caller: &'a mut Called<'_>,
    at: (i32, i32),
) -> Result<(Range<usize>, &'a [u8]), Failed> {
    memory_and_state(caller, at).map(|(range, bytes, _)| (range, bytes))
}

/// A count of bytes, for the module: all are below 2^31, for they were counted in its memory.
fn count(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
