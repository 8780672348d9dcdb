//! Health checks compiled to Wasm, run against real servers.
//!
//! The host here is the smallest that follows ABI.md, on an interpreter and without limits. The
//! real host is `runtime/plugin`.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use wasmi::{Caller, Engine, Extern, Instance, Linker, Memory, Module, Store, WasmParams};
use wasmparser::{Parser, Payload};
use waxwing_sdk::abi::health::exports::{CHECK, CONFIGURE};
use waxwing_sdk::abi::health::{HEALTHY, UNHEALTHY, VerdictRecord, errors, imports};
use waxwing_sdk::abi::{ALIGNMENT, Kind, ModuleInfo, PROTOCOL_TCP, SECTION_NAME, exports};

/// The host's state of a run.
struct HostState {
    target: SocketAddr,
    start: Instant,
    connections: Vec<Option<TcpStream>>,
    error: String,
    log: Vec<String>,
}

impl HostState {
    /// Converts a result for the guest.
    fn answer(&mut self, result: std::io::Result<usize>) -> i32 {
        result.map_or_else(
            |error| {
                self.error = error.to_string();
                match error.kind() {
                    ErrorKind::ConnectionRefused => errors::REFUSED,
                    ErrorKind::ConnectionReset => errors::RESET,
                    ErrorKind::InvalidInput => errors::INVALID,
                    _ => errors::OTHER,
                }
            },
            |count| i32::try_from(count).unwrap(),
        )
    }

    fn connect(&mut self, protocol: u32) -> std::io::Result<usize> {
        if protocol != u32::from(PROTOCOL_TCP) {
            return Err(ErrorKind::InvalidInput.into());
        }
        self.connections
            .push(Some(TcpStream::connect(self.target)?));
        Ok(self.connections.len() - 1)
    }

    fn connection(&mut self, number: u32) -> std::io::Result<&mut TcpStream> {
        let connection = self.connections.get_mut(number as usize);
        connection
            .and_then(Option::as_mut)
            .ok_or_else(|| ErrorKind::InvalidInput.into())
    }
}

fn memory(caller: &Caller<'_, HostState>) -> Memory {
    let memory = caller
        .get_export(exports::MEMORY)
        .and_then(Extern::into_memory);
    memory.unwrap()
}

/// Returns a slice of the guest's memory, and the state.
fn piece<'a>(
    caller: &'a mut Caller<'_, HostState>,
    address: u32,
    len: u32,
) -> (&'a mut [u8], &'a mut HostState) {
    let (data, world) = memory(caller).data_and_store_mut(caller);
    (&mut data[address as usize..][..len as usize], world)
}

