//! Changes at run time without a reload: weights, drains with a deadline, ended sessions, earlier builds.

use std::sync::{Arc, Mutex};

use waxwing_control::admin::requests::{
    AddBackend, KillSessions, RemoveBackend, RollBack, SetBackend, SetWeight,
};
use waxwing_control::health::AdminState;
use waxwing_dataplane::model::SessionAction;
use waxwing_dataplane::session::Phase;

use crate::admin::open_900;
use crate::balancer::{Bed, DNS, WEB, module};
use crate::policies::put;

const TWO: &str = "name = \"web-1\"\n[[service.backend]]\naddress = \"10.77.0.3\"\nport = 8080\n";

impl Bed {
    fn change(&self, path: &str, request: &impl serde::Serialize) -> Result<String, String> {
        let answer = self.wait(self.client.change(path, request));
        answer.map_err(|error| error.to_string())
    }

    fn weigh(&self, backend: &str, weight: Option<u32>) -> Result<String, String> {
        let request = SetWeight {
            service: "web".into(),
            backend: backend.into(),
            weight,
        };
        self.change("/v1/backends/weight", &request)
    }

    fn weights(&self) -> Vec<u32> {
        let status = self.status();
        let backends = status.services[0].backends.iter();
        backends.map(|it| it.weight).collect()
    }
}

pub(crate) fn weights() {
    let bed = Bed::new(&format!("{WEB}{TWO}"));
    assert_eq!(bed.weights(), [1, 1]);
    bed.weigh("web-1", Some(3)).unwrap();
    assert_eq!(bed.weights(), [3, 1]);
    // A reload keeps it, and what the config says is still shown.
    bed.reload().unwrap();
    assert_eq!(bed.weights(), [3, 1]);
    let backend = bed.status().services[0].backends[0].clone();
    assert_eq!(backend.configured_weight, Some(1));
    assert_eq!(backend.health.unwrap().operator_weight, Some(3));
    bed.weigh("web-1", Some(0)).unwrap();
    let backend = bed.status().services[0].backends[0].clone();
    assert_eq!(
        backend.health.unwrap().reason,
        "weight 0, set by the operator"
    );
    bed.weigh("web-1", None).unwrap();
    assert_eq!(bed.weights(), [1, 1]);
    let error = bed.weigh("web-1", Some(65_536)).unwrap_err();
    assert!(error.contains("from 0 to 65535"), "{error}");
    assert!(bed.weigh("web-9", Some(1)).is_err());
}

pub(crate) fn added() {
    let bed = Bed::new(WEB);
    let add = |service: &str, address: &str, name: Option<&str>| {
        let request = AddBackend {
            service: service.into(),
            address: address.into(),
            weight: Some(5),
            name: name.map(Into::into),
            tag: Some(7),
        };
        bed.change("/v1/backends/add", &request)
    };
    let remove = |backend: &str| {
        let request = RemoveBackend {
            service: "web".into(),
            backend: backend.into(),
        };
        bed.change("/v1/backends/remove", &request)
    };
    for (service, address, name, why) in [
        ("wbe", "10.77.0.3:8080", None, "did you mean \"web\"?"),
        ("web", "10.77.0.3", None, "it has no port"),
        ("web", "10.77.0.3:0", None, "write ADDRESS:PORT"),
        ("web", "10.77.0.2:8080", None, "has it already"),
        ("web", "[2001:db8::3]:80", None, "different IP versions"),
        ("web", "10.77.0.3:8080", Some("a b"), "not a valid name"),
    ] {
        let error = add(service, address, name).unwrap_err();
        assert!(error.contains(why), "{address}: {error}");
    }
    assert_eq!(bed.weights(), [1]);
    let said = add("web", "10.77.0.3:8080", Some("new")).unwrap();
    assert!(said.contains(": +1 backend, 0 sessions touched"), "{said}");
    let are_added = || {
        let backends = bed.status().services[0].backends.clone();
        backends.iter().map(|it| it.added).collect::<Vec<_>>()
    };
    let said = bed.reload().unwrap();
    assert!(said.contains(": nothing changed"), "{said}");
    assert_eq!(bed.weights(), [1, 5]);
    assert_eq!(are_added(), [false, true]);
    bed.weigh("new", Some(9)).unwrap();
    assert_eq!(bed.weights(), [1, 9]);

    let error = remove("10.77.0.2:8080").unwrap_err();
    assert!(error.contains("take it out there and reload"), "{error}");
    assert!(remove("newer").is_err());
    let said = remove("new").unwrap();
    assert!(said.contains(": -1 backend, 0 sessions touched"), "{said}");
    assert_eq!(bed.weights(), [1]);

    // What the file has is the file's.
    add("web", "10.77.0.3:8080", None).unwrap();
    bed.write(&format!("{WEB}{TWO}"));
    let said = bed.reload().unwrap();
    assert!(said.contains("has it already"), "{said}");
    assert_eq!((bed.weights(), are_added()), (vec![1, 1], vec![false; 2]));
    bed.write(WEB);
    bed.reload().unwrap();
    assert_eq!(bed.weights(), [1]);
}

