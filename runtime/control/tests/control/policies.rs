//! Policy modules: replacing them, their canary, and the signals that they read.

use std::path::{Path, PathBuf};

use waxwing_control::admin::signals::SetSignals;
use waxwing_control::admin::status::Status;

use crate::balancer::{Bed, WEB, module};

pub(crate) fn modules() {
    let bed = Bed::new(WEB);
    let folder = bed.folder.path().join("modules");
    let of_web = |status: &Status| status.services[0].module.clone().unwrap();
    let shipped = of_web(&bed.status());
    assert_eq!(shipped.source, "shipped");

    put(&folder, "first.wasm", &module(0x7fff_0000));
    let refused = bed.until("a refusal", |status| status.modules[0].refused.is_some());
    assert_eq!(of_web(&refused), shipped);
    put(&folder, "first.wasm", b"no module");
    let is_text = |status: &Status| {
        let refused = status.modules[0].refused.as_ref();
        refused.is_some_and(|refused| refused.reason.contains("not a WebAssembly module"))
    };
    assert_eq!(of_web(&bed.until("another refusal", is_text)), shipped);

    let mut good = module(0);
    // An added custom section changes the hash.
    good.extend([0, 2, 1, b'x']);
    put(&folder, "first.wasm", &good);
    let status = bed.until("the new module", |status| {
        of_web(status).source != "shipped"
    });
    assert!(of_web(&status).source.ends_with("first.wasm"));
    assert!(status.config.generation > refused.config.generation);
    assert_eq!(status.modules[0].refused, None);
}

pub(crate) fn canary() {
    let bed = Bed::new(&format!("{WEB}[canary]\ntime = \"1s\"\n"));
    let folder = bed.folder.path().join("modules");
    let mut new = module(0);
    new.extend([0, 2, 1, b'x']);
    put(&folder, "first.wasm", &new);
    let status = bed.until("the canary", |status| status.modules[0].canary.is_some());
    let serving = status.modules[0].serving.clone().unwrap();
    assert_eq!(serving.source, "shipped");
    assert_eq!(status.services[0].module, Some(serving));
    let hash = status.modules[0].canary.clone().unwrap().build.hash;
    let of_service = |status: &Status| status.services[0].module.clone().unwrap().hash;
    let status = bed.until("its end", |status| of_service(status) == hash);
    assert_eq!(status.modules[0].canary, None);
    assert_eq!(status.modules[0].serving.clone().unwrap().hash, hash);
    let steps = status.modules[0].steps.iter();
    let texts: Vec<&str> = steps.map(|step| &*step.text).collect();
    assert_eq!(
        texts[texts.len() - 3..],
        [
            "serves on worker 0, for 1 s",
            "passed as a canary: web: not judged, 0 flows and 0 on the other workers are too few",
            "serves on all workers"
        ]
    );
}

pub(crate) fn backend_signals() {
    let web = WEB.replace(
        "policy = \"first\"",
        "policy = \"first\"\nsignals = [\"queue\", \"load\"]",
    ) + "name = \"web-1\"\n";
    let bed = Bed::new(&web);
    let set = |backend: &str, values: &[(&str, u32)]| {
        let request = SetSignals {
            service: "web".into(),
            backend: backend.into(),
            values: values.iter().map(|(k, v)| ((*k).into(), *v)).collect(),
        };
        bed.wait(bed.client.change("/v1/signals", &request))
            .map_err(|error| error.to_string())
    };
    let shown = || {
        let signals = bed.status().services[0].backends[0].signals.clone();
        signals.into_iter().collect::<Vec<_>>()
    };
    let named = |queue, load| vec![("load".to_owned(), load), ("queue".to_owned(), queue)];
    assert_eq!(shown(), named(0, 0));
    set("web-1", &[("queue", 7), ("1", 9)]).unwrap();
    set("10.77.0.2:8080", &[("3", 5)]).unwrap();
    let mut expected = named(7, 9);
    expected.insert(0, ("3".to_owned(), 5));
    assert_eq!(shown(), expected);

    type Case = (&'static str, &'static [(&'static str, u32)], &'static str);
    let cases: [Case; 3] = [
        (
            "web-2",
            &[],
            "has no backend \"web-2\"; did you mean \"web-1\"?",
        ),
        (
            "web-1",
            &[("queue", 1), ("lod", 1)],
            "no signal \"lod\"; did you mean \"load\"?",
        ),
        (
            "web-1",
            &[("4", 1)],
            "no signal \"4\"; write a number from 0 to 3, or one of: queue, load",
        ),
    ];
    for (backend, values, expected) in cases {
        let error = set(backend, values).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    bed.reload().unwrap();
    assert_eq!(
        shown(),
        expected,
        "a reload keeps signals, a bad request changes none"
    );
}

pub(crate) fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let new: PathBuf = folder.join(format!(".{name}.new"));
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}
