//! Changes of the config: checked as a whole, put into effect in order.

use std::sync::atomic::Ordering;
use std::time::Instant;

use waxwing_control::admin::requests::SetBackend;
use waxwing_control::admin::status::Status;
use waxwing_control::health::{AdminState, HealthState};
use waxwing_dataplane::BackendId;
use waxwing_dataplane::session::Phase;

use crate::balancer::{Bed, DNS, PATIENCE, WEB, load, module, write_config};
use crate::bed::{Namespaces, ip, parse};
use crate::policies::put;

pub(crate) fn checks() {
    let _namespaces = Namespaces::enter();
    let folder = tempfile::tempdir().unwrap();
    let services = format!(
        "{}{}{}[[port]]\ninterface = \"eth77\"\n",
        WEB.replace("10.77.0.2", "198.51.100.7")
            .replace("\"first\"", "\"frist\""),
        DNS.replace("2001:db8::53", "fd77::1"),
        WEB.replace("\"web\"", "\"other\"")
            .replace("port = 80\n", "port = 0\n")
            .replace("\"first\"", "\"fist\""),
    );
    write_config(folder.path(), &services);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(load(folder.path())).err().unwrap();
    for (text, place) in [
        ("there is no interface eth77; this host has: lo, p1", ""),
        (
            "module \"frist\": there is no such module; did you mean \"first\"?",
            "lb.toml:13:10",
        ),
        ("`port` is out of range", "lb.toml:31:8"),
        (
            "module \"fist\": there is no such module; did you mean \"first\"?",
            "lb.toml:33:10",
        ),
        (
            "warning: backend 198.51.100.7 cannot be reached: this host has no route to it",
            "lb.toml:15:11",
        ),
        (
            "warning: the VIP fd77::1 is an address of this host, on p1",
            "",
        ),
        ("there is no folder", ""),
    ] {
        let mut lines = error.lines();
        let is_there = lines.any(|line| line.contains(text))
            && lines.next().is_some_and(|line| line.ends_with(place));
        assert!(is_there, "{text} ({place}) is not in:\n{error}");
    }
}

pub(crate) fn order() {
    let bed = Bed::new(WEB);
    let first = bed.rules();
    let web = (parse("203.0.113.10"), 80, 6);
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first[0].0.services.is_empty() && first[0].0.backends.len() == 1);
    assert!(first[1].0.services.contains(&web) && first[1].0.locals.contains(&parse("10.77.0.1")));

    bed.write(&format!("{WEB}{DNS}"));
    bed.reload().unwrap();
    let (all, generation) = (bed.rules(), bed.status().config.generation);
    let [(backends, at_backends), (services, at_services)] = &all[2..] else {
        panic!("two changes, backends before services: {all:?}");
    };
    assert!(backends.backends.len() == 2 && backends.services.len() == 1);
    assert!(services.services.len() == 2 && services.vips.contains(&parse("2001:db8::53")));
    assert_eq!(
        (*at_backends, *at_services),
        (generation - 1, generation),
        "reply rules come before the epoch, service rules after all workers have it"
    );
    // The new backend's next hop is resolved before its first packet.
    let status = bed.status();
    assert!(
        status.services[1].backends[0].next_hop.resolved,
        "{status:#?}"
    );
    // Packets to an address that the host gets later belong to the kernel too.
    ip(&format!(
        "-n {} addr add 10.79.0.1/24 dev p1",
        bed._namespaces.balancer
    ));
    let deadline = Instant::now() + PATIENCE;
    while !bed
        .rules()
        .last()
        .unwrap()
        .0
        .locals
        .contains(&parse("10.79.0.1"))
    {
        assert!(Instant::now() < deadline);
        bed.pause(20);
    }
}

