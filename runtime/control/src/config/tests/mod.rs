//! Config texts and the errors expected of them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod any_text;
mod many_ports;

use std::path::{Path, PathBuf};
use std::time::Duration;

use waxwing_plugin::CanaryRules;

use super::schema::{ROOT, Shape};
use super::{Config, Poll, Position, Problem, Severity, Unserved, ZeroCopy, values};

const MINIMAL: &str = include_str!("../../../../../examples/minimal.toml");
const TRANSPARENT: &str = include_str!("../../../../../examples/transparent.toml");
const FULL: &str = include_str!("../../../../../examples/full.toml");

/// A valid config, short enough to count lines in.
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

/// Returns the problems of a text as `line:column: text`.
fn problems(text: &str) -> Vec<String> {
    let problems = match Config::parse(text, path()) {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors.problems().to_vec(),
    };
    let line = |problem: &Problem| {
        let Position { line, column } = problem.position.unwrap();
        let severity = match problem.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        format!("{line}:{column}: {severity}{}", problem.text)
    };
    problems.iter().map(line).collect()
}

#[test]
fn the_base_and_the_examples_are_valid() {
    let udp = BASE.replace("tcp", "udp") + "[service.ejection]\nfailures = 3\n";
    for text in [BASE, MINIMAL, FULL, TRANSPARENT, &udp] {
        let (config, warnings) = Config::parse(text, path())
            .map_err(|e| e.to_string())
            .unwrap();
        assert_eq!(warnings, [], "{text}");
        assert!(!config.services.is_empty());
    }
}

#[test]
fn the_minimal_config_gets_the_defaults() {
    let (config, _) = Config::parse(MINIMAL, path()).unwrap();
    assert_eq!(
        config.modules.as_ref().unwrap().value,
        PathBuf::from("conf/modules")
    );
    assert_eq!(config.sessions_max, 1_000_000);
    assert_eq!(
        config.admin.socket.value,
        PathBuf::from("/run/waxwing/waxwing.sock")
    );
    assert_eq!(config.zero_copy, ZeroCopy::Auto);
    assert_eq!(config.poll, Poll::Adaptive);
    assert_eq!(config.unserved, Unserved::Reject);
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
    let differ = [
        "modules",
        "state",
        "cluster_key",
        "[admin]",
        "[metrics]",
        "[workers] cpus",
        "[[port]]",
    ];
    assert_eq!(full.needs_restart(&base), differ, "all else is the default");
    assert_eq!(full.services[0].timeouts, base.services[0].timeouts);
    assert_eq!(full.services[0].mid_stream, base.services[0].mid_stream);
    assert_eq!(full.return_plan(), base.return_plan());
}

#[test]
fn each_limit_of_a_canary_is_read() {
    let text = "[canary]\ntime = \"3s\"\nflows_min = 4\nmore_drops = 5\nmore_fallbacks = 6\n\
                more_failures = 7\none_backend = 8\n";
    let (config, _) = Config::parse(&format!("{text}{BASE}"), path()).unwrap();
    let expected = CanaryRules {
        time: Duration::from_secs(3),
        flows_min: 4,
        more_drops: 5,
        more_fallbacks: 6,
        more_failures: 7,
        one_backend: 8,
    };
    assert_eq!(config.canary, expected);
}

