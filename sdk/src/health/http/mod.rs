//! A small HTTP/1.1 client (RFC 9112): one request on a connection, and its answer.
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
//! Invariant: whatever a server sends, no more of it is held at once than a head of
//! [`HEAD_BYTES_MAX`] and a buffer, nothing panics, and a body ends where its framing says or with
//! an error. A connection serves one request, so what follows the body is never read.

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

/// The longest head of an answer, in bytes, with those of interim answers before it.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Headers that say how the request is framed; it says so itself.
const OWN_HEADERS: [&str; 3] = ["connection", "content-length", "transfer-encoding"];

/// A request. It is made once, where the config is read, and may be sent many times.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `path` goes into the request line as it is, with its query.
    ///
    /// # Errors
    /// A text for the operator: the method is no token, or the path cannot stand in a request line.
    pub fn new(method: &str, path: &str) -> Result<Self, String> {
        if !is_token(method) {
            return Err(format!("{method:?} is no method; write GET or HEAD"));
        }
        let is_visible = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || !(path.starts_with('/') || path == "*") {
            return Err(format!(
                "{path:?} is no path; write it as in a request, with / in front and percent signs \
                 for what is no visible ASCII: /healthz?full=1"
            ));
        }
        Ok(Self {
            method: method.to_string(),
            path: path.to_string(),
            headers: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Adds a header. `host` and `user-agent` take the place of what is sent otherwise.
    ///
    /// # Errors
    /// A text for the operator: no token as its name, a line break or the like in its value, or one
    /// that says how the request is framed.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, String> {
        if !is_token(name) {
            return Err(format!("{name:?} is no name of a header"));
        }
        if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(format!(
                "the header {name} is the check's own; leave it out"
            ));
        }
        if value
            .bytes()
            .any(|byte| byte.is_ascii_control() && byte != b'\t')
        {
            return Err(format!(
                "the header {name} has a control character: {value:?}"
            ));
        }
        self.headers.push((name.to_string(), value.to_string()));
        Ok(self)
    }

    /// Gives it a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it and reads the head of the answer. `host`: whom it asks, as [`host`] writes it.
    ///
    /// # Errors
    /// The connection's; `InvalidData` or `UnexpectedEof` where the answer is no HTTP or not whole,
    /// with words that say so.
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

/// The value of `host` for a server: its name, or its address, in brackets if it is one of IPv6; and
/// the port unless it is `port_default`, that of the scheme (80, or 443 with TLS).
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

/// An answer: its head, and its body to read.
#[derive(Debug)]
pub struct Response<C> {
    head: Head,
    body: Body<C>,
}

impl<C> Response<C> {
    /// The status code, 200 to 999.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The status in words, such as `Not Found`; empty where the server gives none.
    pub fn reason(&self) -> &str {
        &self.head.reason
    }

    /// The value of the first header of this name, in any case.
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
