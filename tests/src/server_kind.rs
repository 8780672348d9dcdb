//! The kinds of servers that tests run.

use nix::sys::signal::Signal;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// nginx; its mood applies only to `/healthz`.
    Nginx,
    /// Redis.
    Redis,
    /// dnsmasq; it resolves one name, [`crate::query::DNS_NAME`].
    Dnsmasq,
    /// PostgreSQL, with its own cluster and no passwords.
    Postgres,
    /// MariaDB, without tables: it still sends its greeting.
    Mariadb,
    /// [`crate::moody_server`].
    Moody,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Nginx,
        Self::Redis,
        Self::Dnsmasq,
        Self::Postgres,
        Self::Mariadb,
        Self::Moody,
    ];

    /// Returns its name, for services and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Redis => "redis",
            Self::Dnsmasq => "dnsmasq",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
            Self::Moody => "moody",
        }
    }

    /// Returns its port.
    pub fn port(self) -> u16 {
        match self {
            Self::Nginx => 8080,
            Self::Redis => 6379,
            Self::Dnsmasq => 53,
            Self::Postgres => 5432,
            Self::Mariadb => 3306,
            Self::Moody => 9000,
        }
    }

    /// Returns its transport protocol, `tcp` or `udp`.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Dnsmasq => "udp",
            _ => "tcp",
        }
    }

    /// Returns the signal that stops it quickly and cleanly. On `SIGTERM` PostgreSQL waits for its clients.
    pub(crate) fn end(self) -> Signal {
        match self {
            Self::Postgres => Signal::SIGINT,
            _ => Signal::SIGTERM,
        }
    }
}