fn linker(engine: &Engine) -> Linker<HostState> {
    type Guest<'a> = Caller<'a, HostState>;
    let mut linker = Linker::new(engine);
    let from = imports::MODULE;
    let connect = |mut guest: Guest<'_>, protocol: u32| {
        let connected = guest.data_mut().connect(protocol);
        guest.data_mut().answer(connected)
    };
    let tls = |mut guest: Guest<'_>, _: u32, _: u32, _: u32| {
        let error = Error::other("this host has no TLS");
        guest.data_mut().answer(Err(error))
    };
    let send = |mut guest: Guest<'_>, number: u32, address: u32, len: u32| {
        let (bytes, world) = piece(&mut guest, address, len);
        let sent = world
            .connection(number)
            .and_then(|stream| stream.write(bytes));
        world.answer(sent)
    };
    let recv = |mut guest: Guest<'_>, number: u32, address: u32, len: u32| {
        let (bytes, world) = piece(&mut guest, address, len);
        let received = world
            .connection(number)
            .and_then(|stream| stream.read(bytes));
        world.answer(received)
    };
    let close = |mut guest: Guest<'_>, number: u32| {
        guest.data_mut().connections[number as usize] = None;
    };
    let now_ms =
        |guest: Guest<'_>| i64::try_from(guest.data().start.elapsed().as_millis()).unwrap();
    let sleep_ms = |milliseconds: u32| thread::sleep(Duration::from_millis(milliseconds.into()));
    let log = |mut guest: Guest<'_>, address: u32, len: u32| {
        let (bytes, world) = piece(&mut guest, address, len);
        world.log.push(String::from_utf8(bytes.to_vec()).unwrap());
    };
    let error_text = |mut guest: Guest<'_>, address: u32, len: u32| {
        let (bytes, world) = piece(&mut guest, address, len);
        let count = world.error.len().min(bytes.len());
        bytes[..count].copy_from_slice(&world.error.as_bytes()[..count]);
        u32::try_from(count).unwrap()
    };
    linker.func_wrap(from, imports::CONNECT, connect).unwrap();
    linker.func_wrap(from, imports::TLS, tls).unwrap();
    linker.func_wrap(from, imports::SEND, send).unwrap();
    linker.func_wrap(from, imports::RECV, recv).unwrap();
    linker.func_wrap(from, imports::CLOSE, close).unwrap();
    linker.func_wrap(from, imports::NOW_MS, now_ms).unwrap();
    linker.func_wrap(from, imports::SLEEP_MS, sleep_ms).unwrap();
    linker.func_wrap(from, imports::LOG, log).unwrap();
    linker
        .func_wrap(from, imports::ERROR_TEXT, error_text)
        .unwrap();
    linker
}

struct Run {
    store: Store<HostState>,
    instance: Instance,
    memory: Memory,
}

impl Run {
    fn new(wasm: &[u8], target: SocketAddr) -> Self {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).unwrap();
        let world = HostState {
            target,
            start: Instant::now(),
            connections: Vec::new(),
            error: String::new(),
            log: Vec::new(),
        };
        let mut store = Store::new(&engine, world);
        let instance = linker(&engine)
            .instantiate_and_start(&mut store, &module)
            .unwrap();
        let memory = instance.get_memory(&store, exports::MEMORY).unwrap();
        Self {
            store,
            instance,
            memory,
        }
    }

    fn call<P: WasmParams>(&mut self, name: &str, parameters: P) -> Result<u32, wasmi::Error> {
        let function = self
            .instance
            .get_typed_func::<P, u32>(&self.store, name)
            .unwrap();
        function.call(&mut self.store, parameters)
    }

    /// Writes a text to the module's buffer and calls the export that reads it.
    fn tell(&mut self, name: &str, text: &str) -> Result<u32, wasmi::Error> {
        let len = u32::try_from(text.len()).unwrap();
        let at = self.call(exports::RESERVE, len.max(1)).unwrap();
        self.memory
            .write(&mut self.store, at as usize, text.as_bytes())
            .unwrap();
        self.call(name, len)
    }

    fn text(&self, address: u32, len: u32) -> String {
        let bytes = &self.memory.data(&self.store)[address as usize..][..len as usize];
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn error(&mut self) -> String {
        let error = self
            .instance
            .get_typed_func::<(), u64>(&self.store, exports::ERROR)
            .unwrap();
        let text = error.call(&mut self.store, ()).unwrap();
        let (address, len) = (text >> 32, text & u64::from(u32::MAX));
        self.text(u32::try_from(address).unwrap(), u32::try_from(len).unwrap())
    }

    /// Returns the verdict record and its reason.
    fn check(&mut self) -> Result<(VerdictRecord, String), wasmi::Error> {
        let target = self.store.data().target;
        let target = format!(
            r#"{{"service":"web","backend":"s1","address":"{}","port":{},"protocol":"tcp",
            "timeout_ms":1000,"server_name":"web.test","signals":[]}}"#,
            target.ip(),
            target.port()
        );
        let at = self.tell(CHECK, &target)?;
        assert!(at != 0 && at % ALIGNMENT == 0, "{at}");
        let mut record = [0; VerdictRecord::SIZE];
        self.memory
            .read(&self.store, at as usize, &mut record)
            .unwrap();
        let record = VerdictRecord::from_le_bytes(&record);
        let reason = self.text(record.reason_address, record.reason_len);
        Ok((record, reason))
    }
}

