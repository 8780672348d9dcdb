//! Backends that the operator has added to the config's services while the balancer runs.
//!
//! Invariant: they pass the checks that the config's own backends pass. The config's file comes first: a
//! backend that it has too is its own.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use waxwing_plugin::PrivateFolder;

use super::model::Config;
use super::model::health::CheckOverride;
use super::model::service::Backend;
use super::problem::{Located, Problems, Span};
use super::values;

/// The file in the state folder.
const FILE: &str = "added-backends.json";
/// Its largest size, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// Those that are in effect, and where they are kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct AddedBackends {
    /// The state folder; `None`: they are not kept.
    folder: Option<PathBuf>,
    pub(crate) list: Vec<AddedBackend>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AddedBackend {
    /// The service's name.
    pub(crate) service: String,
    pub(crate) address: IpAddr,
    /// `None` if the service has several ports, which sessions keep.
    #[serde(default)]
    pub(crate) port: Option<u16>,
    pub(crate) weight: u16,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) tag: u32,
}

impl AddedBackends {
    /// Reads what an earlier process kept in the state folder. Warns if that cannot be used.
    pub(crate) fn read(folder: PathBuf) -> Self {
        let list = PrivateFolder::open(&folder)
            .and_then(|folder| folder.read(FILE, FILE_MAX))
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        let list = list.unwrap_or_else(|error| {
            if error.kind() != ErrorKind::NotFound {
                let path = folder.join(FILE);
                tracing::warn!(
                    "{}: not used: {error}; no added backend goes on",
                    path.display()
                );
            }
            Vec::new()
        });
        let folder = Some(folder);
        Self { folder, list }
    }

    pub(crate) fn without_any(self) -> Self {
        let list = Vec::new();
        Self { list, ..self }
    }

    /// Writes them to the state folder, if there is one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let text = serde_json::to_vec_pretty(&self.list)?;
        PrivateFolder::open(folder)?.write(FILE, &[&text], true)
    }
}

impl Config {
    /// Adds them to their services. Those without a service, and those that the file has too, are told and
    /// left out.
    pub(super) fn admit(&mut self, added: AddedBackends, problems: &mut Problems) {
        let AddedBackends { folder, list } = added;
        self.added.folder = folder;
        for backend in list {
            if let Some(why) = self.admit_one(&backend) {
                let AddedBackend {
                    service, address, ..
                } = &backend;
                let text = format!(
                    "{address}, which an operator has added to {service}, is left out: {why}"
                );
                problems.warn(Span::default(), text);
            } else {
                self.added.list.push(backend);
            }
        }
    }

    /// Why it is left out, if it is.
    pub(crate) fn admit_one(&mut self, added: &AddedBackend) -> Option<String> {
        let mut services = self.services.iter_mut();
        let Some(service) = services.find(|it| *it.name.value == *added.service) else {
            return Some("the config has no such service".to_owned());
        };
        let span = service.span;
        match (service.ports.value.single(), added.port) {
            (Some(_), None) => return Some("it has no port".to_owned()),
            (None, Some(_)) => {
                return Some("the service has several ports, which sessions keep".to_owned());
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if let Some(Err(why)) = added.name.as_deref().map(values::name) {
            return Some(why);
        }
        let backend = Backend {
            address: Located::new(added.address.into(), span),
            port: added.port.map(|port| Located::new(port, span)),
            weight: added.weight.into(),
            name: added
                .name
                .as_deref()
                .map(|name| Located::new(name.into(), span)),
            tag: added.tag,
            backup: false,
            health: CheckOverride::default(),
            is_added: true,
        };
        let mut others = service.backends.iter();
        if others.any(|it| {
            it.snapshot_port() == backend.snapshot_port()
                && it.address.value == backend.address.value
        }) {
            return Some("the service has it already".to_owned());
        }
        service.backends.push(backend);
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"
[[port]]
interface = "eth0"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
policy = "round_robin"
[[service.backend]]
address = "10.2.0.11"
port = 8080
[[service]]
name = "many"
vip = "203.0.113.11"
port = "8000-8100"
protocol = "tcp"
policy = "round_robin"
[[service.backend]]
address = "10.2.0.11"
"#;

    fn added(service: &str, address: [u8; 4], port: Option<u16>) -> AddedBackend {
        AddedBackend {
            service: service.to_owned(),
            address: address.into(),
            port,
            weight: 7,
            name: None,
            tag: 3,
        }
    }

    /// The config with them, and the warnings.
    fn read(list: Vec<AddedBackend>) -> (Config, String) {
        let folder = None;
        let added = AddedBackends { folder, list };
        let (config, warnings) = Config::read_with(TEXT, Path::new("lb.toml"), |_| added)
            .finish()
            .unwrap();
        let warnings = warnings.iter().map(|it| it.text.clone());
        (config, warnings.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn they_join_their_services() {
        let list = vec![
            added("web", [10, 2, 0, 12], Some(8080)),
            added("many", [10, 2, 0, 12], None),
        ];
        let (config, _) = read(list.clone());
        assert_eq!(config.added.list, list);
        let [web, many] = &config.services[..] else {
            panic!("two services");
        };
        let last = web.backends.last().unwrap();
        assert_eq!(last.title(), "10.2.0.12:8080");
        assert_eq!((last.weight, last.tag, last.is_added), (7, 3, true));
        assert!(!web.backends[0].is_added);
        assert_eq!(many.backends.last().unwrap().title(), "10.2.0.12");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_told() {
        let rows = [
            (
                added("web", [10, 2, 0, 11], Some(8080)),
                "the service has it already",
            ),
            (added("gone", [10, 2, 0, 12], Some(8080)), "no such service"),
            (added("web", [10, 2, 0, 12], None), "it has no port"),
            (added("many", [10, 2, 0, 12], Some(80)), "several ports"),
        ];
        for (backend, why) in rows {
            let (config, warnings) = read(vec![backend.clone()]);
            assert!(config.added.list.is_empty(), "{why}");
            assert!(warnings.contains(why), "{why}: {warnings}");
            let mut config = config;
            assert!(config.admit_one(&backend).unwrap().contains(why));
        }
        let named = AddedBackend {
            name: Some("not a name".to_owned()),
            ..added("web", [10, 2, 0, 12], Some(8080))
        };
        assert!(read(vec![named]).0.added.list.is_empty());
    }

    #[test]
    fn they_are_kept_in_the_state_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert!(AddedBackends::read(path.clone()).list.is_empty());
        let added = AddedBackends {
            folder: Some(path.clone()),
            list: vec![added("web", [10, 2, 0, 12], Some(8080))],
        };
        added.keep().unwrap();
        assert_eq!(AddedBackends::read(path.clone()), added);
        std::fs::write(path.join(FILE), "[{").unwrap();
        assert!(AddedBackends::read(path).list.is_empty());
    }
}
