//! Shipped policies compiled to Wasm: they pick as natively, and refuse with a text.
//!
//! The host here is the smallest that follows ABI.md, on an interpreter. The real host is
//! `runtime/plugin`.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::Path;
use std::sync::OnceLock;

use wasmi::{Engine, Instance, Linker, Memory, Module, Store, TypedFunc, WasmParams, WasmResults};
use waxwing_sdk::Policy;
use waxwing_sdk::abi::{
    ABI_MAJOR, ABI_MINOR, BATCH_MAX, BackendRecord, FlowRecord, HOST_FIELDS_OFFSET, Header,
    HostFields, ModuleInfo, exports,
};
use waxwing_sdk::testing::{self, Driver, TestFlow};

const SEED: u64 = 0x5eed;

/// An instance with any number of services.
struct Host {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
}

impl Host {
    fn new(wasm: &[u8]) -> Self {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).unwrap();
        let mut store = Store::new(&engine, ());
        let linker = Linker::new(&engine);
        let instance = linker.instantiate_and_start(&mut store, &module).unwrap();
        let memory = instance.get_memory(&store, exports::MEMORY).unwrap();
        Self {
            store,
            instance,
            memory,
        }
    }

    fn function<P: WasmParams, R: WasmResults>(&self, name: &str) -> TypedFunc<P, R> {
        self.instance.get_typed_func(&self.store, name).unwrap()
    }

    fn write(&mut self, address: u32, bytes: &[u8]) {
        self.memory
            .write(&mut self.store, address as usize, bytes)
            .unwrap();
    }

    fn read(&self, address: u32, len: usize) -> Vec<u8> {
        self.memory.data(&self.store)[address as usize..][..len].to_vec()
    }

    fn error(&mut self) -> String {
        let error = self.function::<(), u64>(exports::ERROR);
        let text = error.call(&mut self.store, ()).unwrap();
        let (address, len) = (
            u32::try_from(text >> 32).unwrap(),
            text & u64::from(u32::MAX),
        );
        String::from_utf8(self.read(address, usize::try_from(len).unwrap())).unwrap()
    }

    /// Creates a service. Returns its address and its header after init.
    fn service(
        &mut self,
        config: &str,
        backends: &[BackendRecord],
    ) -> Result<(u32, Header), String> {
        let len = u32::try_from(config.len()).unwrap();
        let reserve = self.function::<u32, u32>(exports::RESERVE);
        let at = reserve.call(&mut self.store, len.max(1)).unwrap();
        self.write(at, config.as_bytes());
        let backends_count = u32::try_from(backends.len()).unwrap();
        let init = self.function::<(u32, u32), u32>(exports::INIT);
        let address = init.call(&mut self.store, (len, backends_count)).unwrap();
        if address == 0 {
            return Err(self.error());
        }
        let bytes = self.read(address, Header::SIZE);
        let header = Header::from_le_bytes(bytes.as_slice().try_into().unwrap());
        let host = HostFields {
            generation: 1,
            seed: SEED,
            backends_count,
            ..Default::default()
        };
        self.write(
            address + u32::try_from(HOST_FIELDS_OFFSET).unwrap(),
            &host.to_le_bytes(),
        );
        for (at, backend) in (header.backends_address..).step_by(64).zip(backends) {
            self.write(at, &backend.to_le_bytes());
        }
        if self
            .instance
            .get_func(&self.store, exports::BACKENDS_CHANGED)
            .is_some()
        {
            let changed = self.function::<u32, u32>(exports::BACKENDS_CHANGED);
            if changed.call(&mut self.store, address).unwrap() == 0 {
                return Err(self.error());
            }
        }
        Ok((address, header))
    }

    fn pick(
        &mut self,
        service: (u32, Header),
        flows: &[TestFlow],
    ) -> Result<Vec<u32>, wasmi::Error> {
        let (address, header) = service;
        for (at, flow) in (header.flows_address..)
            .step_by(FlowRecord::SIZE)
            .zip(flows)
        {
            self.write(at, &flow.record.to_le_bytes());
        }
        let n = u32::try_from(flows.len()).unwrap();
        let pick = self.function::<(u32, u32), u32>(exports::PICK);
        assert_eq!(pick.call(&mut self.store, (address, n))?, n);
        let picks = self.read(header.picks_address, flows.len() * 4);
        Ok(picks
            .chunks(4)
            .map(|pick| u32::from_le_bytes(pick.try_into().unwrap()))
            .collect())
    }
}

/// Returns a shipped policy's module. All are compiled once.
fn module(name: &str) -> Vec<u8> {
    static MODULES: OnceLock<Vec<waxwing_module_build::Module>> = OnceLock::new();
    let modules = MODULES.get_or_init(|| {
        let manifest = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        let packages = [
            "waxwing-policy-round-robin",
            "waxwing-policy-least-connections",
            "waxwing-policy-maglev",
            "waxwing-policy-power-of-two",
            "waxwing-policy-rendezvous",
            "waxwing-policy-ring-hash",
            "waxwing-policy-failover",
            "waxwing-policy-least-latency",
            "waxwing-policy-percent-split",
            "waxwing-policy-sticky-source",
        ];
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("modules");
        waxwing_module_build::build(manifest, &packages, &target_dir)
            .unwrap_or_else(|error| panic!("{error}"))
    });
    std::fs::read(
        &modules
            .iter()
            .find(|module| module.name == name)
            .unwrap()
            .path,
    )
    .unwrap()
}

