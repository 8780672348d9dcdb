//! The API on a TCP port of this host, for those who have the token.
//!
//! Invariant: a request without the token learns nothing, not even whether its path exists; it gets the
//! page's own files alone. A page from elsewhere in a browser gets nothing either: its
//! requests name another host (DNS rebinding) or another origin.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use crate::admin::connections;
use crate::admin::page;
use crate::admin::tcp_port::TcpPort;
use crate::config::AdminListen;

/// The shortest token, in bytes.
const TOKEN_MIN: usize = 16;

/// Why the API is not served on a TCP port.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read `token_file` {}: {source}", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The token is too short to be secret.
    #[error(
        "the token in {} has less than {TOKEN_MIN} bytes; make one with `openssl rand -hex 32`",
        .0.display()
    )]
    Short(PathBuf),
}

/// The port, and what its clients must say.
pub(crate) struct Listener {
    address: SocketAddr,
    gate: Arc<Gate>,
}

struct Gate {
    token: Vec<u8>,
    /// The values of `Host` by which this port may be named.
    hosts: [String; 2],
}

impl Listener {
    /// Reads the token.
    pub(crate) fn new(listen: &AdminListen) -> Result<Self, TokenError> {
        let port = listen.address.port();
        Ok(Self {
            address: listen.address,
            gate: Arc::new(Gate {
                token: token(&listen.token_file)?,
                hosts: [listen.address.to_string(), format!("localhost:{port}")],
            }),
        })
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(self, router: Router) {
        let Self { address, gate } = self;
        let router = router.layer(axum::middleware::from_fn_with_state(gate, admit));
        match TcpPort::Later(address).listen().await {
            Ok(listener) => {
                let max = connections::connections_max();
                connections::serve("the admin port", listener, max, router).await;
            }
            Err(error) => tracing::error!(
                "the API is not served on {address}: {error}; set another `listen` under [admin] and restart"
            ),
        }
    }
}

/// Reads a token; line ends around it are not part of it.
fn token(path: &Path) -> Result<Vec<u8>, TokenError> {
    let text = std::fs::read_to_string(path).map_err(|source| TokenError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let token = text.trim().as_bytes().to_vec();
    if token.len() < TOKEN_MIN {
        return Err(TokenError::Short(path.to_owned()));
    }
    Ok(token)
}

/// Lets a request through that names this port, comes from no other origin, and has the token or asks for a
/// file of the page.
async fn admit(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.check(request.headers(), request.uri().path()) {
        Ok(()) => next.run(request).await,
        Err(refusal @ (StatusCode::UNAUTHORIZED, _)) => {
            ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl Gate {
    fn check(&self, headers: &HeaderMap, path: &str) -> Result<(), (StatusCode, &'static str)> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let is_ours = |host: &str| self.hosts.iter().any(|it| it.eq_ignore_ascii_case(host));
        if !text(header::HOST).is_some_and(is_ours) {
            return Err((StatusCode::MISDIRECTED_REQUEST, "this is another host"));
        }
        let origin = headers
            .get(header::ORIGIN)
            .map(|value| value.to_str().unwrap_or_default());
        if origin.is_some_and(|it| !it.strip_prefix("http://").is_some_and(is_ours)) {
            return Err((
                StatusCode::FORBIDDEN,
                "requests from other origins are refused",
            ));
        }
        if page::has(path) {
            return Ok(());
        }
        let given = text(header::AUTHORIZATION).and_then(|it| it.strip_prefix("Bearer "));
        let given = given.unwrap_or_default().as_bytes();
        // In a time that does not depend on where the two differ.
        match bool::from(self.token.ct_eq(given)) {
            true => Ok(()),
            false => Err((
                StatusCode::UNAUTHORIZED,
                "write `Authorization: Bearer TOKEN`, with the token of `token_file`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_from_no_other_place_is_let_through() {
        let gate = Gate {
            token: b"0123456789abcdef".to_vec(),
            hosts: ["127.0.0.1:9118".into(), "localhost:9118".into()],
        };
        let good = "Bearer 0123456789abcdef";
        let rows = [
            (Some("127.0.0.1:9118"), None, Some(good), 0),
            (
                Some("LOCALHOST:9118"),
                Some("http://localhost:9118"),
                Some(good),
                0,
            ),
            (None, None, Some(good), 421),
            (Some("evil.example:9118"), None, Some(good), 421),
            (Some("127.0.0.1"), None, Some(good), 421),
            (
                Some("127.0.0.1:9118"),
                Some("http://evil.example"),
                Some(good),
                403,
            ),
            (Some("127.0.0.1:9118"), Some("null"), Some(good), 403),
            (
                Some("127.0.0.1:9118"),
                Some("https://127.0.0.1:9118"),
                Some(good),
                403,
            ),
            (Some("127.0.0.1:9118"), None, None, 401),
            (
                Some("127.0.0.1:9118"),
                None,
                Some("Bearer 0123456789abcdeF"),
                401,
            ),
            (
                Some("127.0.0.1:9118"),
                None,
                Some("Bearer 0123456789abcde"),
                401,
            ),
            (
                Some("127.0.0.1:9118"),
                None,
                Some("Basic 0123456789abcdef"),
                401,
            ),
        ];
        for (host, origin, token, status) in rows {
            let mut headers = HeaderMap::new();
            let names = [header::HOST, header::ORIGIN, header::AUTHORIZATION];
            for (name, value) in names.into_iter().zip([host, origin, token]) {
                if let Some(value) = value {
                    headers.insert(name, value.parse().expect("a value"));
                }
            }
            let refused = gate
                .check(&headers, "/v1/status")
                .err()
                .map_or(0, |(status, _)| status.as_u16());
            assert_eq!(refused, status, "{host:?} {origin:?} {token:?}");
            // The page's files need no token, but are there under no other name and for no other origin.
            let refused = gate.check(&headers, "/").err();
            let without_token = if status == 401 { 0 } else { status };
            let refused = refused.map_or(0, |(status, _)| status.as_u16());
            assert_eq!(refused, without_token, "{host:?} {origin:?} {token:?}");
        }
    }
}
