//! The description of the API.
//!
//! Invariant: it is made of the routes themselves, so it has each of them and no other.

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::get;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, Ref, ResponseBuilder,
};
use utoipa_axum::router::OpenApiRouter;

use crate::admin::status::ErrorBody;
use crate::admin::status::SCHEMA_VERSION;

/// Returns the routes, with `GET /v1/openapi.json`, which describes them.
pub(super) fn described(routes: OpenApiRouter) -> Router {
    let (router, mut api) = routes.split_for_parts();
    complete(&mut api);
    // Names and texts of this program: this cannot fail.
    let text = Bytes::from(serde_json::to_vec(&api).unwrap_or_default());
    let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], text) };
    router.route("/v1/openapi.json", get(answer))
}

/// Adds what all requests have in common: how they fail, and the token of the TCP port.
fn complete(api: &mut OpenApi) {
    api.info = InfoBuilder::new()
        .title("Waxwing")
        .version(SCHEMA_VERSION.to_string())
        .build();
    let error = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody")));
    let failed = ResponseBuilder::new()
        .description("An error")
        .content("application/json", error.build())
        .build();
    let operations = api.paths.paths.values_mut();
    let operations = operations.flat_map(|path| [&mut path.get, &mut path.put, &mut path.post]);
    for operation in operations.flatten() {
        let responses = &mut operation.responses.responses;
        responses.insert("default".to_owned(), failed.clone().into());
    }
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = ComponentsBuilder::from(api.components.take().unwrap_or_default());
    let components = components.security_scheme("token", token);
    api.components = Some(components.schema_from::<ErrorBody>().build());
    // The sockets need none.
    let (none, token) = (
        SecurityRequirement::default(),
        SecurityRequirement::new("token", [""; 0]),
    );
    api.security = Some(vec![none, token]);
}
