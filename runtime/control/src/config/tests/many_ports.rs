//! Services with port ranges, and source NAT.

use waxwing_dataplane::Ports;
use waxwing_dataplane::model::SourceUse;

use super::{Config, path, problems};

/// Returns the text of a service with these ports and more keys.
fn service(name: &str, port: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"203.0.113.10\"\nport = {port}\nprotocol = \"tcp\"\n\
         policy = \"maglev\"\n{more}"
    )
}

const HEAD: &str = "[[port]]\ninterface = \"eth0\"\n";
const BACKEND: &str = "[[service.backend]]\naddress = \"10.2.0.11\"\n";

fn read(text: &str) -> Config {
    let read = Config::parse(text, path()).map_err(|e| e.to_string());
    read.unwrap().0
}

#[test]
fn backends_of_a_port_range_have_no_port_of_their_own() {
    let text = format!("{HEAD}{}", service("game", "\"8000-8010\"", BACKEND));
    let config = read(&text);
    let game = &config.services[0];
    assert_eq!(game.ports.value, Ports::range(8000, 8010).unwrap());
    let backend = &game.backends[0];
    assert_eq!(
        (backend.port, backend.title().as_str()),
        (None, "10.2.0.11")
    );
    assert!(backend.is_called("10.2.0.11") && !backend.is_called("10.2.0.11:8000"));
    assert_eq!(config.find_backend("game", "10.2.0.11").unwrap().1, 0);
    let all = format!("{HEAD}{}", service("game", "\"all\"", BACKEND));
    assert_eq!(read(&all).services[0].ports.value, Ports::ALL);
    assert_eq!(
        problems(&text.replace("\"8000-8010\"", "80")),
        [
            "3:1: warning: service \"game\" has no backend, so its new sessions are dropped; write a \
             [[service.backend]]",
            "9:1: [[service.backend]] has no `port`; write `port = 8080`",
        ]
    );
    assert_eq!(
        problems(&format!("{text}{BACKEND}")),
        [
            "12:11: 10.2.0.11 is already a backend of \"game\" in line 10; write it once, with a higher \
             `weight` for a larger share"
        ]
    );
}

/// The ports of services on one VIP => a part of the only error, if there is one.
const RANGES: &str = r#"
80 "8000-8010" "all"                   =>
"all" "8000-8010" 8003                 =>
"1-9" "10-19" "20-29"                  =>
"1-9" "1-5" "6-9" "7-9"                =>
"1-5" "1-5"                            => 11:7: 203.0.113.10 tcp port 1-5 is already a service in line 5
"1-65535" "all"                        => 11:7: 203.0.113.10 tcp port all is already a service
"1-5" "5-9"                            => 12:8: ports 5-9 overlap ports 1-5 of "s0" in line 6
"5-9" "1-5"                            => 6:8: ports 5-9 overlap ports 1-5 of "s1" in line 12
"all" "1-5" "5-9"                      => 18:8: ports 5-9 overlap ports 1-5 of "s1"
"1-9" "1-3" "3-9"                      => 18:8: ports 3-9 overlap ports 1-3 of "s1"
"#;

#[test]
fn port_ranges_must_be_separate_or_nested() {
    for row in RANGES.lines().filter(|row| !row.is_empty()) {
        let (ports, expected) = row.split_once("=>").unwrap();
        let services = ports.split_whitespace().zip(0..);
        let services = services.map(|(port, n)| service(&format!("s{n}"), port, ""));
        let text = format!("{HEAD}{}", services.collect::<String>());
        let found = problems(&text);
        let errors: Vec<_> = found.iter().filter(|it| !it.contains("warning")).collect();
        match expected.trim() {
            "" => assert!(errors.is_empty(), "{row}\n{errors:#?}"),
            expected => {
                let as_expected = errors.len() == 1 && errors[0].contains(expected);
                assert!(as_expected, "{row}\n{errors:#?}");
            }
        }
    }
    // Ranges on different VIPs or protocols do not conflict.
    let two = [service("a", "\"1-5\"", ""), service("b", "\"5-9\"", "")].concat();
    for (from, to) in [("\"tcp\"", "\"udp\""), (".10\"", ".11\"")] {
        let other = format!("{HEAD}{}", two.replacen(from, to, 1));
        assert!(problems(&other).iter().all(|it| it.contains("warning")));
    }
}

#[test]
fn a_check_of_a_port_range_needs_a_port() {
    let check = "[[service.health]]\ncheck = \"tcp\"\n";
    let rows = [
        (check.to_owned(), BACKEND.to_owned(), false),
        (format!("{check}port = 8000\n"), BACKEND.to_owned(), true),
        (
            check.to_owned(),
            format!("{BACKEND}[service.backend.health]\nport = 8000\n"),
            true,
        ),
        (
            check.to_owned(),
            format!("{BACKEND}[service.backend.health]\nenabled = false\n"),
            true,
        ),
    ];
    for (check, backend, right) in rows {
        let service = service("game", "\"8000-8010\"", &(check + &backend));
        let found = problems(&format!("{HEAD}{service}"));
        let expected = "9:1: \"game\" has ports 8000-8010, so the check needs a port; write \
                        `port = 8000` in this table";
        let expected: &[&str] = if right { &[] } else { &[expected] };
        assert_eq!(found, expected, "{service}");
    }
}

#[test]
fn source_nat_is_read_and_limited() {
    let table = "[[source_nat]]\nclients = [\"10.2.0.0/24\", \"fd00:2::/64\"]\n\
                 addresses = [\"10.2.0.9\", \"fd00:2::9\"]\nports = \"5000-5007\"\n";
    let backend = format!("source_nat = \"always\"\n{BACKEND}port = 80\n");
    let text = format!("{HEAD}{table}{}", service("web", "80", &backend));
    assert_eq!(problems(&text), [""; 0]);
    let config = read(&text);
    let nat = &config.source_nat[0];
    assert_eq!(nat.ports, Ports::range(5000, 5007).unwrap());
    let networks: Vec<_> = nat.clients.iter().map(|it| it.value.to_string()).collect();
    assert_eq!(networks, ["10.2.0.0/24", "fd00:2::/64"]);
    let uses = config.services[0].source_nat.unwrap();
    assert_eq!(uses.value, SourceUse::Always);
    let other = text.replace("ports = \"5000-5007\"\n", "");
    let of_default = Ports::range(1024, 65_535).unwrap();
    assert_eq!(read(&other).source_nat[0].ports, of_default);
    assert_eq!(read(&other).needs_restart(&config), [""; 0]);

    let many: Vec<_> = (0..256).map(|n| format!("\"10.3.0.{n}\"")).collect();
    let many = text.replace("\"10.2.0.9\"", &many.join(", "));
    let found = problems(&many);
    assert!(
        found.len() == 1 && found[0].contains("257 source addresses are more than the maximum"),
        "{found:#?}"
    );
}