/// A date fits no key, so each key that is read reports it.
#[test]
fn every_key_of_the_schema_is_read() {
    for section in ROOT.all() {
        for key in section.keys {
            let header = section.header.unwrap_or_default();
            // The tables around it, the outermost first.
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

/// One block per mistake: lines of [`BASE`] (`-`), what replaces them (`+`), and how the only
/// problem begins, as [`problems`] returns it.
const MISTAKES: &str = include_str!("mistakes.txt");

#[test]
fn each_mistake_is_reported_with_place_and_remedy() {
    for block in MISTAKES.split("\n\n") {
        let lines = |mark: char| -> String {
            let lines = block.lines().filter_map(|line| line.strip_prefix(mark));
            lines.map(|line| line.trim().to_owned() + "\n").collect()
        };
        let (removed, added) = (lines('-'), lines('+'));
        assert!(BASE.contains(&removed), "the base has no {removed}");
        let expected = block.lines().last().unwrap();
        let found = problems(&BASE.replacen(&removed, &added, 1));
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{block}\n{found:#?}"
        );
    }
}

#[test]
fn an_adopted_reply_names_its_session() {
    let adopting = BASE.replacen(
        "protocol = \"tcp\"",
        "protocol = \"tcp\"\nadopt_replies = true",
        1,
    );
    assert_eq!(problems(&adopting), [""; 0]);
    let service = BASE.split_once("[[service]]").unwrap().1;
    let other =
        service
            .replacen("\"web\"", "\"other\"", 1)
            .replacen("port = 80\n", "port = 81\n", 1);
    let found = problems(&format!("{adopting}[[service]]{other}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    let expected = "11:11: 10.2.0.11 serves \"other\" at the same port";
    assert!(found[0].starts_with(expected), "{found:#?}");
    let elsewhere = other.replacen("port = 8080", "port = 8081", 1);
    assert_eq!(
        problems(&format!("{adopting}[[service]]{elsewhere}")),
        [""; 0]
    );
    let hidden = adopting.replacen("adopt_", "source_nat = \"always\"\nadopt_", 1);
    let found = problems(&hidden);
    let refused = "9:17: with `source_nat = \"always\"`";
    assert!(
        found.iter().any(|problem| problem.starts_with(refused)),
        "{found:#?}"
    );
}

#[test]
fn a_duplicate_names_the_line_of_the_first() {
    let service = BASE.split_once("[[service]]").unwrap().1;
    let twice = format!("{BASE}[[service]]{service}");
    assert_eq!(
        problems(&twice),
        [
            "13:8: a service in line 4 is already named \"web\"; rename one of them",
            "14:7: 203.0.113.10 tcp port 80 is already a service in line 5; change `vip`, `port` or \
             `protocol`, or move the backends there",
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
            "13:11: 10.2.0.11 port 8080 is already a backend of \"web\" in line 10; write it once, \
             with a higher `weight` for a larger share"
        ]
    );
    let port = "[[port]]\ninterface = \"eth0\"\n";
    let found = problems(&format!("{port}{BASE}"));
    assert_eq!(
        found,
        ["4:13: \"eth0\" is already a port in line 2; write it once"]
    );
}

#[test]
fn too_many_services_or_backends_are_errors() {
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
fn a_config_that_can_run_but_looks_wrong_gets_a_warning() {
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
            "13:19: warning: 1h is shorter than the minimum of RFC 5382 REQ-5, so sessions in use may \
             end; write `tcp_established = \"2h 4m\"` or more",
        ),
        (
            format!("{BASE}[service.timeouts]\nudp = \"120s\""),
            "13:7: warning: `udp` has no effect",
        ),
        (
            BASE.replace("\"tcp\"", "\"udp\"\non_refused = \"retry\""),
            "3:1: warning: `on_refused` has no effect on UDP",
        ),
        (
            format!("[workers]\npin = false\ncpus = [1]\n{BASE}"),
            "3:9: warning: `cpus` has no effect without pinning",
        ),
        (
            format!("[workers]\ncpus = [1, 1]\n{BASE}"),
            "2:12: warning: two workers share CPU 1",
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
fn all_errors_are_reported_at_once_in_file_order() {
    let text = "sesions_max = 1\n[[port]]\n[[service]]\n\tname = \"é\"\nport = 0\nvip = \"é\"\n";
    let errors = Config::parse(text, path()).unwrap_err();
    let shown = "\
error: the top of the file has no key `sesions_max`; did you mean `sessions_max`?
 --> conf/lb.toml:1:1
  |
1 | sesions_max = 1
  | ^^^^^^^^^^^

error: [[port]] has no `interface`; write `interface = \"eth0\"`
 --> conf/lb.toml:2:1
  |
2 | [[port]]
  | ^^^^^^^^

error: [[service]] has no `protocol`; write `protocol = \"tcp\"`
 --> conf/lb.toml:3:1
  |
3 | [[service]]
  | ^^^^^^^^^^^

error: [[service]] has no `policy`; write `policy = \"round_robin\"`
 --> conf/lb.toml:3:1
  |
3 | [[service]]
  | ^^^^^^^^^^^

error: \"é\" is not a valid name; write 1 to 64 of the characters a-z A-Z 0-9 . _ - and do not \
begin with a dot
 --> conf/lb.toml:4:9
  |
4 |     name = \"é\"
  |            ^^^

error: `port` is out of range; write 1 to 65535
 --> conf/lb.toml:5:8
  |
5 | port = 0
  |        ^

error: \"é\" is not an IP address; write one such as \"203.0.113.10\" or \"2001:db8::10\" (host \
names are not resolved)
 --> conf/lb.toml:6:7
  |
6 | vip = \"é\"
  |       ^^^";
    assert_eq!(errors.to_string(), shown);
}

#[test]
fn syntax_errors_have_a_place_and_hide_other_errors() {
    let found = problems("[[port]]\ninterface = eth0\nsesions_max = 3\n[[port]\n");
    assert!(found.len() >= 2, "{found:#?}");
    assert!(found[0].starts_with("2:13: invalid TOML: "), "{found:#?}");
    assert!(found.iter().any(|p| p.starts_with("4:")), "{found:#?}");
    assert!(
        !found.iter().any(|p| p.contains("sesions_max")),
        "{found:#?}"
    );
    let twice = problems(&format!("{BASE}port = 81"));
    assert!(
        twice[0].starts_with("12:1: invalid TOML: duplicate key; write each key"),
        "{twice:#?}"
    );
}

#[test]
fn an_unreadable_file_is_an_error() {
    let missing = Config::load(Path::new("no/such/lb.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("error: cannot read the config: ")
            && missing.ends_with(" --> no/such/lb.toml"),
        "{missing}"
    );
    let file = std::env::temp_dir().join(format!("waxwing-config-{}.toml", std::process::id()));
    std::fs::write(&file, b"[[port]]\ninterface = \"\xff\"\n").unwrap();
    let errors = Config::load(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(
        errors.to_string().contains("this byte is not UTF-8")
            && errors.to_string().contains(".toml:2:14"),
        "{errors}"
    );
}

#[test]
fn problems_of_the_system_join_the_same_list() {
    let text = BASE.replace("port = 80\n", "prot = 80\nport = 80\n");
    let mut parsed = Config::read(&text, path());
    let config = parsed.config();
    let interface = &config.ports[0].interface;
    let missing = config.error_at(interface.span, "there is no interface \"eth0\"; write one");
    parsed.add([missing]);
    let errors = parsed.finish().unwrap_err();
    let lines: Vec<_> = errors
        .problems()
        .iter()
        .map(|p| p.position.unwrap().line)
        .collect();
    assert_eq!(lines, [2, 6]);
}

#[test]
fn policy_config_becomes_json() {
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
fn durations_are_parsed_and_formatted() {
    for (text, millis) in [
        ("240s", 240_000),
        ("2h4m", 7_440_000),
        ("500ms", 500),
        ("1.5s", 1_500),
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
        "99999999999999999999s",
        "18446744073709551615d",
    ] {
        assert!(values::duration(text).is_err(), "{text}");
    }
    assert_eq!(values::duration_text(Duration::ZERO), "0s");
}
