//! The client of the admin socket, for `waxwing status` and the other commands.
//!
//! Invariant: a response is untrusted input; a malformed one is an error, never a panic.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::admin::events::Event;
use crate::admin::status::{ErrorBody, HealthReport, SessionStatus, Status};

/// How long the client waits for an answer, and for each part of it.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long it waits for a change: a reload may compile modules, and waits for workers.
const CHANGE_MAX: Duration = Duration::from_secs(120);

/// The longest accepted line of a list, in bytes.
const LINE_MAX: usize = 64 << 10;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "{}: no such socket; is waxwing running, and is this its [admin] socket?",
        .0.display()
    )]
    Missing(PathBuf),
    /// Nobody listens on the socket.
    #[error("{}: waxwing is not running; the socket is left over from an earlier run", .0.display())]
    NotRunning(PathBuf),
    /// The socket belongs to another user.
    #[error(
        "{}: permission denied; the user that waxwing runs as may use the admin socket, and the group \
         that its config's [admin] names; try sudo",
        .0.display()
    )]
    Permission(PathBuf),
    /// Connecting, sending or parsing failed.
    #[error("{}: {why}", path.display())]
    Failed {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// It does not answer.
    #[error(
        "{}: no answer within {} s; is the machine overloaded, or waxwing stopped?",
        path.display(), within.as_secs()
    )]
    Late {
        /// The socket's path.
        path: PathBuf,
        /// How long the client waited.
        within: Duration,
    },
    /// The balancer refused the request, with this text.
    #[error("{0}")]
    Refused(String),
}

/// A client of one balancer.
pub struct Client {
    path: PathBuf,
}

/// An answer, read as it arrives.
pub struct Parts {
    path: PathBuf,
    response: Response<Incoming>,
    connection: AbortHandle,
}

/// A list with an item per line, read as it arrives.
pub struct Lines<T> {
    parts: Parts,
    items: PhantomData<T>,
    buffer: Vec<u8>,
    /// The bytes of the buffer already returned.
    consumed: usize,
}

