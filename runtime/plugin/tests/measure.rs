mod common;
use common::*;
use std::time::Instant;
use waxwing_dataplane::policy::PickContext;
use waxwing_dataplane::{BackendId, Gauges, Now, Pick, Policy};
fn per(name: &str, n: usize, mut f: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..7 {
        let t = Instant::now();
        for _ in 0..n {
            f();
        }
        best = best.min(t.elapsed().as_nanos() as f64 / n as f64);
    }
    eprintln!("{name}: {best:.1} ns");
}
fn batches(name: &str, policy: &mut dyn Policy, backends: u32) {
    let ids: Vec<BackendId> = (0..backends).map(BackendId).collect();
    let gauges = Gauges::new(ids.len());
    let context = PickContext {
        now: Now::default(),
        backends: &ids,
        gauges: &gauges,
    };
    let flows: Vec<_> = (0..64u64)
        .map(|h| flow(h.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let mut picks = vec![Pick::Drop; 64];
    for n in [0usize, 1, 8, 32, 64] {
        per(
            &format!("{name} backends {backends} batch {n} (per call)"),
            20000,
            || {
                policy
                    .pick(SERVICE, context, &flows[..n], &mut picks[..n])
                    .unwrap()
            },
        );
    }
}
#[test]
#[ignore]
fn measure() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let target = std::env::temp_dir().join("waxwing-measure");
    let modules = waxwing_module_build::build(
        &dir,
        &[
            "waxwing-policy-round-robin",
            "waxwing-policy-least-connections",
            "waxwing-policy-maglev",
        ],
        &target,
    )
    .unwrap();
    let mut shipped: Vec<(&'static str, &'static [u8])> = modules
        .iter()
        .map(|m| {
            (
                &*m.name.clone().leak(),
                &*std::fs::read(&m.path).unwrap().leak(),
            )
        })
        .collect();
    shipped.push(("hash", Wat::default().shipped()));
    let (host, _e) = host(&shipped, None);
    for (name, bytes) in &shipped {
        let t = Instant::now();
        let m = host.policy(name).unwrap();
        eprintln!("{name}: {} bytes, compile {:?}", bytes.len(), t.elapsed());
        let t = Instant::now();
        let mut p = host.instantiate(&m, 0, 1, &[service(&[1, 1, 1])]).unwrap();
        eprintln!("{name}: vet + instantiate {:?}", t.elapsed());
        let t = Instant::now();
        for _ in 0..20 {
            drop(host.instantiate(&m, 0, 1, &[service(&[1, 1, 1])]).unwrap());
        }
        eprintln!("{name}: instantiate + bind + drop {:?}", t.elapsed() / 20);
        batches(name, &mut *p, 3);
    }
    let m = host.policy("hash").unwrap();
    let mut p = host.instantiate(&m, 0, 1, &[service(&[1; 64])]).unwrap();
    batches("hash", &mut *p, 64);
}