/// Runs two services of one instance against two native drivers, in alternating batches.
fn same_as_native<P: Policy>(name: &str, config: &str) {
    let mut host = Host::new(&module(name));
    let backends = [
        testing::backends(&[3, 0, 1, 2, 5]),
        testing::backends(&[1; 40]),
    ];
    let services = backends
        .each_ref()
        .map(|b| host.service(config, b).unwrap());
    let mut drivers = backends
        .each_ref()
        .map(|b| Driver::<P>::start(config, b, SEED).unwrap());
    let flows: Vec<_> = testing::flows(11).take(BATCH_MAX * 50).collect();
    for (batch, flows) in flows.chunks(BATCH_MAX).enumerate() {
        let which = batch % 2;
        let native: Vec<_> = drivers[which].pick(flows);
        let wasm = host.pick(services[which], flows).unwrap();
        for (native, wasm) in native.into_iter().zip(wasm) {
            assert_eq!(
                native,
                waxwing_sdk::Pick::Backend(wasm as usize),
                "batch {batch}"
            );
        }
    }
}

#[test]
fn round_robin_picks_as_natively() {
    same_as_native::<round_robin::RoundRobin>("round_robin", "{}");
}

#[test]
fn least_connections_picks_as_natively() {
    same_as_native::<least_connections::LeastConnections>("least_connections", "");
}

#[test]
fn maglev_picks_as_natively() {
    same_as_native::<maglev::Maglev>("maglev", r#"{"table": 5003}"#);
}

/// Covers random numbers and 128-bit products.
#[test]
fn power_of_two_picks_as_natively() {
    same_as_native::<power_of_two::PowerOfTwo>("power_of_two", "{}");
}

/// Covers logarithms and float sums.
#[test]
fn rendezvous_picks_as_natively() {
    same_as_native::<rendezvous::Rendezvous>("rendezvous", r#"{"table": 5000}"#);
}

/// Covers float products and quotients.
#[test]
fn ring_hash_picks_as_natively() {
    same_as_native::<ring_hash::RingHash>("ring_hash", r#"{"bound": 1.1}"#);
}

/// Covers sums and scores in a tree.
#[test]
fn failover_picks_as_natively() {
    same_as_native::<failover::Failover>("failover", "{}");
}

/// Covers float products and quotients.
#[test]
fn least_latency_picks_as_natively() {
    same_as_native::<least_latency::LeastLatency>("least_latency", "{}");
}

/// Covers scores of groups.
#[test]
fn percent_split_picks_as_natively() {
    let config = r#"{"groups": [{"tag": 0, "percent": 70}, {"tag": 1, "percent": 30}]}"#;
    same_as_native::<percent_split::PercentSplit>("percent_split", config);
}

/// Covers 128-bit addresses and a table that fills up.
#[test]
fn sticky_source_picks_as_natively() {
    same_as_native::<sticky_source::StickySource>("sticky_source", r#"{"clients_max": 100}"#);
}

#[test]
fn refusals_have_texts() {
    let mut host = Host::new(&module("maglev"));
    let three = testing::backends(&[1; 3]);
    let error = host.service(r#"{"table": "big"}"#, &three).unwrap_err();
    assert!(
        error.starts_with("policy_config.table: invalid type: string"),
        "{error}"
    );
    let error = host.service(r#"{"table": 65536}"#, &three).unwrap_err();
    assert!(error.contains("expected a prime"), "{error}");
    // The instance still serves other services.
    assert!(host.service("{}", &three).is_ok());
}

#[test]
fn a_panic_traps_and_leaves_its_message() {
    let mut host = Host::new(&module("round_robin"));
    let (address, header) = host.service("{}", &testing::backends(&[1; 3])).unwrap();
    // A faulty host: it removes backends without notifying the policy.
    let none = HostFields::default().to_le_bytes();
    host.write(address + u32::try_from(HOST_FIELDS_OFFSET).unwrap(), &none);
    let flows: Vec<_> = testing::flows(1).take(1).collect();
    assert!(host.pick((address, header), &flows).is_err());
    let error = host.error();
    assert!(error.contains("the policy picked backend"), "{error}");
}

#[test]
fn the_example_policy_of_abi_md_works() {
    let text = include_str!("../ABI.md");
    let wat = text
        .split("```wat")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut host = Host::new(&wat::parse_str(wat).unwrap());
    let services = [&[1, 0, 1, 1][..], &[0, 0]]
        .map(|weights| host.service("{}", &testing::backends(weights)).unwrap());
    let flows: Vec<_> = testing::flows(1).take(5).collect();
    assert_eq!(host.pick(services[0], &flows).unwrap(), [0, 2, 3, 0, 2]);
    assert_eq!(host.pick(services[1], &flows[..1]).unwrap(), [u32::MAX - 1]);
    assert_eq!(host.pick(services[0], &flows[..1]).unwrap(), [3]);
}

#[test]
fn the_section_parses() {
    let wasm = module("maglev");
    let section = wasmparser::Parser::new(0)
        .parse_all(&wasm)
        .find_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CustomSection(section)
                if section.name() == waxwing_sdk::abi::SECTION_NAME =>
            {
                Some(section.data().to_vec())
            }
            _ => None,
        });
    let info = ModuleInfo::parse(&section.unwrap()).unwrap();
    assert_eq!((info.abi_major, info.abi_minor), (ABI_MAJOR, ABI_MINOR));
    assert_eq!(info.name, "waxwing-policy-maglev");
    assert_eq!(info.payload, 0);
}