pub(crate) fn reload() {
    let bed = Bed::new(WEB);
    let before = bed.status();
    assert_eq!(before.services.len(), 1);
    assert_eq!(before.sessions.max, 1000);
    assert!(before.problems.is_empty(), "{before:#?}");

    bed.write(&format!("{WEB}\nsessions_max = 5"));
    assert!(
        bed.reload().unwrap_err().contains("lb.toml:18:1"),
        "a key in the wrong table"
    );
    bed.write(&format!("{WEB}[[port]]\ninterface = \"lo\"\n"));
    let error = bed.reload().unwrap_err();
    assert!(
        error.contains("[[port]]") && error.contains("restart waxwing"),
        "{error}"
    );
    bed.write(&format!("{WEB}[rings]\nframes = 16384\n"));
    let error = bed.reload().unwrap_err();
    assert!(
        error.contains("[rings]") && error.contains("restart waxwing"),
        "{error}"
    );

    let after = bed.status();
    assert_eq!(after.config.generation, before.config.generation);
    assert_eq!(after.services, before.services);
    assert_eq!(after.config.last_reload.unwrap().error, Some(error));

    bed.write(&WEB.replace("port = 8080", "port = 8080\nweight = 0"));
    let said = bed.reload().unwrap();
    let after = bed.status();
    let generation = after.config.generation;
    assert!(generation > before.config.generation);
    assert_eq!(after.services[0].backends[0].weight, 0);
    let reload = after.config.last_reload.unwrap();
    assert_eq!(reload.error, None);
    let changes = format!("generation {generation}: 1 backend changed, 0 sessions touched");
    assert_eq!(reload.changes, changes);
    let warning = "every backend of \"web\" has weight 0";
    assert!(
        said.contains(warning) && said.ends_with(&format!("\n{changes}\n")),
        "{said}"
    );
    let said = bed.reload().unwrap();
    assert!(
        said.ends_with(": nothing changed, 0 sessions touched\n"),
        "{said}"
    );
}

/// A drained backend shows the weight that it has in the config; commands and API have one word for it.
pub(crate) fn drained() {
    let bed = Bed::new(&format!("{WEB}weight = 7\n"));
    let set = |backend: &str, state| {
        let (service, backend) = ("web".into(), backend.into());
        let request = SetBackend {
            service,
            backend,
            state,
            within_s: None,
        };
        bed.wait(bed.client.change("/v1/backends", &request))
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        serde_json::to_string(&AdminState::Draining).unwrap(),
        "\"drain\""
    );
    set("10.77.0.2:8080", AdminState::Draining).unwrap();
    let status = bed.status();
    let backend = &status.services[0].backends[0];
    assert_eq!((backend.configured_weight, backend.weight), (Some(7), 0));
    let health = backend.health.as_ref().unwrap();
    assert_eq!(
        (health.state, health.admin),
        (HealthState::Draining, AdminState::Draining)
    );
    let error = set("10.77.0.2:808", AdminState::Enabled).unwrap_err();
    let text = "service \"web\" has no backend \"10.77.0.2:808\"; did you mean \"10.77.0.2:8080\"?";
    assert_eq!(error, text);
}

/// A bad file is refused by `check` although the built-in module of its name can serve.
pub(crate) fn refused_modules() {
    let _namespaces = Namespaces::enter();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("modules")).unwrap();
    write_config(folder.path(), WEB);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let refused = || {
        let checked = runtime.block_on(load(folder.path())).unwrap();
        let texts = checked.refused.iter().map(ToString::to_string);
        texts.collect::<Vec<String>>().join("\n")
    };
    assert_eq!(refused(), "");
    // One is no module; the other answers test flows with a backend that does not exist.
    let cases: [(&[u8], &str); 2] = [
        (b"no module", "not a WebAssembly module"),
        (&module(0x7fff_0000), "test flows"),
    ];
    for (bytes, why) in cases {
        put(&folder.path().join("modules"), "first.wasm", bytes);
        let text = refused();
        let is_told = text.contains(why) && text.contains("lb.toml:13:10");
        assert!(
            is_told && text.contains("another build of that name serves"),
            "{text}"
        );
    }
    // All at once: beside another error, and once where no build can serve.
    let only = "[[service]]\nname = \"own\"\nvip = \"203.0.113.9\"\nport = 81\nprotocol = \"tcp\"\n\
                policy = \"second\"\ncolour = 1\n[[service.backend]]\naddress = \"10.77.0.2\"\nport = 80\n";
    write_config(folder.path(), &format!("{WEB}{only}"));
    put(&folder.path().join("modules"), "second.wasm", b"no module");
    let errors = runtime.block_on(load(folder.path())).map(drop).unwrap_err();
    for (what, times) in [
        ("no key `colour`", 1),
        ("another build of that name serves", 1),
        ("/second.wasm", 1),
        ("not a WebAssembly module", 1),
    ] {
        assert_eq!(errors.matches(what).count(), times, "{what}: {errors}");
    }
}

