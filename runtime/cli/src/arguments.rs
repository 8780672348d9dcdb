//! Arguments that several commands share, and those of sessions and events.

use std::path::PathBuf;

use clap::Args;

#[derive(Args)]
pub(crate) struct AdminAddress {
    /// The balancer's admin socket; by default the path in WAXWING_SOCKET, else the config's default.
    #[arg(long, value_name = "PATH", default_value_os_t = default_socket())]
    pub(crate) socket: PathBuf,
}

fn default_socket() -> PathBuf {
    let named = std::env::var_os("WAXWING_SOCKET").filter(|path| !path.is_empty());
    named.map_or_else(|| "/run/waxwing/waxwing.sock".into(), PathBuf::from)
}

#[derive(Args)]
pub(crate) struct OnlyServices {
    /// Only services of this name; `*` stands for any text, `?` for one character.
    #[arg(long = "service", value_name = "NAME")]
    pub(crate) services: Option<String>,
}

#[derive(Args)]
pub(crate) struct OneBackend {
    #[command(flatten)]
    pub(crate) admin: AdminAddress,
    /// The service's name.
    pub(crate) service: String,
    /// The backend's name, or its address and port.
    pub(crate) backend: String,
}

#[derive(Args)]
pub(crate) struct SessionsArguments {
    #[command(flatten)]
    pub(crate) admin: AdminAddress,
    /// Prints JSON, one session per line.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) only: OnlyServices,
    /// Only of this client, or of clients in this network: 198.51.100.0/24.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) client: Option<String>,
    /// Only of the backend with this name or endpoint.
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// Only half-open, active or closing ones.
    #[arg(long)]
    pub(crate) phase: Option<String>,
    /// The most sessions to list.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// Which sessions to end.
#[derive(Args)]
pub(crate) struct KillArguments {
    #[command(flatten)]
    pub(crate) admin: AdminAddress,
    #[command(flatten)]
    pub(crate) only: OnlyServices,
    /// Only of this client, or of clients in this network: 198.51.100.0/24.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) client: Option<String>,
    /// Only of the backend with this name or endpoint.
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// Only half-open or active ones.
    #[arg(long)]
    pub(crate) phase: Option<String>,
}

#[derive(Args)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    pub(crate) admin: AdminAddress,
    /// Prints JSON, one event per line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Goes on with the events as they happen, until it is interrupted.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The least severity: info, warn or error.
    #[arg(long)]
    pub(crate) severity: Option<String>,
    /// Only of this part: health, config, module, network, port, admin or balancer.
    #[arg(long)]
    pub(crate) area: Option<String>,
    /// Only those after the event with this number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) after: u64,
}
