//! The parts of lists: a page of items, sorted if that is asked for.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::admin::status::SCHEMA_VERSION;
use crate::health::HealthState;

/// The most items of a list, unless `limit` asks for others.
const LIMIT: usize = 1000;

/// A part of a list.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Listing<T> {
    pub schema_version: u32,
    /// The items that the query matches, on all pages.
    pub total: usize,
    pub offset: usize,
    pub items: Vec<T>,
}

/// Which part of a list is asked for.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// The most items; by default 1,000.
    limit: Option<usize>,
    /// How many items come before.
    offset: Option<usize>,
    /// A field by which the items are sorted, the largest first: `active`, or `forward.bytes`.
    sort: Option<String>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ServicesPage {
    /// A pattern of services' names, with `*` and `?`.
    service: Option<String>,
    /// The most items; by default 1,000.
    limit: Option<usize>,
    /// How many items come before.
    offset: Option<usize>,
    /// A field by which the items are sorted, the largest first: `active`, or `forward.bytes`.
    sort: Option<String>,
}

impl ServicesPage {
    pub(super) fn split(self) -> (Option<String>, Page) {
        let Self {
            service,
            limit,
            offset,
            sort,
        } = self;
        let page = Page {
            limit,
            offset,
            sort,
        };
        (service, page)
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BackendsPage {
    /// A pattern of services' names, with `*` and `?`.
    service: Option<String>,
    /// Backends in this state alone.
    state: Option<HealthState>,
    /// The most items; by default 1,000.
    limit: Option<usize>,
    /// How many items come before.
    offset: Option<usize>,
    /// A field by which the items are sorted, the largest first: `active`, or `forward.bytes`.
    sort: Option<String>,
}

impl BackendsPage {
    pub(super) fn split(self) -> (Option<String>, Option<HealthState>, Page) {
        let Self {
            service,
            state,
            limit,
            offset,
            sort,
        } = self;
        let page = Page {
            limit,
            offset,
            sort,
        };
        (service, state, page)
    }
}

impl Page {
    /// Answers with this part of a list.
    pub(super) fn answer<T: Serialize>(&self, items: impl IntoIterator<Item = T>) -> Response {
        match &self.sort {
            None => self.part(items),
            Some(field) => match sorted(items, field) {
                Ok(items) => self.part(items),
                Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
            },
        }
    }

    fn part<T: Serialize>(&self, items: impl IntoIterator<Item = T>) -> Response {
        let (offset, limit) = (self.offset.unwrap_or(0), self.limit.unwrap_or(LIMIT));
        let mut total = 0;
        let mut page = Vec::new();
        for item in items {
            if total >= offset && page.len() < limit {
                page.push(item);
            }
            total += 1;
        }
        Json(Listing {
            schema_version: SCHEMA_VERSION,
            total,
            offset,
            items: page,
        })
        .into_response()
    }
}

/// Returns items by a field of theirs, the largest first; those with equal ones stay in their order.
fn sorted<T: Serialize>(
    items: impl IntoIterator<Item = T>,
    field: &str,
) -> Result<Vec<Value>, String> {
    let items = items.into_iter().map(serde_json::to_value);
    let mut items: Vec<Value> = items.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let pointer = format!("/{}", field.replace('.', "/"));
    let is_known = items
        .first()
        .is_none_or(|item| item.pointer(&pointer).is_some());
    if !is_known {
        return Err(format!(
            "the items have no field \"{field}\"; `--json` shows those they have"
        ));
    }
    let number = |item: &Value| item.pointer(&pointer).and_then(Value::as_f64);
    let text = |item: &Value| item.pointer(&pointer).map(ToString::to_string);
    items.sort_by(|a, b| match (number(a), number(b)) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    if items.iter().all(|item| number(item).is_none()) {
        items.sort_by_key(text);
    }
    Ok(items)
}
