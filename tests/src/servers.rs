//! Real servers for health checks: nginx, Redis, dnsmasq, PostgreSQL, MariaDB, and our own.
//!
//! Invariant: a started server has answered a query in its own protocol. Dropping its value kills all of its
//! processes.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::actors::built_program;
use crate::moody_server::{LATE, Mood};
use crate::netns::Namespace;
use crate::process::{self, Process};
use crate::server_kind::Kind;
use crate::topology::{Topology, server4};
use crate::{certificate, faults, query};

/// The longest time for a server to answer, and to stop.
const TIMEOUT: Duration = Duration::from_secs(15);

/// nginx's port for TLS.
pub const TLS_PORT: u16 = 8443;
/// The name in nginx's certificate.
pub const TLS_NAME: &str = "api.test";

/// A server in its namespace, running or stopped.
pub struct Server<'a> {
    kind: Kind,
    pub(crate) namespace: &'a Namespace,
    address: SocketAddr,
    command: Command,
    directory: PathBuf,
    pub(crate) process: Option<Process>,
    /// The upstream of an nginx that answers late; it never accepts.
    _nobody: UnixListener,
}

impl<'a> Server<'a> {
    /// Starts a server in server namespace `number` (from 1) of a topology, and waits until it answers.
    ///
    /// # Errors
    /// The server is not installed, or does not answer in time; the text has its output.
    pub fn start(topology: &'a Topology, number: u8, kind: Kind) -> Result<Self> {
        Self::on_ports(topology, number, kind, kind.port()..=kind.port())
    }

    /// Starts our own server on these ports.
    pub fn moody(topology: &'a Topology, number: u8, ports: RangeInclusive<u16>) -> Result<Self> {
        Self::on_ports(topology, number, Kind::Moody, ports)
    }

    fn on_ports(
        topology: &'a Topology,
        number: u8,
        kind: Kind,
        ports: RangeInclusive<u16>,
    ) -> Result<Self> {
        let name = format!("{}{number}-{}", kind.name(), ports.start());
        let directory = topology.scratch.path().join(name);
        fs::create_dir_all(&directory)?;
        let namespace = &topology.servers[usize::from(number) - 1];
        let nobody = UnixListener::bind(directory.join("nobody.sock"))?;
        let mut server = Self {
            kind,
            namespace,
            address: SocketAddr::new(server4(number), *ports.start()),
            command: command(namespace, kind, &directory, number, &ports)?,
            directory,
            process: None,
            _nobody: nobody,
        };
        server.run()?;
        Ok(server)
    }

    /// Returns the server's kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the path of nginx's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join(format!("{TLS_NAME}.pem"))
    }

    /// Restarts a stopped server, and waits until it answers.
    ///
    /// # Errors
    /// The server is running; otherwise as [`Server::start`].
    pub fn run(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{self:?} is already running");
        let process = Process::spawn(self.kind.name(), &self.command)?;
        let process = self.process.insert(process);
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let (kind, address) = (self.kind, self.address);
            let answer = self.namespace.enter(move || query::ask(kind, address))?;
            let Err(error) = answer else { return Ok(()) };
            let ended = process.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                bail!(
                    "{kind:?} does not answer: {error}; it ended: {ended:?}; it wrote:\n{}{}",
                    process.stdout(),
                    process.stderr()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server cleanly, and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server is not running")?;
        process.signal(self.kind.end())?;
        process.finish(TIMEOUT).map(drop)
    }

    /// Sets the server's mood.
    pub fn set_mood(&self, mood: &Mood) -> Result<()> {
        match (self.kind, mood) {
            (Kind::Moody, mood) => mood.put(&self.directory.join("mood")),
            (Kind::Nginx, Mood::Well | Mood::Failing | Mood::Late) => {
                for (file, of) in [("failing", Mood::Failing), ("late", Mood::Late)] {
                    let file = self.directory.join(file);
                    if *mood == of {
                        fs::write(file, "")?;
                    } else if file.exists() {
                        fs::remove_file(file)?;
                    }
                }
                Ok(())
            }
            (kind, mood) => bail!("{kind:?} has no mood {mood:?}"),
        }
    }
}

impl fmt::Debug for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind.name(), self.address)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // Kills the children too, which may be stopped. It fails only if they have ended.
            drop(faults::signal_tree(process.id(), Signal::SIGKILL));
        }
    }
}

