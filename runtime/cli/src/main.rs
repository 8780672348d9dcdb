//! `waxwing`: a programmable layer-4 load balancer.
//!
//! This crate only wires the others together: arguments in, adapters attached to the core, texts
//! out.

mod ask;
mod module;
mod render;
mod run;
mod shipped;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use waxwing_control::health::Admin;

/// A programmable layer-4 load balancer: AF_XDP and NAT natively, policies as Wasm modules.
#[derive(Parser)]
#[command(version, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attaches to the config's ports and balances until SIGTERM or SIGINT; SIGHUP reloads.
    Run {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Checks a config, and the system that it is for, and says all that is wrong.
    Check {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Shows what the running balancer does.
    Status {
        #[command(flatten)]
        running: Running,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the sessions of the running balancer.
    Sessions {
        #[command(flatten)]
        running: Running,
        /// As JSON, one session a line.
        #[arg(long)]
        json: bool,
        /// Only those of this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// At most this many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Says whether services can be served: ends with 0 where each has a backend that takes new
    /// sessions, else with 1. For routing daemons that announce a VIP while it is served.
    Health {
        #[command(flatten)]
        running: Running,
        /// Only this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Tells the running balancer something about a backend.
    Backend {
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// Has the running balancer read its config again; a bad config leaves the running one.
    Reload {
        #[command(flatten)]
        running: Running,
    },
    /// For authors of policies: makes, builds, checks, simulates and times a module.
    Module {
        #[command(subcommand)]
        command: module::Command,
    },
    /// Compiles a module from standard input; what `run` calls itself with, within limits.
    #[command(name = run::COMPILE, hide = true)]
    CompileModule {
        cpu_s: u64,
        memory_bytes: u64,
        kind: String,
    },
}

/// A backend of the running balancer.
#[derive(Args)]
struct OneBackend {
    #[command(flatten)]
    running: Running,
    /// The service's name.
    service: String,
    /// The backend's name, or its address and port.
    backend: String,
}

#[derive(Subcommand)]
enum BackendCommand {
    /// Gives a backend no new sessions; it keeps those that it has, for the service's
    /// `drain_timeout` if there is one.
    Drain(#[command(flatten)] OneBackend),
    /// Takes a backend out as if it were down: what becomes of its sessions, the service's `on_down` says.
    Disable(#[command(flatten)] OneBackend),
    /// Ends both: its health decides again.
    Enable(#[command(flatten)] OneBackend),
    /// Sets signals of a backend: numbers that policies balance on, such as a queue's length.
    Signal {
        #[command(flatten)]
        which: OneBackend,
        /// Signals by the names that the service's `signals` gives them, or 0 to 3.
        #[arg(required = true, value_name = "NAME=VALUE")]
        values: Vec<String>,
    },
}

/// How to reach the running balancer.
#[derive(Args)]
struct Running {
    /// Its admin socket.
    #[arg(long, value_name = "PATH", default_value = "/run/waxwing.sock")]
    socket: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config } => run::run(&config),
        Command::Check { config } => run::check(&config),
        Command::Status { running, json } => ask::status(&running.socket, json),
        Command::Sessions {
            running,
            json,
            service,
            limit,
        } => ask::sessions(&running.socket, json, service.as_deref(), limit),
        Command::Health { running, service } => ask::health(&running.socket, service.as_deref()),
        Command::Backend { command } => match command {
            BackendCommand::Signal { which, values } => ask::signal(which, &values),
            BackendCommand::Drain(which) => ask::set_backend(which, Admin::Draining),
            BackendCommand::Disable(which) => ask::set_backend(which, Admin::Disabled),
            BackendCommand::Enable(which) => ask::set_backend(which, Admin::Enabled),
        },
        Command::CompileModule {
            cpu_s,
            memory_bytes,
            kind,
        } => waxwing_plugin::compile_child(cpu_s, memory_bytes, &kind).map_err(Into::into),
        Command::Reload { running } => ask::reload(&running.socket),
        Command::Module { command } => module::run(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
