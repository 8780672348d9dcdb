//! The form of errors.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use crate::admin::status::ErrorBody;
use crate::admin::status::SCHEMA_VERSION;

/// The longest text of an error, in bytes.
const TEXT_MAX: usize = 1 << 20;

/// Makes an error's text the JSON that all errors have, also those that a wrong path or query gives.
pub(crate) async fn with_json_error(response: Response) -> Response {
    let status = response.status();
    if status.is_success() {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, TEXT_MAX).await;
    let text = text.map_or_else(
        |error| error.to_string(),
        |text| String::from_utf8_lossy(&text).into(),
    );
    let reason = status.canonical_reason().unwrap_or_default();
    let body = ErrorBody {
        schema_version: SCHEMA_VERSION,
        status: status.as_u16(),
        error: if text.is_empty() {
            reason.to_owned()
        } else {
            text
        },
    };
    // Numbers and a text: this cannot fail.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let json = HeaderValue::from_static("application/json");
    head.headers.insert(header::CONTENT_TYPE, json);
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(body))
}
