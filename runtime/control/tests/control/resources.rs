//! The API's lists, its errors, and the stream of events.

use serde_json::Value;
use waxwing_control::admin::client::ClientError;
use waxwing_control::admin::events::{Event, Severity};
use waxwing_control::admin::paging::Listing;
use waxwing_control::admin::resources::{BackendItem, ConfigDiff, ConfigItem, ServiceItem};
use waxwing_dataplane::BackendId;
use waxwing_dataplane::session::Phase;

use crate::balancer::{Bed, DNS, WEB};

impl Bed {
    fn json(&self, target: &str) -> Value {
        let (head, body) = self.http(target);
        assert!(head.starts_with("HTTP/1.0 200"), "{target}: {head} {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn list<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Listing<T> {
        let query: Vec<_> = query
            .iter()
            .map(|(k, v)| (*k, Some((*v).to_owned())))
            .collect();
        self.wait(self.client.get(path, &query)).unwrap()
    }
}

pub(crate) fn resources() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    bed.shared.gauges.begin(0, BackendId(1), Phase::Established);

    let services: Listing<ServiceItem> = bed.list("/v1/services", &[]);
    let names: Vec<&str> = services.items.iter().map(|it| &*it.name).collect();
    assert_eq!((names, services.schema_version), (vec!["web", "dns"], 1));
    assert_eq!(
        (services.items[1].active, services.items[1].sessions),
        (1, 1)
    );
    let second: Listing<ServiceItem> = bed.list("/v1/services", &[("offset", "1"), ("limit", "1")]);
    assert_eq!((second.total, second.offset, second.items.len()), (2, 1, 1));
    assert_eq!(second.items[0].name, "dns");
    let beyond: Listing<ServiceItem> = bed.list("/v1/services", &[("offset", "9")]);
    assert_eq!((beyond.total, beyond.items.len()), (2, 0));

    let by_active: Listing<ServiceItem> = bed.list("/v1/services", &[("sort", "active")]);
    let names: Vec<&str> = by_active.items.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["dns", "web"]);
    let by_name: Listing<ServiceItem> = bed.list("/v1/services", &[("sort", "name")]);
    assert_eq!(by_name.items[0].name, "dns");
    bed.list::<ServiceItem>("/v1/services", &[("sort", "forward.bytes")]);

    let backends: Listing<BackendItem> = bed.list("/v1/backends", &[("service", "d*")]);
    assert_eq!((backends.total, &*backends.items[0].service), (1, "dns"));
    let up: Listing<BackendItem> = bed.list("/v1/backends", &[("state", "down")]);
    assert_eq!(up.total, 0);
    let unchecked: Listing<BackendItem> = bed.list(
        "/v1/backends",
        &[("state", "unchecked"), ("service", "web")],
    );
    assert_eq!(unchecked.total, 1);

    let first = |target: &str| bed.json(target)["items"][0].clone();
    assert_eq!(first("/v1/modules")["kind"], "policy");
    assert_eq!(first("/v1/ports")["interface"], "p1");
    assert_eq!(first("/v1/workers")["worker"], 0);
    assert_eq!(bed.json("/v1/drops")["total"], 0);

    config(&bed);
    // Errors are JSON, whoever found them.
    for (target, status, part) in [
        ("/v1/services?service=wbe", 404, "did you mean"),
        ("/v1/services?colour=red", 400, "colour"),
        ("/v1/backends?state=red", 400, "red"),
        ("/v1/backends?sort=colour", 400, "no field"),
        ("/v1/sessions?phase=red", 400, "half-open"),
        ("/v1/nothing", 404, "Not Found"),
        ("/v1/reload", 405, "Method Not Allowed"),
    ] {
        let (head, body) = bed.http(target);
        assert!(
            head.starts_with(&format!("HTTP/1.0 {status}")),
            "{target}: {head}"
        );
        assert!(head.contains("application/json"), "{target}: {head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&body["status"], &body["schema_version"]),
            (&status.into(), &1.into())
        );
        assert!(
            body["error"].as_str().unwrap().contains(part),
            "{target}: {body}"
        );
    }
}

