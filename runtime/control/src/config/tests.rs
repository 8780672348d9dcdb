//! What the config says to mistakes, as tables: a text, and the errors expected of it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod any_text;
mod many_ports;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::schema::{ROOT, Shape};
use super::{Config, Poll, Severity, ZeroCopy, values};

const MINIMAL: &str = include_str!("../../../../examples/minimal.toml");
const TRANSPARENT: &str = include_str!("../../../../examples/transparent.toml");
const FULL: &str = include_str!("../../../../examples/full.toml");

/// A config that is right, short enough to count lines in.
const BASE: &str = r#"[[port]]
interface = "eth0"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
policy = "maglev"
[[service.backend]]
address = "10.2.0.11"
port = 8080
"#;

fn path() -> &'static Path {
    Path::new("conf/lb.toml")
}

/// The problems of a text without their excerpts: `line:column: text`.
fn problems(text: &str) -> Vec<String> {
    let problems = match Config::parse(text, path()) {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors.problems().to_vec(),
    };
    let first_line = |p: &super::Problem| p.to_string().lines().next().unwrap().to_owned();
    problems
        .iter()
        .map(|p| first_line(p).trim_start_matches("conf/lb.toml:").to_owned())
        .collect()
}

#[test]
fn the_base_and_the_examples_are_right() {
    for text in [BASE, MINIMAL, FULL, TRANSPARENT] {
        let (config, warnings) = Config::parse(text, path())
            .map_err(|e| e.to_string())
            .unwrap();
        assert_eq!(warnings, [], "{text}");
        assert!(!config.services.is_empty());
    }
}

#[test]
fn the_minimal_config_is_read_with_defaults() {
    let (config, _) = Config::parse(MINIMAL, path()).unwrap();
    assert_eq!(
        config.modules.as_ref().unwrap().value,
        PathBuf::from("conf/modules")
    );
    assert_eq!(config.sessions_max, 1_000_000);
    assert_eq!(
        config.admin.socket.value,
        PathBuf::from("/run/waxwing.sock")
    );
    assert_eq!(config.zero_copy, ZeroCopy::Auto);
    assert_eq!(config.poll, Poll::Adaptive);
    assert!(config.ping && config.workers.pin && config.workers.cpus.is_empty());
    let service = &config.services[0];
    assert_eq!(&*service.policy_config.value, "{}");
    assert_eq!(service.timeouts.tcp_established, Duration::from_secs(7440));
    assert_eq!(
        service
            .backends
            .iter()
            .map(|b| b.weight)
            .collect::<Vec<_>>(),
        [1, 1]
    );
    assert_eq!(service.backends[1].address.value.to_string(), "10.2.0.12");
}

#[test]
fn the_full_example_shows_every_key_and_its_default() {
    let assigned = |key: &str| {
        FULL.lines().any(|line| {
            line.split_once('=')
                .is_some_and(|(name, _)| name.trim() == key)
        })
    };
    for section in ROOT.all() {
        for key in section.keys {
            match key.shape {
                Shape::Value | Shape::Free => assert!(assigned(key.name), "no {}", key.name),
                Shape::Table(_) | Shape::Tables(_) => {
                    assert!(
                        FULL.lines().any(|line| line == key.example),
                        "no {}",
                        key.example
                    );
                }
            }
        }
    }
    let (full, _) = Config::parse(FULL, path()).unwrap();
    let (base, _) = Config::parse(BASE, path()).unwrap();
    let differ = ["modules", "cluster_key", "[workers] cpus", "[[port]]"];
    assert_eq!(full.needs_restart(&base), differ, "all else is the default");
    assert_eq!(full.services[0].timeouts, base.services[0].timeouts);
    assert_eq!(full.services[0].mid_stream, base.services[0].mid_stream);
    assert_eq!(full.return_plan(), base.return_plan());
}

/// Each key of the schema, given a value that fits none, is complained of: so each is read.
#[test]
fn every_key_of_the_schema_is_read() {
    for section in ROOT.all() {
        for key in section.keys {
            let header = section.header.unwrap_or_default();
            // The tables that it stands in, the outermost first.
            let parents = ["[[service]]", "[[service.health]]", "[[service.backend]]"];
            let is_in =
                |parent: &&str| header.contains(&format!("{}.", parent.trim_matches(['[', ']'])));
            let parent: Vec<&str> = parents.into_iter().filter(is_in).collect();
            let parent = parent.join("\n") + "\n";
            let text = format!("{parent}{header}\n{} = 1979-05-27\n", key.name);
            let expected = format!("`{}` must be ", key.name);
            let found = problems(&text);
            assert!(
                found.iter().any(|p| p.contains(&expected)),
                "{}: {found:#?}",
                key.name
            );
        }
    }
}