/// Writes a server's files to its directory and returns the command that runs it in the foreground.
fn command(
    namespace: &Namespace,
    kind: Kind,
    directory: &Path,
    number: u8,
    ports: &RangeInclusive<u16>,
) -> Result<Command> {
    let at = directory.display();
    let port = ports.start();
    let words = |program: &str, words: &str| {
        let mut command = namespace.command(program);
        command.args(words.split_whitespace());
        Ok(command)
    };
    match kind {
        Kind::Nginx => {
            certificate::make(directory, TLS_NAME)?;
            fs::write(directory.join("nginx.conf"), nginx(directory, number))?;
            words("nginx", &format!("-c {at}/nginx.conf"))
        }
        Kind::Redis => {
            let mut command = namespace.command("redis-server");
            command.args([
                "--bind",
                "*",
                "-::*",
                "--protected-mode",
                "no",
                "--save",
                "",
            ]);
            command.args(["--port", &port.to_string()]);
            command.arg("--dir").arg(directory);
            Ok(command)
        }
        Kind::Dnsmasq => words(
            "dnsmasq",
            &format!(
                "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root \
                 --pid-file= --port={port} --address=/{}/192.0.2.1",
                query::DNS_NAME
            ),
        ),
        Kind::Postgres => postgres(namespace, directory),
        // Without grant tables no installation is needed.
        Kind::Mariadb => words(
            "mariadbd",
            &format!(
                "--no-defaults --user=root --datadir={at} --port={port} --bind-address=* \
                 --socket={at}/socket --pid-file={at}/pid --skip-grant-tables \
                 --skip-name-resolve --skip-innodb --default-storage-engine=Aria"
            ),
        ),
        Kind::Moody => {
            let mut command = namespace.command(built_program("waxwing-testbed")?);
            command.arg("moody-server");
            command.args(["--listen", &format!("[::]:{port}")]);
            command.args(["--ports", &ports.len().to_string()]);
            command.args(["--name", &number.to_string()]);
            command.arg("--mood").arg(directory.join("mood"));
            Ok(command)
        }
    }
}

/// `/` returns the server's name, like our own servers; files in the directory set the answer of
/// `/healthz`. A late answer comes when the upstream, which never accepts, times out.
fn nginx(directory: &Path, number: u8) -> String {
    let (root, port, late) = (directory.display(), Kind::Nginx.port(), LATE.as_millis());
    format!(
        "daemon off; worker_processes 1; user root; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off; default_type text/plain; recursive_error_pages on;\n\
           client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;\n\
           uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
           server {{\n\
             listen {port}; listen [::]:{port}; listen {TLS_PORT} ssl; listen [::]:{TLS_PORT} ssl;\n\
             ssl_certificate {root}/{TLS_NAME}.pem; ssl_certificate_key {root}/{TLS_NAME}.key;\n\
             location = / {{ return 200 \"server={number}\\n\"; }}\n\
             location / {{ return 404; }}\n\
             location = /healthz {{\n\
               error_page 418 = @late;\n\
               if (-f {root}/late) {{ return 418; }}\n\
               if (-f {root}/failing) {{ return 500 \"out of order\\n\"; }}\n\
               return 200 \"well\\n\";\n\
             }}\n\
             location @late {{\n\
               proxy_pass http://unix:{root}/nobody.sock; proxy_read_timeout {late}ms;\n\
               error_page 504 =200 @at_last;\n\
             }}\n\
             location @at_last {{ return 200 \"well\\n\"; }}\n\
           }}\n\
         }}\n"
    )
}

/// Creates a cluster without passwords. PostgreSQL refuses to run as root; changing the user clears
/// `PR_SET_PDEATHSIG`, so it is set again.
fn postgres(namespace: &Namespace, directory: &Path) -> Result<Command> {
    let programs = newest_postgres()?;
    let user = User::from_name("postgres")?.context("there is no user postgres")?;
    chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let as_user = [
        "--reuid=postgres",
        "--regid=postgres",
        "--init-groups",
        "--pdeathsig=KILL",
    ];
    let data = directory.join("data");
    let mut initdb = Command::new("setpriv");
    initdb.args(as_user).arg(programs.join("initdb"));
    initdb.args(["--auth=trust", "--no-sync", "--no-locale", "--pgdata"]);
    process::run(initdb.arg(&data).current_dir(directory))?;
    let mut access = fs::File::options()
        .append(true)
        .open(data.join("pg_hba.conf"))?;
    access.write_all(b"host all all all trust\n")?;
    let mut command = namespace.command("setpriv");
    command.args(as_user).arg(programs.join("postgres"));
    command.arg("-D").arg(&data).arg("-k").arg(directory);
    command.args(["-h", "*", "-F", "-p", &Kind::Postgres.port().to_string()]);
    Ok(command)
}

/// Debian installs PostgreSQL's programs by major version, outside `PATH`.
fn newest_postgres() -> Result<PathBuf> {
    let root = Path::new("/usr/lib/postgresql");
    let versions = fs::read_dir(root).into_iter().flatten().flatten();
    let newest = versions
        .map(|entry| entry.path().join("bin"))
        .filter(|programs| programs.join("initdb").is_file())
        .max_by_key(|programs| {
            let version = programs.parent().and_then(Path::file_name);
            version.and_then(|version| version.to_str()?.parse::<u32>().ok())
        });
    newest.with_context(|| format!("no PostgreSQL in {}", root.display()))
}