pub(crate) fn drain_within() {
    let bed = Bed::new(&format!("{WEB}{TWO}"));
    let set = |state, within_s| {
        let request = SetBackend {
            service: "web".into(),
            backend: "web-1".into(),
            state,
            within_s,
        };
        bed.change("/v1/backends", &request)
    };
    assert!(
        set(AdminState::Disabled, Some(1))
            .unwrap_err()
            .contains("only a drain")
    );
    let action = || bed.seen[0].actions.lock().unwrap().first().copied();
    set(AdminState::Draining, Some(3600)).unwrap();
    let health = || bed.status().services[0].backends[0].health.clone().unwrap();
    assert!(health().drains_until.is_some());
    assert_eq!(
        action(),
        Some(SessionAction::Keep),
        "its sessions stay, without a drain_timeout"
    );
    set(AdminState::Draining, Some(0)).unwrap();
    bed.until("the end of the drain", |_| {
        action() == Some(SessionAction::Reset)
    });
    set(AdminState::Enabled, None).unwrap();
    assert_eq!(
        (health().drains_until, action()),
        (None, Some(SessionAction::Keep))
    );
}

pub(crate) fn kill() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    open_900(&bed);
    let kill = |request: &KillSessions| bed.change("/v1/sessions/kill", request);
    let error = kill(&KillSessions::default()).unwrap_err();
    assert!(error.contains("name a service"), "{error}");
    let of_dns = KillSessions {
        service: Some("dns".into()),
        ..KillSessions::default()
    };
    assert_eq!(kill(&of_dns).unwrap(), "300 sessions end\n");
    let killed = bed
        .shared
        .sessions
        .iter()
        .filter(|(_, it)| it.tcp.is_killed());
    assert_eq!(killed.count(), 300);
    assert_eq!(kill(&of_dns).unwrap(), "0 sessions end\n");
    let elsewhere = KillSessions {
        client: Some("198.51.100.0/24".into()),
        ..KillSessions::default()
    };
    assert_eq!(kill(&elsewhere).unwrap(), "0 sessions end\n");
    let closing = bed
        .shared
        .sessions
        .iter()
        .filter(|(_, it)| it.tcp.phase() == Phase::Closing);
    assert_eq!(closing.count(), 300);
    let unknown = KillSessions {
        service: Some("wbe".into()),
        ..KillSessions::default()
    };
    assert!(kill(&unknown).unwrap_err().contains("did you mean"));
}

pub(crate) fn roll_back() {
    let bed = Bed::new(&format!("{WEB}[canary]\ntime = \"0s\"\n"));
    let back = |name: &str| {
        let module = name.to_owned();
        bed.change("/v1/modules/rollback", &RollBack { module })
    };
    assert!(back("frist").unwrap_err().contains("no policy is named"));
    assert!(
        back("first")
            .unwrap_err()
            .contains("no build to go back to")
    );
    let hash = || bed.status().modules[0].serving.clone().unwrap().hash;
    let shipped = hash();
    let mut new = module(0);
    new.extend([0, 2, 1, b'x']);
    put(&bed.folder.path().join("modules"), "first.wasm", &new);
    bed.until("the new build", |status| {
        let module = &status.modules[0];
        module.canary.is_none() && module.serving.as_ref().is_some_and(|it| it.hash != shipped)
    });
    let answer = back("first").unwrap();
    assert!(
        answer.starts_with(&format!("{shipped} serves instead of")),
        "{answer}"
    );
    assert_eq!(hash(), shipped);
    let module = bed.status().modules[0].clone();
    assert_eq!(module.quarantined[0].reason, "rolled back by the operator");
    // The file is still there; it serves no more, until its quarantine is lifted.
    bed.reload().unwrap();
    assert_eq!(hash(), shipped);
    assert!(
        back("first")
            .unwrap_err()
            .contains("no build to go back to")
    );
}

/// Keeps the lines of a thread's log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Lines {
    fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push(format!("{value:?}"));
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

pub(crate) fn recorded() {
    let bed = Bed::new(WEB);
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    bed.weigh("10.77.0.2:8080", Some(2)).unwrap();
    bed.weigh("nobody", Some(2)).unwrap_err();
    bed.pause(1);
    let who = format!("pid {}", std::process::id());
    let lines = lines.0.lock().unwrap().clone();
    for part in ["\"weight\":2}", "\"backend\":\"nobody\""] {
        let mut found = lines.iter().filter(|line| line.contains(part));
        let line = found
            .next()
            .unwrap_or_else(|| panic!("no {part}: {lines:#?}"));
        assert!(line.contains(&who) && line.starts_with("uid "), "{line}");
        assert_eq!(
            line.contains("refused (409"),
            part.contains("nobody"),
            "{line}"
        );
    }
}
