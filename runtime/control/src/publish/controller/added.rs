//! Backends that the operator adds, and takes away again, without a reload.
//!
//! Invariant: the file of the config stays as it is, and what is not in effect of it stays so.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::Controller;
use super::reload::ReloadError;
use crate::admin::requests::{AddBackend, RemoveBackend};
use crate::admin::status::ReloadStatus;
use crate::config::added::{AddedBackend, AddedBackends};
use crate::config::{Config, UnknownBackend};
use crate::publish::modules;

/// Why a backend was not added or taken away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddError {
    #[error(transparent)]
    Unknown(#[from] UnknownBackend),
    #[error("{0:?} is no address; write ADDRESS:PORT, such as 10.2.0.14:8080 or [fd00::14]:8080")]
    Address(String),
    #[error("{0} is not added: {1}")]
    LeftOut(String, String),
    #[error(
        "{backend} is in {}: take it out there and reload, or `waxwing backend drain` it",
        path.display()
    )]
    InFile { backend: String, path: PathBuf },
    #[error("nothing changed, because that could not be kept over a restart: {0}")]
    Keep(io::Error),
    #[error(transparent)]
    Reload(#[from] ReloadError),
}

impl Controller {
    /// Adds a backend to a service. Returns what changed.
    ///
    /// # Errors
    /// The service is unknown or has the backend, or it does not fit the config; nothing changed.
    pub(crate) async fn add_backend(
        &mut self,
        request: AddBackend,
    ) -> Result<ReloadStatus, AddError> {
        if let Err(unknown @ UnknownBackend::Service { .. }) =
            self.config.find_backend(&request.service, &request.address)
        {
            return Err(unknown.into());
        }
        let added = added(&request)?;
        let mut trial = Config::clone(&self.config);
        if let Some(why) = trial.admit_one(&added) {
            return Err(AddError::LeftOut(request.address, why));
        }
        let mut next = self.config.added.clone();
        next.list.push(added);
        self.change_added(next).await
    }

    /// Takes an added backend away again. Returns what changed.
    ///
    /// # Errors
    /// There is none, or the file has it; nothing changed.
    pub(crate) async fn remove_backend(
        &mut self,
        request: &RemoveBackend,
    ) -> Result<ReloadStatus, AddError> {
        let RemoveBackend { service, backend } = request;
        let (entry, at) = self.config.find_backend(service, backend)?;
        let found = &entry.backends[at];
        if !found.is_added {
            return Err(AddError::InFile {
                backend: found.title(),
                path: self.config.source().path().to_owned(),
            });
        }
        let address = IpAddr::from(found.address.value);
        let port = found.port.map(|port| port.value);
        let mut next = self.config.added.clone();
        next.list
            .retain(|it| *it.service != **service || it.address != address || it.port != port);
        self.change_added(next).await
    }

    async fn change_added(&mut self, next: AddedBackends) -> Result<ReloadStatus, AddError> {
        let running = Arc::clone(&self.config);
        let source = running.source();
        let reading = Config::read_with(source.text(), source.path(), |_| next);
        let (config, warnings) = self.checked(reading).await?;
        let added = config.added.clone();
        let kept = modules::blocking(move || added.keep()).await;
        kept.map_err(AddError::Keep)?;
        let done = self.take_effect(config, &warnings).await;
        if done.is_err()
            && let Err(error) = running.added.keep()
        {
            tracing::warn!("the added backends of before cannot be kept: {error}");
        }
        self.update_view();
        Ok(done?)
    }
}

/// The backend that a request describes.
fn added(request: &AddBackend) -> Result<AddedBackend, AddError> {
    let text = request.address.trim();
    let endpoint = match text.parse::<SocketAddr>() {
        Ok(endpoint) if endpoint.port() > 0 => Some((endpoint.ip(), Some(endpoint.port()))),
        Ok(_) => None,
        Err(_) => text.parse::<IpAddr>().ok().map(|address| (address, None)),
    };
    let (address, port) = endpoint.ok_or_else(|| AddError::Address(text.to_owned()))?;
    Ok(AddedBackend {
        service: request.service.clone(),
        address,
        port,
        weight: request.weight.unwrap_or(1),
        name: request.name.clone(),
        tag: request.tag.unwrap_or(0),
    })
}