/// Configures a module and runs it once. Returns its status and reason.
fn run(wasm: &[u8], config: &str, target: SocketAddr) -> (u32, String) {
    let mut run = Run::new(wasm, target);
    assert_eq!(run.tell(CONFIGURE, config).unwrap(), 1, "{config}");
    let (record, reason) = run.check().unwrap();
    (record.status, reason)
}

/// A server for one client: waits for a request and sends this answer.
fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        assert_ne!(client.read(&mut [0; 1000]).unwrap(), 0);
        for piece in answer.as_bytes().chunks(3) {
            client.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    address
}

fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn the_example_health_check_of_abi_md_works() {
    let text = include_str!("../ABI.md");
    let wat = text.split("```wat").nth(2).unwrap();
    let wasm = wat::parse_str(wat.split("```").next().unwrap()).unwrap();
    for (target, status, reason) in [
        (server("+PONG\r\n"), HEALTHY, "answers +PONG"),
        (server("-LOADING\r\n"), UNHEALTHY, "answers PING otherwise"),
        (
            server("+P"),
            UNHEALTHY,
            "closed by the server before its answer",
        ),
        (
            closed_port(),
            UNHEALTHY,
            "Connection refused (os error 111)",
        ),
    ] {
        assert_eq!(run(&wasm, "{}", target), (status, reason.to_string()));
    }
}

/// Returns a shipped check's module. All are compiled once.
fn module(name: &str) -> Vec<u8> {
    static MODULES: OnceLock<Vec<waxwing_module_build::Module>> = OnceLock::new();
    let modules = MODULES.get_or_init(|| {
        let manifest = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        let packages = [
            "waxwing-health-agent",
            "waxwing-health-dns",
            "waxwing-health-http",
            "waxwing-health-metrics",
            "waxwing-health-mysql",
            "waxwing-health-postgres",
            "waxwing-health-redis",
            "waxwing-health-tcp",
            "waxwing-health-udp",
        ];
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checks");
        waxwing_module_build::build(manifest, &packages, &target_dir)
            .unwrap_or_else(|error| panic!("{error}"))
    });
    let module = modules.iter().find(|module| module.name == name);
    std::fs::read(&module.unwrap().path).unwrap()
}