/// What stands in the base config => what stands there instead => how its one problem begins.
/// `|` is a new line.
const MISTAKES: &str = r#"
port = 80|               => port = "80"|              => 6:8: "80" is no range of ports; write one such as "8000-8010", or "all", or a single port without quotes
port = 80|               => port = "90-80"|           => 6:8: "90-80" is no range of ports; write
port = 80|               => port = "0-80"|            => 6:8: "0-80" is no range of ports; write
port = 80|               => port = 1.5|               => 6:8: `port` must be a port or a range, not a fraction; write it as in `port = 80`
port = 80|               => port = "80-90"|           => 11:8: the service has ports 80-90, and a session goes to the one that its client used; take `port` out here
port = 80|               => port = "all"|             => 11:8: the service has ports all, and a session
protocol = "tcp"         => protocol = "tcp"|source_nat = "never" => 8:14: `source_nat` cannot be "never"; write "auto" or "always"
protocol = "tcp"         => protocol = "tcp"|source_nat = "always" => 8:14: there is no IPv4 source address for it
[[port]]                 => [[source_nat]]|[[port]]   => 1:1: [[source_nat]] has no `addresses`; write `addresses = ["10.2.0.9"]`
[[port]]                 => [[source_nat]]|addresses = []|[[port]] => 1:1: `addresses` is empty; write
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.0/24"]|[[port]] => 2:14: "10.2.0.0/24" is a network; write one host's address
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.11"]|[[port]]   => 2:14: 10.2.0.11 is a backend, in line 12; write an address that nothing else has
[[port]]                 => [[source_nat]]|addresses = ["203.0.113.10"]|[[port]]   => 2:14: 203.0.113.10 is a VIP, in line 7; write
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.9", "10.2.0.9"]|[[port]]   => 2:26: 10.2.0.9 is a source address, in line 2; write
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.9"]|ports = "5-x"|[[port]] => 3:9: "5-x" is no range of ports; write
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.9"]|clients = ["10.2.0.0"]|[[port]] => 3:12: "10.2.0.0" is no network; write "10.2.0.0/32" for this one address
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.9"]|clients = ["10.2.0.1/24"]|[[port]] => 3:12: 10.2.0.1 is an address within its network; write "10.2.0.0/24"
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.9"]|clients = ["10.2.0.0/33"]|[[port]] => 3:12: "10.2.0.0/33" is no network; write one such as "10.2.0.0/24"
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.9"]|clients = ["fd00::/8"]|[[port]] => 3:12: the table has no IPv6 source address for fd00::/8; write one
[[port]]                 => [[source_nat]]|addresses = ["10.2.0.9"]|clients = ["10.0.0.0/8", "10.0.0.0/8"]|[[port]] => 3:26: 10.0.0.0/8 is in `clients` already, in line 3; write it once
port = 80|               => port = 0|                 => 6:8: `port` is out of range; write 1 to 65535
port = 80|               => port = 99999999999999999999999999999999999999999| => 6:8: `port` is out of range
protocol = "tcp"         => protocol = "sctp"         => 7:12: `protocol` cannot be "sctp"; write "tcp" or "udp"
port = 8080              => port = 8080|weight = -1   => 12:10: `weight` is out of range; write 0 to 65535
"maglev"                 => "../evil"                 => 8:10: "../evil" is not a name; write
"eth0"                   => "eth0 eth1"               => 2:13: "eth0 eth1" cannot be an interface's name
[[port]]                 => cluster_key = "secret"|[[port]]         => 1:15: a cluster key is 32 hexadecimal digits; write
[[port]]                 => zero_copy = "on"|[[port]]               => 1:13: `zero_copy` cannot be "on"; write "auto" or "require" or "off"
[[port]]                 => mode = "bridge"|[[port]]                => 1:8: `mode` cannot be "bridge"; write "routed" or "transparent"
[[port]]                 => mode = "transparent"|[[port]]           => 1:8: transparent mode has two ports, those of a bridge, and here is 1; write two [[port]], or `mode = "routed"`
[[port]]                 => mode = "transparent"|return_path = "route"|[[port]]|interface = "eth1"|[[port]] => 1:8: in transparent mode replies go to the servers' own gateway
[[port]]                 => [rings]|size = 1000|[[port]]            => 2:8: `size` must be a power of two; write 512 or 1024
[[port]]                 => [rings]|frames = 1000|[[port]]          => 2:10: 1000 frames cannot fill
[[port]]                 => [workers]|cpus = [0, 9999]|[[port]]     => 2:12: `cpus` is out of range; write 0 to 1023
[[port]]                 => [workers]|cpus = 1|[[port]]             => 2:8: `cpus` must be a list of numbers, not a whole number
[[service]]              => [service]                 => 3:1: `service` must be a table; write `[[service]]`, with two brackets
[[port]]                 => [[admin]]|[[port]]        => 1:1: `admin` must be a table; write `[admin]`, with one bracket
[[port]]|interface = "eth0" =>                        => 1:1: there is no `port`; write [[port]] with `interface = "eth0"` below it
policy =                 => polcy =                  => 8:1: [[service]] has no key `polcy`; did you mean `policy`?
policy = "maglev"        =>                           => 3:1: [[service]] has no `policy`; write `policy = "round_robin"`
"203.0.113.10"           => "203.0.113.300"           => 5:7: "203.0.113.300" is not an IP address; write one such as "203.0.113.10"
"203.0.113.10"           => "203.0.113.10:80"         => 5:7: "203.0.113.10:80" has a port in it; write the address alone, "203.0.113.10"
"203.0.113.10"           => "203.0.113.0/24"          => 5:7: "203.0.113.0/24" is a network; write one host's address
"203.0.113.10"           => "0.0.0.0"                 => 5:7: 0.0.0.0 is the unspecified address; write
"203.0.113.10"           => "0.1.2.3"                 => 5:7: 0.1.2.3 is no host's address
"203.0.113.10"           => "224.0.0.1"               => 5:7: 224.0.0.1 is a multicast address
"203.0.113.10"           => "127.0.0.1"               => 5:7: 127.0.0.1 is a loopback address
"203.0.113.10"           => "255.255.255.255"         => 5:7: 255.255.255.255 is the broadcast address
"203.0.113.10"           => "::ffff:1.2.3.4"          => 5:7: ::ffff:1.2.3.4 is an IPv4 address in IPv6 form; write "1.2.3.4"
"203.0.113.10"           => "fe80::1"                 => 5:7: fe80::1 is a link-local address
"203.0.113.10"           => "2001:db8::1"             => 10:11: 10.2.0.11 and the VIP 2001:db8::1 are of two IP versions; write an IPv6 address
"10.2.0.11"              => "203.0.113.10"            => 10:11: 203.0.113.10 is a VIP, in line 5
[[service.backend]]      => [service.timeouts]|udp = "2 minutes"|[[service.backend]] => 10:7: "2 minutes" is not a duration; write
[[service.backend]]      => [service.timeouts]|udp = 1.5|[[service.backend]]         => 10:7: `udp` must be a duration, not a fraction
[[service.backend]]      => [service.timeouts]|udp = 0|[[service.backend]]           => 10:7: `udp` is out of range; write "100ms" to "30d"
policy =                 => policy_config = { a = [1, nan] }|policy =                => 8:27: JSON has no such number
[[port]]                 => session_max = 5|[[port]]  => 1:1: the top of the file has no key `session_max`; did you mean `sessions_max`?
[[port]]                 => socket = "x"|[[port]]     => 1:1: the top of the file has no key `socket`; write it below [admin]
port = 80|               => port = 80|sessions_max = 5|   => 7:1: [[service]] has no key `sessions_max`; write it at the top of the file
port = 80|               => port = 80|backends = 5|   => 7:1: [[service]] has no key `backends`; did you mean `backend`?
port = 80|               => port = 80|colour = 5|     => 7:1: [[service]] has no key `colour`; it can have name, vip
"#;

