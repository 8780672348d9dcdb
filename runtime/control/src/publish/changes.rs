//! What a reload changes, in words: `+1 backend, -2 services, routes_max changed`.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::config::{Backend, Config, Service, SourceNat, Span};
use crate::publish::keys::{BackendKey, ServiceKey, backend_key, service_key};

/// The difference between two configs, as far as a reload can put it into effect.
#[derive(Debug)]
pub(crate) struct Changes {
    services: Tally,
    backends: Tally,
    /// Changed keys outside of services.
    keys: Vec<&'static str>,
    /// The backends that the new config does not have.
    pub(crate) removed: HashSet<BackendKey>,
}

/// How many of something were added, removed and changed.
#[derive(Debug, Default)]
struct Tally {
    added: usize,
    removed: usize,
    changed: usize,
}

impl Tally {
    fn of<K: std::hash::Hash + Eq, V: PartialEq>(old: &HashMap<K, V>, new: &HashMap<K, V>) -> Self {
        let changed = |(key, value): &(&K, &V)| old.get(key).is_some_and(|was| was != *value);
        Self {
            added: new.keys().filter(|key| !old.contains_key(key)).count(),
            removed: old.keys().filter(|key| !new.contains_key(key)).count(),
            changed: new.iter().filter(changed).count(),
        }
    }

    fn words(&self, one: &str) -> impl Iterator<Item = String> {
        let Self {
            added,
            removed,
            changed,
        } = *self;
        let some = |count: usize, text: String| (count > 0).then_some(text);
        let noun = |count| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let words = [
            some(added, format!("+{}", noun(added))),
            some(removed, format!("-{}", noun(removed))),
            some(changed, format!("{} changed", noun(changed))),
        ];
        words.into_iter().flatten()
    }
}

impl Changes {
    pub(crate) fn between(old: &Config, new: &Config) -> Self {
        let sources = |config: &Config| -> Vec<SourceNat> {
            let without_place = |table: &SourceNat| SourceNat {
                span: Span::default(),
                ..table.clone()
            };
            config.source_nat.iter().map(without_place).collect()
        };
        let keys = [
            ("[[source_nat]]", sources(old) != sources(new)),
            ("return_path", old.return_path != new.return_path),
            ("routes_max", old.routes_max != new.routes_max),
            ("ping", old.ping != new.ping),
            ("unserved", old.unserved != new.unserved),
        ];
        let (before, after) = (backends(old), backends(new));
        let gone = before.keys().filter(|key| !after.contains_key(key));
        Self {
            services: Tally::of(&services(old), &services(new)),
            backends: Tally::of(&before, &after),
            keys: keys
                .iter()
                .filter(|(_, changed)| *changed)
                .map(|(key, _)| *key)
                .collect(),
            removed: gone.copied().collect(),
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(|key| format!("{key} changed"));
        let words = self
            .services
            .words("service")
            .chain(self.backends.words("backend"));
        let words: Vec<String> = words.chain(keys).collect();
        match words.is_empty() {
            true => f.write_str("nothing changed"),
            false => f.write_str(&words.join(", ")),
        }
    }
}

/// Returns the services without their backends and their places in the file.
fn services(config: &Config) -> HashMap<ServiceKey, Service> {
    let bare = |service: &Service| {
        let mut bare = Service {
            backends: Vec::new(),
            span: Span::default(),
            ..service.clone()
        };
        for check in &mut bare.health.checks {
            check.span = Span::default();
        }
        (service_key(service), bare)
    };
    config.services.iter().map(bare).collect()
}

fn backends(config: &Config) -> HashMap<BackendKey, &Backend> {
    let services = config.services.iter();
    let pairs = services.flat_map(|service| {
        let backends = service.backends.iter();
        backends.map(move |backend| (backend_key(service, backend), backend))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    const WEB: &str = "
        [[service]]
        name = \"web\"
        vip = \"203.0.113.10\"
        port = 80
        protocol = \"tcp\"
        policy = \"maglev\"
        [[service.health]]
        check = \"tcp\"
        [[service.backend]]
        address = \"10.2.0.11\"
        port = 8080
        [[service.backend]]
        address = \"10.2.0.12\"
        port = 8080
    ";

    fn config(text: &str) -> Config {
        let text = format!("{text}\n[[port]]\ninterface = \"eth0\"\n");
        Config::parse(&text, "lb.toml".as_ref()).unwrap().0
    }

    #[test]
    fn a_reload_is_told_in_words() {
        let last = "address = \"10.2.0.12\"\n        port = 8080";
        let dns = WEB
            .replace("web", "dns")
            .replace("port = 80\n", "port = 53\n");
        let rows = [
            (format!("\n\n# moved\n{WEB}"), "nothing changed"),
            (
                WEB.replace("10.2.0.12", "10.2.0.13"),
                "+1 backend, -1 backend",
            ),
            (format!("{WEB}weight = 5\n"), "1 backend changed"),
            (
                WEB.replace(last, &format!("{last}\nname = \"b\"")),
                "1 backend changed",
            ),
            (WEB.replace("maglev", "round_robin"), "1 service changed"),
            (
                WEB.replace("\"tcp\"\n        [[", "\"http\"\n        [["),
                "1 service changed",
            ),
            (format!("{WEB}{dns}"), "+1 service, +2 backends"),
            (String::new(), "-1 service, -2 backends"),
            (
                format!("ping = false\nroutes_max = 9\nunserved = \"drop\"\n{WEB}"),
                "routes_max changed, ping changed, unserved changed",
            ),
            (
                format!("{WEB}\n[[source_nat]]\naddresses = [\"10.2.0.9\"]\n"),
                "[[source_nat]] changed",
            ),
        ];
        let old = config(WEB);
        for (text, words) in rows {
            let changes = Changes::between(&old, &config(&text));
            assert_eq!(changes.to_string(), words, "{text}");
        }
    }

    #[test]
    fn the_backends_of_a_removed_service_are_removed() {
        let old = config(WEB);
        let changes = Changes::between(&old, &config(""));
        let keys = old.services[0].backends.iter();
        let keys: HashSet<BackendKey> = keys
            .map(|backend| backend_key(&old.services[0], backend))
            .collect();
        assert_eq!(changes.removed, keys);
    }
}
