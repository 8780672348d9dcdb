//! Modules in text form and a host to run them: what the tests share.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use waxwing_dataplane::policy::{PAYLOAD_MAX, PickContext};
use waxwing_dataplane::{BackendId, Gauges, NewFlow, Now, Pick, Policy, PolicyFault, ServiceId};
use waxwing_packet::Protocol;
use waxwing_plugin::{BackendInfo, Event, Host, Options, ServiceBinding};

/// A policy in parts, each of which a test may replace.
pub(crate) struct Wat {
    pub(crate) section: &'static str,
    pub(crate) memory: &'static str,
    pub(crate) header: [(u32, u32); 10],
    pub(crate) reserve: &'static str,
    pub(crate) init: &'static str,
    pub(crate) pick: &'static str,
    pub(crate) more: &'static str,
}

pub(crate) const SECTION: &str =
    "kind=policy\\0aabi=1.0\\0aname=test\\0aversion=7\\0apayload=0\\0a";

/// `picks[i] = hash of flow i % backends_count`.
pub(crate) const PICK_HASH: &str = "
  (local $i i32)
  (block $done (loop $next
    (br_if $done (i32.ge_u (local.get $i) (local.get 1)))
    (i32.store
      (i32.add (i32.const 0x4000) (i32.shl (local.get $i) (i32.const 2)))
      (i32.rem_u
        (i32.load offset=0x3020 (i32.shl (local.get $i) (i32.const 6)))
        (i32.load offset=0x1020 (i32.const 0))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br $next)))
  (local.get 1)";

/// Stores `value` as every pick.
pub(crate) const PICK_NINE: &str = "(i32.store (i32.const 0x4000) (i32.const 9)) (local.get 1)";

impl Default for Wat {
    fn default() -> Self {
        Self::GOOD
    }
}

impl Wat {
    /// A policy that picks by the flow's hash.
    pub(crate) const GOOD: Self = Self {
        section: SECTION,
        memory: "(memory (export \"memory\") 1 1)",
        // abi version and size, then backends, flows, picks.
        header: [
            (0, 1),
            (4, 96),
            (40, 0x2000),
            (44, 64),
            (48, 0x3000),
            (52, 64),
            (56, 0x4000),
            (64, 0),
            (68, 0x4800),
            (72, 0),
        ],
        reserve: "(i32.const 0x5000)",
        init: "(i32.const 0x1000)",
        pick: PICK_HASH,
        more: "",
    };

    /// A good policy with this body of `waxwing_pick`.
    pub(crate) fn picking(pick: &'static str) -> Self {
        Self {
            pick,
            ..Self::default()
        }
    }

    /// The header field at this offset set to another value.
    pub(crate) fn field(offset: u32, value: u32) -> Self {
        let mut wat = Self::GOOD;
        wat.set(offset, value);
        wat
    }

    pub(crate) fn set(&mut self, offset: u32, value: u32) {
        for field in self.header.iter_mut().filter(|field| field.0 == offset) {
            field.1 = value;
        }
    }

    /// The module.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Self {
            section,
            memory,
            header,
            reserve,
            init,
            pick,
            more,
        } = self;
        let stores: String = header
            .iter()
            .map(|(offset, value)| {
                format!("(i32.store offset={offset} (i32.const 0x1000) (i32.const {value}))")
            })
            .collect();
        let text = format!(
            "(module
               (@custom \"waxwing.module\" \"{section}\")
               {memory}
               (func (export \"waxwing_reserve\") (param i32) (result i32) {reserve})
               (func (export \"waxwing_init\") (param i32 i32) (result i32) {stores} {init})
               (func (export \"waxwing_pick\") (param i32 i32) (result i32) {pick})
               {more})"
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// The module, for as long as the program runs, as a shipped one.
    pub(crate) fn shipped(&self) -> &'static [u8] {
        self.bytes().leak()
    }
}

/// A host with these shipped modules, and its events.
pub(crate) fn host(
    shipped: &[(&'static str, &'static [u8])],
    folder: Option<PathBuf>,
) -> (Host, Receiver<Event>) {
    host_with(Options::default(), shipped, folder)
}

/// The same with other options.
pub(crate) fn host_with(
    options: Options,
    shipped: &[(&'static str, &'static [u8])],
    folder: Option<PathBuf>,
) -> (Host, Receiver<Event>) {
    let (sender, events) = channel();
    let sender = std::sync::Mutex::new(sender);
    let host = Host::new(options, shipped, folder, move |event| {
        let _ = sender.lock().expect("no test panics with it").send(event);
    });
    (host.expect("a host"), events)
}

pub(crate) const SERVICE: ServiceId = ServiceId(3);

/// A service named `web` with one backend for each weight.
pub(crate) fn service(weights: &[u32]) -> ServiceBinding {
    let backends = (0..)
        .zip(weights)
        .map(|(id, weight)| BackendInfo {
            id: BackendId(id),
            key: u64::from(id) * 77,
            weight: *weight,
            healthy: true,
            tag: 0,
        })
        .collect();
    let config_json = "{}".into();
    ServiceBinding {
        service: SERVICE,
        name: "web".into(),
        config_json,
        backends,
    }
}

pub(crate) fn flow(hash: u64) -> NewFlow {
    NewFlow {
        source: std::net::IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)).into(),
        source_port: 4000,
        destination: std::net::IpAddr::from(Ipv4Addr::new(203, 0, 113, 10)).into(),
        destination_port: 80,
        protocol: Protocol::Tcp,
        hash,
        mid_stream: false,
        payload_len: 4,
        payload: [7; PAYLOAD_MAX],
    }
}

/// One batch of flows with these hashes.
pub(crate) fn pick(
    policy: &mut dyn Policy,
    backends: u32,
    hashes: &[u64],
) -> Result<Vec<Pick>, PolicyFault> {
    let ids: Vec<BackendId> = (0..backends).map(BackendId).collect();
    let gauges = Gauges::new(ids.len(), 1);
    let context = PickContext {
        now: Now::default(),
        backends: &ids,
        gauges: &gauges,
    };
    let flows: Vec<NewFlow> = hashes.iter().map(|hash| flow(*hash)).collect();
    let mut picks = vec![Pick::Drop; flows.len()];
    policy.pick(SERVICE, context, &flows, &mut picks)?;
    Ok(picks)
}