#[test]
fn each_mistake_says_where_and_what_to_write() {
    for row in MISTAKES.lines().filter(|row| !row.is_empty()) {
        let cells: Vec<_> = row
            .split("=>")
            .map(|cell| cell.trim().replace('|', "\n"))
            .collect();
        let [line, instead, expected] = &cells[..] else {
            panic!("not a row: {row}")
        };
        assert!(BASE.contains(line), "the base has no {line}");
        let found = problems(&BASE.replacen(line, instead, 1));
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{row}\n{found:#?}"
        );
    }
}

#[test]
fn the_nearest_name_is_suggested_if_it_is_near() {
    assert_eq!(
        values::nearest("wieght", ["weight", "port"]),
        Some("weight")
    );
    assert_eq!(values::nearest("vpi", ["vip", "port"]), Some("vip"));
    assert_eq!(values::nearest("x", ["vip", "port"]), None);
}

#[test]
fn what_is_said_twice_names_the_first_place() {
    let service = BASE.split_once("[[service]]").unwrap().1;
    let twice = format!("{BASE}[[service]]{service}");
    assert_eq!(
        problems(&twice),
        [
            "13:8: \"web\" names a service already, in line 4; write another",
            "14:7: 203.0.113.10 tcp port 80 is a service already, in line 5; write another `vip`, \
             `port` or `protocol`, or put the backends there",
        ]
    );
    let other_protocol = twice
        .replacen("tcp", "udp", 1)
        .replacen("\"web\"", "\"dns\"", 1);
    assert_eq!(problems(&other_protocol), [""; 0]);
    let backend = BASE.split_once("[[service.backend]]").unwrap().1;
    assert_eq!(
        problems(&format!("{BASE}[[service.backend]]{backend}")),
        [
            "13:11: 10.2.0.11 port 8080 is a backend of \"web\" already, in line 10; write it once, \
          with a higher `weight` for a larger share"
        ]
    );
    let port = "[[port]]\ninterface = \"eth0\"\n";
    let found = problems(&format!("{port}{BASE}"));
    assert_eq!(
        found,
        ["4:13: \"eth0\" is a port already, in line 2; write it once"]
    );
}

