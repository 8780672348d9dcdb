//! All shipped policies and health checks as native crates, for tests and benches.
//!
//! Invariant: [`for_each_policy!`] has every shipped policy, so each is compared with its Wasm
//! module and measured. [`for_each_health_check!`] has every shipped health check.

pub use agent;
pub use client_limit;
pub use destination_hash;
pub use dns;
pub use dns_name;
pub use failover;
pub use http;
pub use least_connections;
pub use least_latency;
pub use least_signal;
pub use maglev;
pub use metrics;
pub use mysql;
pub use never_queue;
pub use overflow;
pub use percent_split;
pub use postgres;
pub use power_of_two;
pub use quic_connection_id;
pub use random;
pub use redis;
pub use rendezvous;
pub use ring_hash;
pub use round_robin;
pub use shortest_expected_delay;
pub use source_hash;
pub use sticky_source;
pub use subnet;
pub use tcp;
pub use udp;

/// Calls a macro with a row for each policy: `name :: Type, package, config;`. The config makes the
/// policy do as much as possible. It is for backends with the tags 1, 2 and 3; `quic_connection_id`
/// needs a tag for each backend.
#[macro_export]
macro_rules! for_each_policy {
    ($visit:ident) => {
        $visit! {
            client_limit::ClientLimit, "waxwing-policy-client-limit",
                r#"{"sessions":20,"window_s":2}"#;
            destination_hash::DestinationHash, "waxwing-policy-destination-hash", "{}";
            dns_name::DnsName, "waxwing-policy-dns-name",
                r#"{"suffixes":{"internal.test":1},"default":2}"#;
            failover::Failover, "waxwing-policy-failover",
                r#"{"order":[2,1,3],"min_available":2,"by":"source"}"#;
            least_connections::LeastConnections, "waxwing-policy-least-connections", "{}";
            least_latency::LeastLatency, "waxwing-policy-least-latency", "{}";
            least_signal::LeastSignal, "waxwing-policy-least-signal",
                r#"{"signal":2,"per_weight":true,"max":250}"#;
            maglev::Maglev, "waxwing-policy-maglev", "{}";
            never_queue::NeverQueue, "waxwing-policy-never-queue", "{}";
            overflow::Overflow, "waxwing-policy-overflow",
                r#"{"sessions_per_weight":40}"#;
            percent_split::PercentSplit, "waxwing-policy-percent-split",
                r#"{"groups":[{"tag":1,"percent":60},{"tag":2,"percent":30},{"tag":3,"percent":10}]}"#;
            power_of_two::PowerOfTwo, "waxwing-policy-power-of-two", "{}";
            quic_connection_id::QuicConnectionId, "waxwing-policy-quic-connection-id", "{}";
            random::Random, "waxwing-policy-random", "{}";
            rendezvous::Rendezvous, "waxwing-policy-rendezvous", "{}";
            ring_hash::RingHash, "waxwing-policy-ring-hash",
                r#"{"bound":1.1}"#;
            round_robin::RoundRobin, "waxwing-policy-round-robin", "{}";
            shortest_expected_delay::ShortestExpectedDelay, "waxwing-policy-shortest-expected-delay", "{}";
            source_hash::SourceHash, "waxwing-policy-source-hash", "{}";
            sticky_source::StickySource, "waxwing-policy-sticky-source",
                r#"{"clients_max":512,"timeout_s":5}"#;
            subnet::Subnet, "waxwing-policy-subnet",
                r#"{"routes":{"10.0.0.0/9":1,"10.128.0.0/10":2},"default":3,"spill":true}"#;
        }
    };
}

/// Calls a macro with a row for each health check: `name :: Type, package, config;`. The config
/// makes the check do as much as possible without TLS.
#[macro_export]
macro_rules! for_each_health_check {
    ($visit:ident) => {
        $visit! {
            agent::Agent, "waxwing-health-agent",
                r#"{"send":"web\n"}"#;
            dns::Dns, "waxwing-health-dns",
                r#"{"name":"www.example.com","type":"AAAA","answers":2}"#;
            http::Http, "waxwing-health-http",
                r#"{"path":"/healthz","status":[200,"202-299"],"body":"ready","headers":{"x-probe":"1"}}"#;
            metrics::Metrics, "waxwing-health-metrics",
                r#"{"metric":"queue{of=\"a\"}","signal":2,"scale":0.5,"several":"max"}"#;
            mysql::Mysql, "waxwing-health-mysql",
                r#"{"user":"probe"}"#;
            postgres::Postgres, "waxwing-health-postgres",
                r#"{"user":"probe","database":"web"}"#;
            redis::Redis, "waxwing-health-redis",
                r#"{"username":"probe","password":"secret","role":"master"}"#;
            tcp::Tcp, "waxwing-health-tcp",
                r#"{"send":"PING\r\n","expect":"+PONG"}"#;
            udp::Udp, "waxwing-health-udp",
                r#"{"send_hex":"00ff","expect":"ok","at":"start"}"#;
        }
    };
}