#[test]
fn tcp_and_http_return_the_same_reasons_as_natively() {
    let (http, tcp) = (module("http"), module("tcp"));
    let ping = r#"{"send": "PING\r\n", "expect": "+PONG"}"#;
    let page = r#"{"path": "/x", "body": "ready"}"#;
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3\r\nady\r\n0\r\n\r\n";
    let not_ready = "HTTP/1.1 200 OK\r\n\r\n";
    let tls = r#"{"tls": true}"#;
    for (wasm, config, target, expected) in [
        (
            &tcp,
            ping,
            server("+PONG\r\n"),
            Ok("answered as expected in "),
        ),
        (
            &tcp,
            ping,
            server("+P"),
            Err("closed by the server after 2 bytes"),
        ),
        (
            &tcp,
            ping,
            server("-ER"),
            Err(r#"answered "-ER", expected "+PONG""#),
        ),
        (&tcp, tls, server(""), Err("this host has no TLS")),
        (&http, page, server(chunks), Ok("200 OK in ")),
        (
            &http,
            page,
            server("HTTP/1.1 500 No\r\n\r\n"),
            Err("status 500, expected 200-399"),
        ),
        (
            &http,
            page,
            server(not_ready),
            Err("the body lacks \"ready\""),
        ),
        (
            &http,
            page,
            server("SSH-2.0\r\n"),
            Err("not an HTTP/1.1 status line: \"SSH-2.0\""),
        ),
        // The host's message, which is the system's here.
        (
            &http,
            page,
            closed_port(),
            Err("Connection refused (os error 111)"),
        ),
    ] {
        assert_result(wasm, config, target, expected);
    }
}

#[test]
fn other_checks_return_the_same_reasons_as_natively() {
    let (redis, postgres, metrics) = (module("redis"), module("postgres"), module("metrics"));
    let loading = server("-LOADING It is loading\r\n");
    assert_result(
        &redis,
        "{}",
        loading,
        Err("server error: LOADING It is loading"),
    );
    assert_result(&redis, "{}", server("+PONG\r\n"), Ok("PONG"));
    let asks = server("R\0\0\0\x08\0\0\0\x03");
    assert_result(&postgres, "{}", asks, Ok("asks for authentication"));
    let queue = r#"{"metric": "queue{of=\"a\"}", "signal": 2}"#;
    let page = server("HTTP/1.1 200 OK\r\n\r\nqueue 1\nqueue{of=\"a\"} 7.2\n");
    assert_result(&metrics, queue, page, Ok("queue{of=\"a\"} is 7.2"));
}

/// Runs a check and compares whether it is healthy, and how its reason starts.
fn assert_result(wasm: &[u8], config: &str, target: SocketAddr, expected: Result<&str, &str>) {
    let (status, reason) = match expected {
        Ok(reason) => (HEALTHY, reason),
        Err(reason) => (UNHEALTHY, reason),
    };
    let found = run(wasm, config, target);
    assert_eq!(found.0, status, "{found:?}");
    assert!(found.1.starts_with(reason), "{found:?}");
}

#[test]
fn refusals_have_texts() {
    let mut run = Run::new(&module("http"), closed_port());
    assert_eq!(run.tell(CHECK, "{}").unwrap(), 0);
    assert!(run.error().contains("before waxwing_configure"));
    assert_eq!(run.tell(CONFIGURE, r#"{"status": "ok"}"#).unwrap(), 0);
    assert!(
        run.error().starts_with("config.status: "),
        "{}",
        run.error()
    );
    assert_eq!(run.tell(CONFIGURE, "").unwrap(), 1);
    assert_eq!(run.tell(CHECK, r#"{"port": 1}"#).unwrap(), 0);
    assert!(
        run.error()
            .starts_with("cannot read the target from the host: "),
        "{}",
        run.error()
    );
    assert!(run.store.data().connections.is_empty());
}

#[test]
fn connections_close_when_the_check_returns() {
    let mut run = Run::new(&module("tcp"), server(""));
    assert_eq!(run.tell(CONFIGURE, "{}").unwrap(), 1);
    assert_eq!(run.check().unwrap().0.status, HEALTHY);
    assert!(matches!(run.store.data().connections[..], [None]));
}

#[test]
fn modules_import_only_what_they_use_and_have_a_health_section() {
    for (name, expected) in [
        ("agent", "close connect error_text recv send"),
        ("dns", "close connect error_text now_ms recv send"),
        ("http", "close connect error_text now_ms recv send tls"),
        ("metrics", "close connect error_text recv send tls"),
        ("mysql", "close connect error_text recv send"),
        ("postgres", "close connect error_text recv send tls"),
        ("redis", "close connect error_text recv send tls"),
        ("tcp", "close connect error_text now_ms recv send tls"),
        ("udp", "close connect error_text recv send sleep_ms"),
    ] {
        let wasm = module(name);
        let (mut names, mut info) = (Vec::new(), None);
        for payload in Parser::new(0).parse_all(&wasm) {
            match payload.unwrap() {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.unwrap();
                        assert_eq!(import.module, imports::MODULE, "{name}: {}", import.name);
                        names.push(import.name);
                    }
                }
                Payload::CustomSection(section) if section.name() == SECTION_NAME => {
                    info = Some(ModuleInfo::parse(section.data()).unwrap());
                }
                _ => {}
            }
        }
        names.sort_unstable();
        assert_eq!(names.join(" "), expected, "{name}");
        let info = info.unwrap();
        assert_eq!(info.kind, Kind::Health);
        assert_eq!(info.name, format!("waxwing-health-{name}"));
    }
}