impl Client {
    /// Creates a client for the balancer with this admin socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            path: socket.to_owned(),
        }
    }

    /// Returns the status, with all services or those that match a pattern.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self, services: Option<&str>) -> Result<Status, ClientError> {
        self.get("/v1/status", &[("service", services.map(str::to_owned))])
            .await
    }

    /// Returns the health of the balancer, and of all services or those that match a pattern.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn health(&self, services: Option<&str>) -> Result<HealthReport, ClientError> {
        self.get("/v1/health", &[("service", services.map(str::to_owned))])
            .await
    }

    async fn read<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let body = self.read_all(Method::GET, target, None).await?;
        serde_json::from_slice(&body).map_err(|e| {
            self.failed(format!(
                "cannot parse the response ({e}); do both waxwing programs have the same version?"
            ))
        })
    }

    /// Reloads the config. Returns its warnings and what changed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with all errors of the config; any other [`ClientError`].
    pub async fn reload(&self) -> Result<String, ClientError> {
        let body = self.read_all(Method::POST, "/v1/reload", None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Asks for a change: posts its body to `path`. Returns the answer's text, which may be empty.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the error in the request; any other [`ClientError`].
    pub async fn change(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<String, ClientError> {
        let text = serde_json::to_vec(request).map_err(|e| self.failed(e.to_string()))?;
        let body = self.read_all(Method::POST, path, Some(text)).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Checks a config's text as a reload would. Returns its warnings and what it would change.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with all errors of the config; any other [`ClientError`].
    pub async fn validate(&self, text: String) -> Result<String, ClientError> {
        let text = Some(text.into_bytes());
        let body = self
            .read_all(Method::POST, "/v1/config/validate", text)
            .await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Replaces the config by a text that was made from the one with this tag. Returns its warnings and what
    /// changed.
    ///
    /// # Errors
    /// As [`Client::validate`]; also [`ClientError::Refused`] if the config in effect is another one.
    pub async fn apply(&self, text: String, etag: &str) -> Result<String, ClientError> {
        let request = (Method::PUT, "/v1/config", Some(etag));
        let text = Some(text.into_bytes());
        let sent = timeout(CHANGE_MAX, self.send_and_wait(request, text)).await;
        let (response, connection) = sent.map_err(|_| ClientError::Late {
            path: self.path.clone(),
            within: CHANGE_MAX,
        })??;
        let body = response.into_body().collect().await;
        connection.abort();
        let body = body.map_err(|e| self.failed(e.to_string()))?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    /// Returns a list of the API: what is at `path`, by the query's parameters that have a value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
    ) -> Result<T, ClientError> {
        self.read(&target(path, query)).await
    }

    /// Lists sessions, by the query's parameters that have a value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sessions(
        &self,
        query: &[(&str, Option<String>)],
    ) -> Result<Lines<SessionStatus>, ClientError> {
        self.lines("/v1/sessions", query).await
    }

    /// Lists events, by the query's parameters that have a value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(
        &self,
        query: &[(&str, Option<String>)],
    ) -> Result<Lines<Event>, ClientError> {
        self.lines("/v1/events", query).await
    }

    /// Returns a list with an item per line, by the query's parameters that have a value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lines<T>(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
    ) -> Result<Lines<T>, ClientError> {
        Ok(Lines {
            parts: self.parts(path, query).await?,
            items: PhantomData,
            buffer: Vec::new(),
            consumed: 0,
        })
    }

    /// Returns an answer in parts, as they arrive.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn parts(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
    ) -> Result<Parts, ClientError> {
        let (response, connection) = self.send(Method::GET, &target(path, query), None).await?;
        Ok(Parts {
            path: self.path.clone(),
            response,
            connection,
        })
    }

    async fn read_all(
        &self,
        method: Method,
        target: &str,
        json: Option<Vec<u8>>,
    ) -> Result<Bytes, ClientError> {
        let (response, connection) = self.send(method, target, json).await?;
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| self.failed(e.to_string()));
        connection.abort();
        Ok(body?.to_bytes())
    }

    /// Sends a request. A status other than 200 is an error with the response's text.
    async fn send(
        &self,
        method: Method,
        target: &str,
        json: Option<Vec<u8>>,
    ) -> Result<(Response<Incoming>, AbortHandle), ClientError> {
        let within = match method {
            Method::GET => ANSWER_MAX,
            _ => CHANGE_MAX,
        };
        let sent = timeout(within, self.send_and_wait((method, target, None), json)).await;
        sent.unwrap_or_else(|_| {
            let path = self.path.clone();
            Err(ClientError::Late { path, within })
        })
    }

    /// `if_match` is a header's value, if it is given.
    async fn send_and_wait(
        &self,
        (method, target, if_match): (Method, &str, Option<&str>),
        json: Option<Vec<u8>>,
    ) -> Result<(Response<Incoming>, AbortHandle), ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|e| self.connect_error(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.failed(e.to_string()))?;
        let connection = tokio::spawn(connection).abort_handle();
        let mut request = Request::builder();
        if let Some(tag) = if_match {
            request = request.header("if-match", format!("\"{tag}\""));
        }
        let request = request
            .method(method)
            .uri(target)
            .header("host", "waxwing")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(json.unwrap_or_default()))
            .map_err(|e| self.failed(format!("cannot build the request: {e}")))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.failed(e.to_string()))?;
        if response.status() == StatusCode::OK {
            return Ok((response, connection));
        }
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| self.failed(e.to_string()))?;
        let error = serde_json::from_slice::<ErrorBody>(&body.to_bytes());
        Err(match error {
            Ok(body) => ClientError::Refused(body.error),
            Err(_) => self.failed(format!("HTTP status {status}")),
        })
    }

    fn connect_error(&self, error: &io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::Missing(path),
            io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path),
            io::ErrorKind::PermissionDenied => ClientError::Permission(path),
            _ => self.failed(error.to_string()),
        }
    }

    fn failed(&self, why: String) -> ClientError {
        ClientError::Failed {
            path: self.path.clone(),
            why,
        }
    }
}

/// Returns a request's path and query.
fn target(path: &str, query: &[(&str, Option<String>)]) -> String {
    let given = query
        .iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let pairs: Vec<String> = given
        .map(|(name, value)| format!("{name}={}", escaped(value)))
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

/// Escapes all but the unreserved characters of a URL (RFC 3986 section 2.3).
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

impl Parts {
    /// Returns the next part; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`], also if the answer breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let frame = timeout(ANSWER_MAX, self.response.body_mut().frame()).await;
        let frame = frame.map_err(|_| ClientError::Late {
            path: self.path.clone(),
            within: ANSWER_MAX,
        })?;
        match frame.transpose() {
            Ok(frame) => Ok(frame.map(|frame| frame.into_data().unwrap_or_default())),
            Err(error) => Err(self.failed(format!("the answer broke off: {error}"))),
        }
    }

    fn failed(&self, why: String) -> ClientError {
        ClientError::Failed {
            path: self.path.clone(),
            why,
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl<T: DeserializeOwned> Lines<T> {
    /// Returns the next item: its line of JSON, and parsed.
    ///
    /// # Errors
    /// [`ClientError::Failed`] if the list is malformed or breaks off.
    pub async fn next(&mut self) -> Result<Option<(String, T)>, ClientError> {
        loop {
            let rest = &self.buffer[self.consumed..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.consumed += end + 1;
                // A heartbeat.
                if line.is_empty() {
                    continue;
                }
                let item = serde_json::from_str(&line)
                    .map_err(|e| self.parts.failed(format!("{e}: {line}")))?;
                return Ok(Some((line, item)));
            }
            if rest.len() > LINE_MAX {
                return Err(self.parts.failed("a line of the list is too long".into()));
            }
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            match self.parts.next().await? {
                Some(part) => self.buffer.extend(part),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.parts.failed("the list broke off".into())),
            }
        }
    }
}