#[test]
fn limits_hold() {
    let found = problems(
        &format!("services_max = 1\nbackends_max = 1\n{FULL}")
            .replacen("services_max = 1_024", "# ", 1)
            .replacen("backends_max = 16_384", "# ", 1),
    );
    let texts = [
        "services are more than `services_max = 1`",
        "backends are more than",
    ];
    for text in texts {
        assert!(found.iter().any(|p| p.contains(text)), "{found:#?}");
    }
}

#[test]
fn what_can_run_but_is_doubtful_is_a_warning() {
    let rows = [
        (
            BASE.split_once("[[service]]").unwrap().0.to_owned(),
            "1:1: warning: there is no service",
        ),
        (
            BASE.split_once("[[service.b").unwrap().0.to_owned(),
            "3:1: warning: service \"web\" has no backend",
        ),
        (
            BASE.replace("port = 8080", "port = 8080\nweight = 0"),
            "3:1: warning: every backend of \"web\" has weight 0",
        ),
        (
            format!("{BASE}[service.timeouts]\ntcp_established = \"1h\""),
            "13:19: warning: 1h is shorter than RFC 5382 REQ-5 allows, so sessions may end that are still in use; write `tcp_established = \"2h4m\"` or more",
        ),
        (
            format!("{BASE}[service.timeouts]\nudp = \"120s\""),
            "13:7: warning: `udp` has no effect",
        ),
        (
            format!("[workers]\npin = false\ncpus = [1]\n{BASE}"),
            "3:9: warning: without pinning",
        ),
        (
            format!("[workers]\ncpus = [1, 1]\n{BASE}"),
            "2:12: warning: two workers would share CPU 1",
        ),
    ];
    for (text, expected) in rows {
        let (_, warnings) = Config::parse(&text, path())
            .map_err(|e| e.to_string())
            .unwrap();
        assert!(warnings.iter().all(|w| w.severity == Severity::Warning));
        let found = problems(&text);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{expected}: {found:#?}"
        );
    }
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = "sesions_max = 1\n[[port]]\n[[service]]\n\tname = \"é\"\nport = 0\nvip = \"é\"\n";
    let errors = Config::parse(text, path()).unwrap_err();
    let shown = "\
conf/lb.toml:1:1: the top of the file has no key `sesions_max`; did you mean `sessions_max`?
    1 | sesions_max = 1
      | ^^^^^^^^^^^

conf/lb.toml:2:1: [[port]] has no `interface`; write `interface = \"eth0\"`
    2 | [[port]]
      | ^^^^^^^^

conf/lb.toml:3:1: [[service]] has no `protocol`; write `protocol = \"tcp\"`
    3 | [[service]]
      | ^^^^^^^^^^^

conf/lb.toml:3:1: [[service]] has no `policy`; write `policy = \"round_robin\"`
    3 | [[service]]
      | ^^^^^^^^^^^

conf/lb.toml:4:9: \"é\" is not a name; write 1 to 64 of the characters a-z A-Z 0-9 . _ - that do \
not begin with a dot
    4 |  name = \"é\"
      |         ^^^

conf/lb.toml:5:8: `port` is out of range; write 1 to 65535
    5 | port = 0
      |        ^

conf/lb.toml:6:7: \"é\" is not an IP address; write one such as \"203.0.113.10\" or \
\"2001:db8::10\" (names are not looked up)
    6 | vip = \"é\"
      |       ^^^";
    assert_eq!(errors.to_string(), shown);
}

