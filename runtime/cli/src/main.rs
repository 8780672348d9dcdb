//! `waxwing`: a programmable layer-4 load balancer.
//!
//! This crate only connects the others: it parses arguments, attaches the data plane to the ports, and
//! prints results.

mod arguments;
mod attached;
mod background;
mod calls;
mod capture;
mod event_layer;
mod explain;
mod folders;
mod kept_ports;
mod list;
mod log;
mod module;
mod package_files;
mod priority;
mod privileges;
mod query;
mod render;
mod run;
mod service_manager;
mod shipped;
mod top;
mod upgrade;
mod workers;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use waxwing_control::admin::requests::AddBackend;
use waxwing_control::health::AdminState;

use arguments::{
    AdminAddress, EventsArguments, KillArguments, OneBackend, OnlyServices, SessionsArguments,
};
use list::{OfServices, OfServicesCommand, PlainCommand, ServiceCommand};

/// The version, with the commit if the build knew it.
const VERSION: &str = env!("WAXWING_VERSION");

/// A programmable layer-4 load balancer: AF_XDP and NAT natively, policies as Wasm modules.
#[derive(Parser)]
#[command(version = VERSION, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attaches to the config's ports and balances until SIGTERM or SIGINT; SIGHUP reloads the config.
    Run {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The user to run as after the start, which needs root. It must be able to read the config, the
        /// modules and certificates.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Takes over from the running balancer, with this program and config, and balances on: no connection is
    /// lost. If anything is wrong, the running one goes on.
    Upgrade {
        /// The config file. The ports, `workers`, `rings`, `poll` and `zero_copy` must be those of the
        /// running balancer, and the admin socket too.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As of `run`; the same user.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Has the new process go on in the background, and returns when it serves or has failed.
        #[arg(long)]
        detach: bool,
        /// Does nothing if the running balancer's program is this one.
        #[arg(long)]
        if_replaced: bool,
    },
    /// Checks a config and this system, and reports all problems.
    Check {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Shows the state of the running balancer; exits with 3 if it has a problem.
    Status {
        #[command(flatten)]
        admin: AdminAddress,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        only: OnlyServices,
    },
    /// Shows services and backends live, with their shares, rates and latencies, drops and problems; sorts,
    /// filters, drains.
    Top(top::TopArguments),
    /// Lists the running balancer's services.
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Lists its sessions, or ends some.
    Session {
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// Lists its ports.
    Port {
        #[command(subcommand)]
        command: PlainCommand,
    },
    /// Lists its workers.
    Worker {
        #[command(subcommand)]
        command: PlainCommand,
    },
    /// Lists the reasons for which packets were dropped, over all and by service.
    Drop {
        #[command(subcommand)]
        command: OfServicesCommand,
    },
    /// Says what would happen to a client's packet, without sending one: its service and session, what the
    /// policy would pick now, where it would leave, and what would drop it; exits with 3 if something does.
    Explain(explain::ExplainArguments),
    /// Writes packets as they came and as they left to a file for Wireshark, each with a comment that says
    /// what became of it. Packets that there is no time for are counted, not waited for.
    Capture(capture::CaptureArguments),
    /// Prints packets as they come, with what became of them and how they left.
    Trace(capture::TraceArguments),
    /// Lists what happened.
    Event {
        #[command(subcommand)]
        command: EventCommand,
    },
    /// Shows the config in effect or what a reload would change; checks another one, or puts it into effect.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Shows whether the balancer and its services can serve, and why not: `ok` (exits with 0), `degraded`
    /// (3: they serve, but something is wrong) or `down` (1: a service takes no new sessions, or the balancer
    /// does not answer). For routing daemons that announce a VIP only while it is served.
    Health {
        #[command(flatten)]
        admin: AdminAddress,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        only: OnlyServices,
    },
    /// Lists or changes the backends of the running balancer.
    Backend {
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// Reloads the running balancer's config; if it has errors, the running config stays.
    Reload {
        #[command(flatten)]
        admin: AdminAddress,
    },
    /// For module authors: creates, builds, checks, simulates and times a module; lifts a quarantine.
    Module {
        #[command(subcommand)]
        command: module::Command,
    },
    /// Compiles modules that arrive by a socket on standard input; `run` and `check` start it.
    #[command(name = run::COMPILE, hide = true)]
    CompileModules,
    /// Writes what a package installs beside the program: manual pages and shell completions.
    #[command(hide = true)]
    PackageFiles {
        /// The folder; its files are replaced.
        folder: PathBuf,
    },
}

#[derive(Subcommand)]
enum SessionCommand {
    /// Lists sessions as a table.
    List(SessionsArguments),
    /// Shows all that is known of one: phase, age, addresses, where its replies go; bytes if its policy wants
    /// them.
    Show(explain::SessionArguments),
    /// Ends the sessions that pass all filters given: each connection is reset at its next packet, and a
    /// client's datagrams go to another backend.
    Kill(KillArguments),
}

#[derive(Subcommand)]
enum EventCommand {
    /// Lists the latest 4,096, the oldest first.
    List(EventsArguments),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Prints the config in effect, as it was read.
    Show(AdminAddress),
    /// Prints the JSON Schema of configs, for editors: `#:schema FILE` in a config's first line has one
    /// complete and check it.
    Schema,
    /// Compares the file with the config in effect; exits with 3 if a change needs a restart.
    Diff(AdminAddress),
    /// Checks a file as a reload would, against the running balancer, and prints what it would change.
    Validate {
        #[command(flatten)]
        admin: AdminAddress,
        /// The file.
        file: PathBuf,
    },
    /// Replaces the config's file by another file's text and puts it into effect; if it has errors, both the
    /// file and the running config stay.
    Apply {
        #[command(flatten)]
        admin: AdminAddress,
        /// The file.
        file: PathBuf,
        /// The `etag` of the config that it was made from (`GET /v1/config`); it is refused if another one is
        /// in effect by now.
        #[arg(long, value_name = "TAG")]
        if_match: Option<String>,
    },
}

#[derive(Subcommand)]
enum BackendCommand {
    /// Lists backends as a table.
    List {
        #[command(flatten)]
        of: OfServices,
        /// Only those in this state: up, unchecked, checking, down, unreachable, ejected, draining, disabled.
        #[arg(long)]
        state: Option<String>,
    },
    /// Shows all that is known of a backend: its health and their history, checks, live numbers, next hop.
    Show {
        #[command(flatten)]
        which: OneBackend,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Gives a backend no new sessions. Its sessions stay, at most for the service's `drain_timeout` if it
    /// has one.
    Drain {
        #[command(flatten)]
        which: OneBackend,
        /// How long its sessions may stay instead, such as 10m: then they end.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        within: Option<Duration>,
    },
    /// Sets a backend's weight, in place of the config's, until it is set again.
    Weight {
        #[command(flatten)]
        which: OneBackend,
        /// From 0 (drains) to 65535, or `config` for the config's.
        #[arg(value_parser = weight)]
        weight: Weight,
    },
    /// Adds a backend that is not in the config's file. It goes on over reloads, restarts and upgrades, until
    /// it is removed or the file has it.
    Add {
        #[command(flatten)]
        admin: AdminAddress,
        /// The service's name.
        service: String,
        /// Its address and port; the address alone if the service has several ports.
        #[arg(value_name = "ADDRESS:PORT")]
        address: String,
        /// Its share of new sessions.
        #[arg(long)]
        weight: Option<u16>,
        /// A name for people.
        #[arg(long)]
        name: Option<String>,
        /// A number for the policy.
        #[arg(long)]
        tag: Option<u32>,
    },
    /// Takes away a backend that `add` has added. Its sessions end as those of one that a reload removes.
    Remove(#[command(flatten)] OneBackend),
    /// Treats a backend as down; the service's `on_down` decides about its sessions.
    Disable(#[command(flatten)] OneBackend),
    /// Ends `drain` and `disable`; the backend's health decides again.
    Enable(#[command(flatten)] OneBackend),
    /// Sets a backend's signals: numbers for policies to use, such as a queue's length.
    Signal {
        #[command(flatten)]
        which: OneBackend,
        /// Signals by their names in the service's `signals`, or by number from 0 to 3.
        #[arg(required = true, value_name = "NAME=VALUE")]
        values: Vec<String>,
    },
}

/// A weight; `None`: the config's.
#[derive(Clone, Copy)]
struct Weight(Option<u32>);

fn weight(text: &str) -> Result<Weight, String> {
    match text {
        "config" => Ok(Weight(None)),
        text => {
            let weight: Result<u16, _> = text.parse();
            let why = |_| "write a number from 0 to 65535, or `config`".to_owned();
            weight.map(|it| Weight(Some(it.into()))).map_err(why)
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config, user } => {
            return run::run(&config, user.as_deref(), run::Start::Fresh, || {});
        }
        Command::Upgrade {
            config,
            user,
            detach,
            if_replaced,
        } => {
            let run = |ready| run::run(&config, user.as_deref(), run::Start::Upgrade, ready);
            return exit(background::upgrade(&config, [detach, if_replaced], run));
        }
        Command::Check { config } => run::check(&config),
        Command::Status { admin, json, only } => {
            return exit(query::status(&admin.socket, json, only.services.as_deref()));
        }
        Command::Top(arguments) => top::top(&arguments),
        Command::Service { command } => match command {
            ServiceCommand::List(of) => list::services(&of),
            ServiceCommand::Show(it) => list::show(&it, "/v1/services", "name"),
        },
        Command::Session { command } => match command {
            SessionCommand::List(arguments) => query::sessions(arguments),
            SessionCommand::Show(arguments) => explain::session(&arguments),
            SessionCommand::Kill(arguments) => query::kill(arguments),
        },
        Command::Port { command } => match command {
            PlainCommand::List(of) => list::ports(&of),
            PlainCommand::Show(it) => list::show(&it, "/v1/ports", "interface"),
        },
        Command::Worker { command } => match command {
            PlainCommand::List(of) => list::workers(&of),
            PlainCommand::Show(it) => list::show(&it, "/v1/workers", "worker"),
        },
        Command::Drop { command } => match command {
            OfServicesCommand::List(of) => list::drops(&of),
        },
        Command::Explain(arguments) => return exit(explain::explain(&arguments)),
        Command::Capture(arguments) => capture::capture(&arguments),
        Command::Trace(arguments) => capture::trace(&arguments),
        Command::Event { command } => match command {
            EventCommand::List(arguments) => query::events(arguments),
        },
        Command::Config { command } => return exit(config(command)),
        Command::Health { admin, json, only } => {
            return exit(query::health(&admin.socket, json, only.services.as_deref()));
        }
        Command::Backend { command } => backend(command),
        Command::CompileModules => waxwing_plugin::serve_compiler().map_err(Into::into),
        Command::PackageFiles { folder } => package_files::write(&folder),
        Command::Reload { admin } => query::reload(&admin.socket),
        Command::Module { command } => module::run(&command),
    };
    exit(outcome.map(|()| ExitCode::SUCCESS))
}

fn config(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Show(admin) => query::config(&admin.socket)?,
        ConfigCommand::Schema => {
            query::print(&format!("{:#}\n", waxwing_control::config::json_schema()))?;
        }
        ConfigCommand::Validate { admin, file } => query::validate(&admin.socket, &file)?,
        ConfigCommand::Apply {
            admin,
            file,
            if_match,
        } => query::apply(&admin.socket, &file, if_match)?,
        ConfigCommand::Diff(admin) => return query::config_diff(&admin.socket),
    }
    Ok(ExitCode::SUCCESS)
}

fn backend(command: BackendCommand) -> anyhow::Result<()> {
    match command {
        BackendCommand::List { of, state } => list::backends(&of, state),
        BackendCommand::Show { which, json } => list::show_backend(&which, json),
        BackendCommand::Signal { which, values } => query::signal(which, &values),
        BackendCommand::Drain { which, within } => {
            query::set_backend(which, AdminState::Draining, within)
        }
        BackendCommand::Disable(which) => query::set_backend(which, AdminState::Disabled, None),
        BackendCommand::Enable(which) => query::set_backend(which, AdminState::Enabled, None),
        BackendCommand::Weight { which, weight } => query::set_weight(which, weight.0),
        BackendCommand::Add {
            admin,
            service,
            address,
            weight,
            name,
            tag,
        } => {
            let request = AddBackend {
                service,
                address,
                weight,
                name,
                tag,
            };
            query::add_backend(&admin, &request)
        }
        BackendCommand::Remove(which) => query::remove_backend(which),
    }
}

/// Returns the exit code of a command, after printing its error.
fn exit(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        // Nothing is left to do if standard error cannot be written.
        let _ = writeln!(std::io::stderr(), "{error:#}");
        ExitCode::FAILURE
    })
}