/// A port that is down takes the routes through it away. That stops no reload, and the next hops are resolved
/// once it is up.
pub(crate) fn port_down() {
    let bed = Bed::new(WEB);
    let namespace = &bed._namespaces.balancer;
    ip(&format!("-n {namespace} link set p1 down"));
    let drained = WEB.replace("port = 8080", "port = 8080\nweight = 0");
    bed.write(&format!(
        "{drained}[[service.backend]]\naddress = \"198.51.100.7\"\nport = 8080\n"
    ));
    let warnings = bed.reload().unwrap();
    for words in [
        "warning: p1 is down",
        "warning: backend 10.77.0.2 cannot be reached",
        "warning: backend 198.51.100.7 cannot be reached: this host has no route to it",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    let is_resolved = |status: &Status| {
        let backends = status.services[0].backends.iter();
        backends
            .map(|backend| backend.next_hop.resolved)
            .collect::<Vec<_>>()
    };
    let status = bed.status();
    assert_eq!(is_resolved(&status), [false, false], "{status:#?}");
    assert_eq!(status.services[0].backends[0].weight, 0);
    ip(&format!("-n {namespace} link set p1 up"));
    bed.until("the next hop", |status| {
        is_resolved(status) == [true, false]
    });
}

/// An MTU above the size that memory was allocated for is a problem while it lasts.
pub(crate) fn larger_mtu() {
    let bed = Bed::new(WEB);
    let set = |mtu| {
        let namespace = &bed._namespaces.balancer;
        ip(&format!("-n {namespace} link set p1 mtu {mtu}"));
    };
    set(3818);
    bed.pause(100);
    assert_eq!(bed.status().problems, [""; 0]);
    set(9000);
    let status = bed.until("the problem", |status| !status.problems.is_empty());
    let problem = &status.problems[0];
    for words in [
        "p1: MTU 9000",
        "Restart waxwing",
        "ip link set dev p1 mtu 3818",
    ] {
        assert!(problem.contains(words), "{problem}");
    }
    set(1500);
    bed.until("no problem", |status| status.problems.is_empty());
}

pub(crate) fn retired() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    // One session of the removed service. Ids follow the order of the file.
    bed.shared.gauges.begin(0, BackendId(1), Phase::Established);
    bed.write(WEB);
    let said = bed.reload().unwrap();
    assert!(
        said.ends_with(": -1 service, -1 backend, 1 session touched\n"),
        "{said}"
    );
    let status = bed.status();
    assert_eq!((status.services.len(), status.retired.len()), (1, 1));
    assert_eq!(bed.rules().last().unwrap().0.services.len(), 2);
    bed.shared.gauges.end(0, BackendId(1), Phase::Established);
    bed.until("the backend to be dropped", |status| {
        status.retired.is_empty()
    });
    let rules = bed.rules().last().unwrap().0.clone();
    assert_eq!((rules.services.len(), rules.backends.len()), (1, 1));
}

pub(crate) fn stuck() {
    let bed = Bed::new(WEB);
    bed.write(&format!("{WEB}{DNS}"));
    let freeze = |frozen| bed.seen[1].frozen.store(frozen, Ordering::Relaxed);
    let mut reloads = (0..5).map(|_| {
        freeze(true);
        let outcome = bed.reload();
        if outcome.is_err() {
            // A late change of the network, which the worker does not take either, was there first.
            freeze(false);
            bed.until("no problem", |status| status.problems.is_empty());
        }
        outcome
    });
    assert!(reloads.any(|outcome| outcome.is_ok()));
    let status = bed.until("the problem", |status| !status.problems.is_empty());
    assert!(
        status.problems[0].contains("worker 1 has not taken the last change"),
        "{status:#?}"
    );
    let in_effect = bed.rules().last().unwrap().0.clone();
    assert_eq!(
        in_effect.services.len(),
        1,
        "service rules wait for every worker"
    );
    assert!(bed.reload().unwrap_err().contains("may be stuck"));
    freeze(false);
    bed.until("no problem", |status| status.problems.is_empty());
    assert_eq!(bed.rules().last().unwrap().0.services.len(), 2);
    bed.reload().unwrap();
}