#[test]
fn broken_syntax_is_placed_and_reported_alone() {
    let found = problems("[[port]]\ninterface = eth0\nsesions_max = 3\n[[port]\n");
    assert!(found.len() >= 2, "{found:#?}");
    assert!(found[0].starts_with("2:13: not TOML: "), "{found:#?}");
    assert!(found.iter().any(|p| p.starts_with("4:")), "{found:#?}");
    assert!(
        !found.iter().any(|p| p.contains("sesions_max")),
        "{found:#?}"
    );
    let twice = problems(&format!("{BASE}port = 81"));
    assert!(
        twice[0].starts_with("12:1: not TOML: duplicate key; write each key"),
        "{twice:#?}"
    );
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let missing = Config::load(Path::new("no/such/lb.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("no/such/lb.toml: the config cannot be read: "),
        "{missing}"
    );
    let file = std::env::temp_dir().join(format!("waxwing-config-{}.toml", std::process::id()));
    std::fs::write(&file, b"[[port]]\ninterface = \"\xff\"\n").unwrap();
    let errors = Config::load(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(
        errors.to_string().contains(":2:14: this byte is not UTF-8"),
        "{errors}"
    );
}

#[test]
fn a_look_at_the_system_adds_to_the_same_list() {
    let text = BASE.replace("port = 80\n", "prot = 80\nport = 80\n");
    let mut reading = Config::read(&text, path());
    let config = reading.config();
    let interface = &config.ports[0].interface;
    let missing = config.error_at(interface.span, "there is no interface \"eth0\"; write one");
    reading.add([missing]);
    let errors = reading.finish().unwrap_err();
    let lines: Vec<_> = errors
        .problems()
        .iter()
        .map(|p| p.position.unwrap().line)
        .collect();
    assert_eq!(lines, [2, 6]);
}

#[test]
fn a_policy_is_handed_json() {
    let line = "policy_config = { seed = 0x10, on = true, at = 1979-05-27, l = [1.5, \"x\"] }\n";
    let (config, _) = Config::parse(
        &BASE.replace("policy =", &format!("{line}policy =")),
        path(),
    )
    .map_err(|e| e.to_string())
    .unwrap();
    assert_eq!(
        &*config.services[0].policy_config.value,
        r#"{"at":"1979-05-27","l":[1.5,"x"],"on":true,"seed":16}"#
    );
}

#[test]
fn durations_are_read_and_written() {
    for (text, millis) in [
        ("240s", 240_000),
        ("2h4m", 7_440_000),
        ("500ms", 500),
        ("1d", 86_400_000),
    ] {
        assert_eq!(values::duration(text), Ok(Duration::from_millis(millis)));
        assert_eq!(
            values::duration(&values::duration_text(Duration::from_millis(millis))).unwrap(),
            Duration::from_millis(millis)
        );
    }
    for text in [
        "",
        " ",
        "s",
        "1",
        "1x",
        "-1s",
        "1.5s",
        "99999999999999999999s",
        "18446744073709551615d",
    ] {
        assert!(values::duration(text).is_err(), "{text}");
    }
    assert_eq!(values::duration_text(Duration::ZERO), "0s");
}
