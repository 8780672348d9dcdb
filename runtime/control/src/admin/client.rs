//! The other end of the admin socket: how `waxwing status` and its kin reach a running balancer.
//!
//! Invariant: it trusts the answer as little as any input; an answer that is no answer is an error
//! with a text, never a panic.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::admin::signals::{SetBackend, SetSignals};
use crate::admin::status::{ServiceHealthStatus, SessionStatus, Status};

/// The longest line of a session list that is taken.
const LINE_MAX: usize = 64 << 10;

/// Why the balancer could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "{}: there is no such socket; is waxwing running, and is that its [admin] socket?",
        .0.display()
    )]
    Missing(PathBuf),
    /// Nobody answers at the socket.
    #[error("{}: nobody answers; waxwing is not running (it left this socket behind)", .0.display())]
    NotRunning(PathBuf),
    /// The socket is another user's.
    #[error(
        "{}: permission denied; the admin socket is for the user that waxwing runs as, so try sudo",
        .0.display()
    )]
    Permission(PathBuf),
    /// Anything else on the way.
    #[error("{}: {why}", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// The balancer refused, and said why.
    #[error("{0}")]
    Refused(String),
}

/// A balancer, by its admin socket.
pub struct Client {
    path: PathBuf,
}

/// The sessions, as they come in.
pub struct Sessions {
    path: PathBuf,
    response: Response<Incoming>,
    buffer: Vec<u8>,
    /// How much of the buffer was given out.
    taken: usize,
    connection: AbortHandle,
}

impl Client {
    /// For the balancer that has its admin socket here.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            path: socket.to_owned(),
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read("/v1/status").await
    }

    /// Whether each service can be served.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn health(&self) -> Result<Vec<ServiceHealthStatus>, ClientError> {
        self.read("/v1/health").await
    }

    async fn read<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let body = self.whole(Method::GET, target, None).await?;
        serde_json::from_slice(&body).map_err(|e| {
            self.talk(format!(
                "the answer is not as this version knows it ({e}); are both waxwing programs of one \
                 version?"
            ))
        })
    }

    /// Has it read its config anew; gives the warnings.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with everything that is wrong with the config, and the others.
    pub async fn reload(&self) -> Result<String, ClientError> {
        let body = self.whole(Method::POST, "/v1/reload", None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Sets signals of a backend.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what is wrong with the request, and the others.
    pub async fn set_signals(&self, request: &SetSignals) -> Result<(), ClientError> {
        let text = serde_json::to_vec(request).map_err(|e| self.talk(e.to_string()))?;
        self.whole(Method::POST, "/v1/signals", Some(text)).await?;
        Ok(())
    }

    /// Sets whether a backend takes new sessions.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what is wrong with the request, and the others.
    pub async fn set_backend(&self, request: &SetBackend) -> Result<(), ClientError> {
        let text = serde_json::to_vec(request).map_err(|e| self.talk(e.to_string()))?;
        self.whole(Method::POST, "/v1/backends", Some(text)).await?;
        Ok(())
    }

    /// Its sessions: all of them or one service's, `limit` at most.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sessions(
        &self,
        service: Option<&str>,
        limit: Option<u64>,
    ) -> Result<Sessions, ClientError> {
        let mut query = Vec::new();
        // A service's name has no character that a query would need escaped.
        query.extend(service.map(|name| format!("service={name}")));
        query.extend(limit.map(|limit| format!("limit={limit}")));
        let target = format!("/v1/sessions?{}", query.join("&"));
        let (response, connection) = self.ask(Method::GET, &target, None).await?;
        Ok(Sessions {
            path: self.path.clone(),
            response,
            buffer: Vec::new(),
            taken: 0,
            connection,
        })
    }

    async fn whole(
        &self,
        method: Method,
        target: &str,
        json: Option<Vec<u8>>,
    ) -> Result<Bytes, ClientError> {
        let (response, connection) = self.ask(method, target, json).await?;
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| self.talk(e.to_string()));
        connection.abort();
        Ok(body?.to_bytes())
    }

    /// One request; an answer other than 200 is an error with the answer's text.
    async fn ask(
        &self,
        method: Method,
        target: &str,
        json: Option<Vec<u8>>,
    ) -> Result<(Response<Incoming>, AbortHandle), ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|e| self.connect_error(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.talk(e.to_string()))?;
        let connection = tokio::spawn(connection).abort_handle();
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "waxwing")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(json.unwrap_or_default()))
            .map_err(|e| self.talk(format!("this cannot be asked for: {e}")))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.talk(e.to_string()))?;
        if response.status() == StatusCode::OK {
            return Ok((response, connection));
        }
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| self.talk(e.to_string()))?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Err(if text.is_empty() {
            self.talk(format!("answered {status}"))
        } else {
            ClientError::Refused(text)
        })
    }

    fn connect_error(&self, error: &io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::Missing(path),
            io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path),
            io::ErrorKind::PermissionDenied => ClientError::Permission(path),
            _ => self.talk(error.to_string()),
        }
    }

    fn talk(&self, why: String) -> ClientError {
        ClientError::Talk {
            path: self.path.clone(),
            why,
        }
    }
}

impl Sessions {
    /// The next session, as its line of JSON and read.
    ///
    /// # Errors
    /// [`ClientError::Talk`] where the list breaks off.
    pub async fn next(&mut self) -> Result<Option<(String, SessionStatus)>, ClientError> {
        loop {
            let rest = &self.buffer[self.taken..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.taken += end + 1;
                let session =
                    serde_json::from_str(&line).map_err(|e| self.talk(format!("{e}: {line}")))?;
                return Ok(Some((line, session)));
            }
            if rest.len() > LINE_MAX {
                return Err(self.talk("a line of the session list has no end".into()));
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            match self.response.body_mut().frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
                Some(Err(e)) => return Err(self.talk(format!("the session list broke off: {e}"))),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.talk("the session list broke off".into())),
            }
        }
    }

    fn talk(&self, why: String) -> ClientError {
        ClientError::Talk {
            path: self.path.clone(),
            why,
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
