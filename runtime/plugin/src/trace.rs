//! The shipped policies answer the same as Wasm and natively, flow by flow.

use std::path::Path;

use waxwing_dataplane::policy::{PAYLOAD_MAX, PickContext};
use waxwing_dataplane::{BATCH, BackendId, Gauges, NewFlow, Now, Pick, ServiceId};
use waxwing_packet::{Address, Protocol};
use waxwing_sdk::abi::{BackendRecord, FlowRecord};
use waxwing_sdk::testing::{self, Driver, TestFlow};

use crate::bind::service_seed;
use crate::{BackendInfo, Host, Options, ServiceBinding};

const POLICIES: [&str; 3] = [
    "waxwing-policy-round-robin",
    "waxwing-policy-least-connections",
    "waxwing-policy-maglev",
];
const SERVICE: ServiceId = ServiceId(5);
const WORKER: u32 = 1;
const SEED: u64 = 42;
const WEIGHTS: [u32; 5] = [3, 1, 0, 2, 7];

fn new_flow(flow: &TestFlow) -> NewFlow {
    let FlowRecord {
        source,
        destination,
        hash,
        source_port,
        destination_port,
        ..
    } = flow.record;
    NewFlow {
        source: Address::v6(source),
        source_port,
        destination: Address::v6(destination),
        destination_port,
        protocol: Protocol::Tcp,
        hash,
        mid_stream: false,
        payload_len: 0,
        payload: [0; PAYLOAD_MAX],
    }
}

fn binding(records: &[BackendRecord]) -> ServiceBinding {
    let backends = records
        .iter()
        .map(|record| BackendInfo {
            id: BackendId(record.id),
            key: record.key,
            weight: record.weight,
            healthy: true,
            tag: record.tag,
        })
        .collect();
    ServiceBinding {
        service: SERVICE,
        name: "web".into(),
        config_json: "{}".into(),
        backends,
    }
}

/// Drives both through batches of every size, with sessions that begin and, of some batches, end.
fn compare<P: waxwing_sdk::Policy>(host: &Host, name: &str) {
    let records = testing::backends(&WEIGHTS);
    let bound = host
        .bind(name, WORKER + 1, SEED, &[binding(&records)])
        .expect("it is shipped");
    let mut wasm = bound
        .policies
        .into_iter()
        .nth(WORKER as usize)
        .expect("the worker's");
    let seed = service_seed(SEED, SERVICE, WORKER);
    let mut native = Driver::<P>::start("{}", &records, seed).expect("it takes the config");

    let ids: Vec<BackendId> = records.iter().map(|record| BackendId(record.id)).collect();
    let gauges = Gauges::new(ids.len(), WORKER as usize + 1);
    let context = PickContext {
        now: Now::default(),
        backends: &ids,
        gauges: &gauges,
    };
    let mut flows = testing::flows(SEED);
    for round in 0..500 {
        let flows: Vec<TestFlow> = flows.by_ref().take(round % BATCH + 1).collect();
        for (record, id) in native.backends_mut().iter_mut().zip(&ids) {
            record.active = gauges.active(*id);
        }
        let expected: Vec<Pick> = native
            .pick(&flows)
            .into_iter()
            .map(|pick| match pick {
                waxwing_sdk::Pick::Backend(at) => {
                    Pick::Backend(u32::try_from(at).expect("a backend"))
                }
                waxwing_sdk::Pick::Drop => Pick::Drop,
                waxwing_sdk::Pick::Fallback => Pick::Fallback,
            })
            .collect();
        let flows: Vec<NewFlow> = flows.iter().map(new_flow).collect();
        let mut picks = vec![Pick::Drop; flows.len()];
        wasm.pick(SERVICE, context, &flows, &mut picks)
            .expect("picks");
        assert_eq!(picks, expected, "{name}, round {round}");
        for pick in &picks {
            if let Pick::Backend(at) = pick
                && round % 3 != 0
            {
                gauges.begin(WORKER as usize, ids[*at as usize]);
            }
        }
    }
}

#[test]
fn wasm_and_native_agree() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let target = std::env::temp_dir().join(format!("waxwing-trace-{}", std::process::id()));
    let modules = waxwing_module_build::build(&manifest, &POLICIES, &target).expect("modules");
    let shipped: Vec<(&'static str, &'static [u8])> = modules
        .iter()
        .map(|module| {
            let bytes = std::fs::read(&module.path).expect("a module");
            (&*module.name.clone().leak(), &*bytes.leak())
        })
        .collect();
    std::fs::remove_dir_all(&target).expect("removed");
    let host = Host::new(Options::default(), &shipped, None, |event| {
        panic!("{event:?}")
    });
    let host = host.expect("a host");
    compare::<round_robin::RoundRobin>(&host, "round_robin");
    compare::<least_connections::LeastConnections>(&host, "least_connections");
    compare::<maglev::Maglev>(&host, "maglev");
}
