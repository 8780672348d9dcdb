//! A small HTTP/1.1 client (RFC 9112): one request per connection, and its response.
//!
//! ```
//! use std::io::Read;
//! use waxwing_sdk::health::http::Request;
//! # struct Server(&'static [u8]);
//! # impl std::io::Write for Server {
//! #     fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> { Ok(bytes.len()) }
//! #     fn flush(&mut self) -> std::io::Result<()> { Ok(()) }
//! # }
//! # impl Read for Server {
//! #     fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> { self.0.read(to) }
//! # }
//! # let connection = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell");
//!
//! let request = Request::new("GET", "/healthz")?.header("accept", "text/plain")?;
//! let mut response = request.send(connection, "s1.example:8080")?;
//! assert_eq!(response.status(), 200);
//! let mut body = String::new();
//! response.by_ref().take(64 * 1024).read_to_string(&mut body)?;
//! assert_eq!(body, "well");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariant: whatever a server sends, the client holds at most a head of [`HEAD_BYTES_MAX`] and
//! one buffer, and never panics. A body ends where its framing says, or with an error. Bytes after
//! the body are never read, because a connection serves one request.

mod body;
mod head;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::io::{self, BufRead, BufReader, Read, Write};

use self::body::Body;
use self::head::Head;
use crate::ConfigError;

/// Longest head of a response, in bytes, including the interim responses before it.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Headers that state the framing of the request; the client sets them.
const OWN_HEADERS: [&str; 3] = ["connection", "content-length", "transfer-encoding"];

/// A request. Make it once, when the config is read, and send it any number of times.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Makes a request. `path` includes the query and is sent unchanged.
    ///
    /// # Errors
    /// Fails if the method is not a token, or the path contains what a request line cannot.
    pub fn new(method: &str, path: &str) -> Result<Self, ConfigError> {
        if !is_token(method) {
            return Err(format!("{method:?} is not a method; write GET or HEAD").into());
        }
        let is_visible = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || !(path.starts_with('/') || path == "*") {
            return Err(format!(
                "{path:?} is not a path; start it with / and percent-encode all but visible ASCII, \
                 like /healthz?full=1"
            )
            .into());
        }
        Ok(Self {
            method: method.to_string(),
            path: path.to_string(),
            headers: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Adds a header. `host` and `user-agent` replace the client's own.
    ///
    /// # Errors
    /// Fails if the name is not a token, the value contains a control character, or the header
    /// states the framing.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, ConfigError> {
        if !is_token(name) {
            return Err(format!("{name:?} is not a header name").into());
        }
        if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(format!("the check sets the header {name}; leave it out").into());
        }
        if value
            .bytes()
            .any(|byte| byte.is_ascii_control() && byte != b'\t')
        {
            return Err(format!(
                "the value of the header {name} has a control character: {value:?}"
            )
            .into());
        }
        self.headers.push((name.to_string(), value.to_string()));
        Ok(self)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the request and reads the head of the response. `host` is the value of the `host`
    /// header, from [`host`].
    ///
    /// # Errors
    /// Fails with the connection's error, and with `InvalidData` or `UnexpectedEof` if the response
    /// is malformed or incomplete. The text says which.
    pub fn send<C: Read + Write>(&self, mut connection: C, host: &str) -> io::Result<Response<C>> {
        connection.write_all(&self.bytes(host))?;
        connection.flush()?;
        let mut reader = BufReader::new(connection);
        let head = Head::read(&mut reader)?;
        let body = Body::new(reader, head.framing(self.method == "HEAD")?);
        Ok(Response { head, body })
    }

    fn bytes(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let mut add = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        for (name, value) in [("host", host), ("user-agent", "waxwing")] {
            let is_given = |(given, _): &(String, _)| given.eq_ignore_ascii_case(name);
            if !self.headers.iter().any(is_given) {
                add(name, value);
            }
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        if !self.body.is_empty() {
            add("content-length", &self.body.len().to_string());
        }
        add("connection", "close");
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(&self.body);
        bytes
    }
}

/// Returns the value of the `host` header: a name or an address, IPv6 in brackets, and the port
/// unless it is the scheme's default (80, or 443 with TLS).
#[must_use]
pub fn host(name: &str, port: u16, port_default: u16) -> String {
    let name = if name.contains(':') {
        format!("[{name}]")
    } else {
        name.to_string()
    };
    if port == port_default {
        name
    } else {
        format!("{name}:{port}")
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// A response: its head, and the body to read.
#[derive(Debug)]
pub struct Response<C> {
    head: Head,
    body: Body<C>,
}

impl<C> Response<C> {
    /// Returns the status code, 200 to 999.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// Returns the reason phrase, such as `Not Found`; empty if the server sends none.
    pub fn reason(&self) -> &str {
        &self.head.reason
    }

    /// Returns the value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.values(name).next()
    }
}

impl<C: Read> Read for Response<C> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.body.fill_buf()?.read(to)?;
        self.body.consume(count);
        Ok(count)
    }
}

impl<C: Read> BufRead for Response<C> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.body.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.body.consume(count);
    }
}
