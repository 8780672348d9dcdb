//! The page for a browser: `GET /` and the files that it is made of.
//!
//! Invariant: the files hold no data, so they need no token. All that the page shows and changes goes through
//! the API, and the browser loads nothing from elsewhere.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// A path, the type of its content, and its content.
type File = (&'static str, &'static str, &'static str);

const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: [File; 7] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page.css"),
    ),
    ("/page.js", SCRIPT, include_str!("page.js")),
    ("/model.js", SCRIPT, include_str!("model.js")),
    ("/nodes.js", SCRIPT, include_str!("nodes.js")),
    ("/services.js", SCRIPT, include_str!("services.js")),
    ("/lists.js", SCRIPT, include_str!("lists.js")),
];

/// What the browser may do for the page: load from here alone, run no script and no style written into the
/// document, and show it in no frame of another page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, content_type, content)| {
            let headers = [
                (header::CONTENT_TYPE, content_type),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::REFERRER_POLICY, "no-referrer"),
                // Another version's files may be there after an upgrade.
                (header::CACHE_CONTROL, "no-store"),
            ];
            router.route(
                path,
                get(move || async move { (headers, content).into_response() }),
            )
        })
}

/// Returns whether a path is one of the page's files.
pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|(of_file, ..)| *of_file == path)
}
