//! `waxwing service list`, `backend list` and the others: the API's lists as tables, or as JSON.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use waxwing_control::admin::client::Client;
use waxwing_control::admin::paging::Listing;

use crate::arguments::{AdminAddress, OneBackend, OnlyServices};
use crate::query::{print, wait};
use crate::render::{lists, tree};

/// The pause between two lists of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// How a list is asked for and shown.
#[derive(Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    pub(crate) admin: AdminAddress,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Shows it again every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// The most items to list.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The first item to list.
    #[arg(long, value_name = "N")]
    offset: Option<usize>,
    /// Sorts by a field that `--json` shows, such as active or forward.bytes, the largest first.
    #[arg(long, value_name = "FIELD")]
    sort: Option<String>,
}

/// Which item is shown whole.
#[derive(Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    admin: AdminAddress,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Its name.
    name: String,
}

/// Of which services.
#[derive(Args)]
pub(crate) struct OfServices {
    #[command(flatten)]
    pub(crate) list: ListArguments,
    #[command(flatten)]
    pub(crate) only: OnlyServices,
}

/// Lists of services, and what belongs to them.
#[derive(Subcommand)]
pub(crate) enum ServiceCommand {
    /// Lists them as a table.
    List(OfServices),
    /// Shows all that is known of one.
    Show(ShowArguments),
}

/// Lists of what belongs to services.
#[derive(Subcommand)]
pub(crate) enum OfServicesCommand {
    /// Lists them as a table.
    List(OfServices),
}

/// Lists of what belongs to no service.
#[derive(Subcommand)]
pub(crate) enum PlainCommand {
    /// Lists them as a table.
    List(ListArguments),
    /// Shows all that is known of one.
    Show(ShowArguments),
}

/// Shows the item at `path` whose `field` is the name that was asked for.
pub(crate) fn show(arguments: &ShowArguments, path: &str, field: &str) -> Result<()> {
    let ShowArguments { admin, json, name } = arguments;
    let names = |item: &Value| vec![text(&item[field])];
    show_one(&admin.socket, *json, path, name, names)
}

/// `waxwing backend show`.
pub(crate) fn show_backend(which: &OneBackend, json: bool) -> Result<()> {
    let OneBackend {
        admin,
        service,
        backend,
    } = which;
    let names = |item: &Value| {
        let [of, name, address, port] =
            ["service", "name", "address", "port"].map(|field| text(&item[field]));
        let endpoint = match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        vec![format!("{of} {endpoint}"), format!("{of} {name}")]
    };
    let name = format!("{service} {backend}");
    show_one(&admin.socket, json, "/v1/backends", &name, names)
}

/// Shows the first item that has this name.
fn show_one(
    socket: &Path,
    json: bool,
    path: &str,
    name: &str,
    names: impl Fn(&Value) -> Vec<String>,
) -> Result<()> {
    let client = Client::new(socket);
    let query = [("limit", Some(usize::MAX.to_string()))];
    let listing: Listing<Value> = wait(async { Ok(client.get(path, &query).await?) })?;
    let mut items = listing.items.iter();
    let Some(found) = items.find(|item| names(item).iter().any(|it| it == name)) else {
        let known = listing.items.iter().filter_map(|item| names(item).pop());
        let known = known.collect::<Vec<_>>().join(", ");
        anyhow::bail!("there is no \"{name}\"; there are: {known}");
    };
    print(&match json {
        true => serde_json::to_string_pretty(found)? + "\n",
        false => tree(found),
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Lists what is at `path`; `query` has further parameters.
fn list<T: Serialize + DeserializeOwned>(
    arguments: &ListArguments,
    path: &str,
    query: &[(&str, Option<String>)],
    table: impl Fn(&[T]) -> String,
) -> Result<()> {
    let client = Client::new(&arguments.admin.socket);
    let number = |number: Option<usize>| number.map(|number| number.to_string());
    let pages = [
        ("limit", number(arguments.limit)),
        ("offset", number(arguments.offset)),
        ("sort", arguments.sort.clone()),
    ];
    let query: Vec<_> = query.iter().chain(&pages).cloned().collect();
    loop {
        let listing: Listing<T> = wait(async { Ok(client.get(path, &query).await?) })?;
        let text = match arguments.json {
            true => serde_json::to_string_pretty(&listing)? + "\n",
            false => table(&listing.items) + &rest(&listing),
        };
        if !arguments.watch {
            return print(&text);
        }
        print(&format!("{CLEAR}{text}"))?;
        std::thread::sleep(WATCH_EVERY);
    }
}

/// `waxwing service list`.
pub(crate) fn services(OfServices { list: of, only }: &OfServices) -> Result<()> {
    let query = [("service", only.services.clone())];
    list(of, "/v1/services", &query, lists::services)
}

/// `waxwing backend list`.
pub(crate) fn backends(of: &OfServices, state: Option<String>) -> Result<()> {
    let query = [("service", of.only.services.clone()), ("state", state)];
    list(&of.list, "/v1/backends", &query, lists::backends)
}

/// `waxwing drop list`.
pub(crate) fn drops(OfServices { list: of, only }: &OfServices) -> Result<()> {
    let query = [("service", only.services.clone())];
    list(of, "/v1/drops", &query, lists::drops)
}

/// `waxwing module list`.
pub(crate) fn modules(of: &ListArguments) -> Result<()> {
    list(of, "/v1/modules", &[], lists::modules)
}

/// `waxwing port list`.
pub(crate) fn ports(of: &ListArguments) -> Result<()> {
    list(of, "/v1/ports", &[], lists::ports)
}

/// `waxwing worker list`.
pub(crate) fn workers(of: &ListArguments) -> Result<()> {
    list(of, "/v1/workers", &[], lists::workers)
}

/// Returns a line that says how many items are on other pages, if any are.
fn rest<T>(listing: &Listing<T>) -> String {
    let (shown, total) = (listing.items.len(), listing.total);
    match shown < total {
        true => format!(
            "{shown} of {total} from {}; see --limit and --offset\n",
            listing.offset
        ),
        false => String::new(),
    }
}