fn config(bed: &Bed) {
    let shown: ConfigItem = bed.wait(bed.client.get("/v1/config", &[])).unwrap();
    assert!(shown.text.contains("name = \"web\""), "{}", shown.text);
    let diff = || -> ConfigDiff { bed.wait(bed.client.get("/v1/config/diff", &[])).unwrap() };
    assert_eq!(diff().changes, "nothing changed");
    bed.write(&format!("{}{DNS}", WEB.replace("8080", "8081")));
    assert_eq!(diff().changes, "+1 backend, -1 backend");
    bed.write(&format!("[rings]\nsize = 64\n{WEB}{DNS}"));
    assert_eq!(diff().needs_restart, ["[rings]"]);
    bed.write("nonsense = 1\n");
    assert!(diff().errors.unwrap().contains("nonsense"));
    let (_, still) = bed.http("/v1/config");
    assert!(still.contains("203.0.113.10"), "the running config stays");
}

/// A config is checked and applied by the API, if it was made from the one in effect.
pub(crate) fn applied() {
    let bed = Bed::new(WEB);
    let shown = || -> ConfigItem { bed.wait(bed.client.get("/v1/config", &[])).unwrap() };
    let apply = |text: &str, etag: &str| {
        let applied = bed.wait(bed.client.apply(text.to_owned(), etag));
        applied.map_err(|error| error.to_string())
    };
    let validate = |text: &str| {
        let checked = bed.wait(bed.client.validate(text.to_owned()));
        checked.map_err(|error| error.to_string())
    };
    let first = shown();
    let two = first.text.clone() + DNS;
    assert!(validate(&two).unwrap().contains("+1 service"));
    assert_eq!(shown().text, first.text, "only checked");
    let wrong = first.text.replace("\"first\"", "\"frist\"") + "nonsense = 1\n";
    for error in [
        validate(&wrong).unwrap_err(),
        apply(&wrong, &first.etag).unwrap_err(),
    ] {
        assert!(
            error.contains("nonsense") && error.contains("frist"),
            "{error}"
        );
    }
    let file = bed.folder.path().join("lb.toml");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first.text);

    assert!(apply(&two, "0").unwrap_err().contains("has changed since"));
    assert!(apply(&two, &first.etag).unwrap().contains("+1 service"));
    assert_eq!(
        (shown().text, std::fs::read_to_string(&file).unwrap()),
        (two.clone(), two.clone())
    );
    assert!(
        apply(&first.text, &first.etag)
            .unwrap_err()
            .contains("has changed since")
    );
    // Somebody edits the file meanwhile.
    std::fs::write(&file, format!("{two}# mine\n")).unwrap();
    let error = apply(&first.text, &shown().etag).unwrap_err();
    assert!(error.contains("not in effect"), "{error}");
}

pub(crate) fn events() {
    let bed = Bed::new(WEB);
    bed.log.events().add(Severity::Info, "config", "first");
    bed.log.events().add(Severity::Warn, "health", "second");
    let by = |query: &[(&str, &str)]| {
        let query: Vec<_> = query
            .iter()
            .map(|(k, v)| (*k, Some((*v).to_owned())))
            .collect();
        bed.wait(async {
            let mut events = bed.client.events(&query).await?;
            let mut list = Vec::new();
            while let Some((_, event)) = events.next().await? {
                list.push(event);
            }
            Ok::<Vec<Event>, ClientError>(list)
        })
        .unwrap()
    };
    let texts =
        |events: Vec<Event>| -> Vec<String> { events.into_iter().map(|it| it.text).collect() };
    assert_eq!(texts(by(&[])), ["first", "second"]);
    assert_eq!(texts(by(&[("severity", "warn")])), ["second"]);
    assert_eq!(texts(by(&[("area", "config")])), ["first"]);
    assert_eq!(texts(by(&[("after", "1")])), ["second"]);

    // A follower gets what happens later, even after a pause longer than that for stalled peers.
    bed.wait(async {
        let query = [
            ("follow", Some("true".to_owned())),
            ("after", Some("1".to_owned())),
        ];
        let mut events = bed.client.events(&query).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().1.text, "second");
        tokio::time::sleep(std::time::Duration::from_secs(11)).await;
        bed.log.events().add(Severity::Error, "module", "third");
        assert_eq!(events.next().await.unwrap().unwrap().1.number, 3);
    });
}
