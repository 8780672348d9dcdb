//! HTTP: requests a page over HTTP/1.1 or HTTPS and checks the status, and the body if the config
//! says what it must contain.
//!
//! Use it for every server that speaks HTTP. A page that the application makes for this purpose,
//! and that checks its own dependencies, shows more than a file.
//!
//! Invariant: the check reads a body only until the text is found, at most [`BODY_BYTES_MAX`], and
//! a head of at most [`HEAD_BYTES_MAX`](waxwing_sdk::health::http::HEAD_BYTES_MAX).

mod status;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde::Deserialize;
use waxwing_sdk::health::http::{Request, host};
use waxwing_sdk::health::lines::quote;
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

use crate::status::Statuses;

/// Bytes of a body that are searched.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Longest text to search for, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// `config = { path = "/healthz", status = "200-399", body = "ok", headers = { x-probe = "1" } }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Request method, such as `GET` or `HEAD`.
    method: String,
    /// Path and query.
    path: String,
    /// Host to request, if several share one address. Default: the target's name.
    host: Option<String>,
    /// Healthy status codes.
    status: Statuses,
    /// Text that the body must contain.
    body: Option<String>,
    /// Additional headers.
    headers: BTreeMap<String, String>,
    /// Whether to use HTTPS.
    tls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            method: "GET".to_string(),
            path: "/".to_string(),
            host: None,
            status: Statuses::default(),
            body: None,
            headers: BTreeMap::new(),
            tls: false,
        }
    }
}

/// The request and the expected response.
pub struct Http {
    request: Request,
    status: Statuses,
    body: Option<String>,
    tls: bool,
}

impl HealthCheck for Http {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        check_body(&config)?;
        let request = request(&config).map_err(|error| error.at("config"))?;
        Ok(Self {
            request,
            status: config.status,
            body: config.body,
            tls: config.tls,
        })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let start = target.now();
        let mut conn = target.connect()?;
        let mut port_default = 80;
        if self.tls {
            conn = conn.tls(&["http/1.1"])?;
            port_default = 443;
        }
        let host = host(target.server_name(), target.port(), port_default);
        let mut response = self.request.send(conn, &host)?;
        let took = target.now().saturating_sub(start).as_millis();
        let status = response.status();
        if !self.status.contains(status) {
            return Err(format!("status {status}, expected {}", self.status).into());
        }
        if let Some(text) = &self.body {
            search(&mut response, text.as_bytes())?;
        }
        let phrase = match response.reason() {
            "" => String::new(),
            phrase => format!(" {phrase}"),
        };
        Ok(Verdict::healthy(format!("{status}{phrase} in {took} ms")))
    }
}

fn request(config: &Config) -> Result<Request, ConfigError> {
    let mut request = Request::new(&config.method, &config.path)?;
    if let Some(host) = &config.host {
        if config
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case("host"))
        {
            return Err("the host is given twice; leave it out of the headers".into());
        }
        request = request.header("host", host)?;
    }
    for (name, value) in &config.headers {
        request = request.header(name, value)?;
    }
    Ok(request)
}

fn check_body(config: &Config) -> Result<(), ConfigError> {
    match &config.body {
        Some(text) if text.is_empty() => {
            Err("config.body is empty; leave it out, or write what the body must contain".into())
        }
        Some(text) if text.len() > TEXT_BYTES_MAX => Err(format!(
            "config.body has {} bytes; expected at most {TEXT_BYTES_MAX}",
            text.len()
        )
        .into()),
        Some(_) if config.method == "HEAD" => {
            Err("config.body: a response to HEAD has no body; write method = \"GET\"".into())
        }
        _ => Ok(()),
    }
}

/// Reads the body until the text is found.
fn search(body: &mut impl BufRead, text: &[u8]) -> Result<(), Unhealthy> {
    let mut read = 0;
    // The last bytes of the previous piece, where the text may start, and the current piece.
    let mut last: Vec<u8> = Vec::new();
    while read < BODY_BYTES_MAX {
        let piece = match body.fill_buf() {
            Ok([]) => return Err(format!("the body lacks {}", quote(text)).into()),
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let count = piece.len();
        last.extend(piece);
        body.consume(count);
        if last.windows(text.len()).any(|window| window == text) {
            return Ok(());
        }
        read += count;
        last.drain(..last.len().saturating_sub(text.len() - 1));
    }
    let searched = BODY_BYTES_MAX / 1024;
    Err(format!("the first {searched} KiB of the body lack {}", quote(text)).into())
}

export_health_check!(Http);

#[cfg(test)]
mod tests;
