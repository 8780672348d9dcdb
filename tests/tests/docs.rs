//! The documents are true: links and paths lead somewhere, commands parse, configs are accepted, and
//! quoted code is the code.
//!
//! No rights and no network are needed. A command is not run: `waxwing` parses it up to a final `--help`,
//! and `cargo xtask` is held against its own help text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use waxwing_control::config::Config;

/// The documents that this test reads.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "PERFORMANCE.md",
    "docs/authoring.md",
    "docs/decisions.md",
    "docs/incidents.md",
    "docs/operating.md",
    "docs/protocols.md",
];

/// Documents whose links are checked, and nothing else: their blocks have tests of their own.
const LINKED: &[&str] = &[
    "policies/README.md",
    "sdk/ABI.md",
    "examples/queue-check/README.md",
];

/// Other programs that a shell block may call.
const OTHER_PROGRAMS: &[&str] = &[
    "apt",
    "cd",
    "cp",
    "cpupower",
    "curl",
    "ethtool",
    "ip",
    "nft",
    "rustup",
    "sysctl",
    "systemctl",
];

/// The parts of a config that a shown part is completed with, unless it has them itself.
const TOP: &str = "modules = \"modules\"\n";
const PORT: &str = "[[port]]\ninterface = \"eth0\"\n";
const SERVICE: &str = "[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n\
    protocol = \"tcp\"\npolicy = \"round_robin\"\n";
const BACKEND: &str = "[[service.backend]]\naddress = \"10.2.0.11\"\nport = 8080\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with every problem at once.
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// A fenced block, and the text between the block before it and itself.
struct Block {
    language: String,
    text: String,
    before: String,
}

/// A document's fenced blocks, and its text without them.
fn blocks(document: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose, mut before) = (Vec::new(), String::new(), String::new());
    let mut open: Option<Block> = None;
    for line in document.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                    before: std::mem::take(&mut before),
                });
            }
            (None, None) => {
                before += &format!("{line}\n");
                prose += &format!("{line}\n");
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "a block is not closed");
    (blocks, prose)
}

fn all_blocks() -> impl Iterator<Item = (&'static str, Block)> {
    DOCUMENTS.iter().flat_map(|path| {
        let (blocks, _) = blocks(&read(path));
        blocks.into_iter().map(move |block| (*path, block))
    })
}

/// Texts and targets of a text's Markdown links and pictures.
fn links(text: &str) -> Vec<(String, String)> {
    text.match_indices("](")
        .filter_map(|(middle, _)| {
            let label = text[..middle].rsplit_once('[')?.1;
            let target = text[middle + 2..].split_once(')')?.0;
            Some((label.to_owned(), target.to_owned()))
        })
        .collect()
}

/// The texts between single backquotes.
fn code_spans(prose: &str) -> Vec<String> {
    prose
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let (_, prose) = blocks(document);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut problems = Vec::new();
    for path in DOCUMENTS.iter().chain(LINKED) {
        let document = read(path);
        let (_, prose) = blocks(&document);
        for (_, target) in links(&prose) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = root().join(path);
            let folder = folder.parent().expect("a document lies in a folder");
            let file = if file.is_empty() {
                root().join(path)
            } else {
                folder.join(file)
            };
            let has_anchor = || {
                let text = fs::read_to_string(&file).unwrap_or_default();
                anchor.is_empty() || anchors(&text).contains(anchor)
            };
            if !file.exists() || !has_anchor() {
                problems.push(format!("{path}: {target} leads nowhere"));
            }
        }
    }
    assert_none(&problems);
}

/// `[`file.rs::symbol`](path)` names a symbol that the file defines.
#[test]
fn every_place_that_is_named_is_there() {
    let mut problems = Vec::new();
    let mut places = 0;
    for path in DOCUMENTS {
        let folder = root().join(path);
        for (label, target) in links(&read(path)) {
            let label = label.trim_matches('`');
            let (file, symbol) = label.split_once("::").unwrap_or((label, ""));
            let is_source = [".rs", ".c"].iter().any(|end| file.ends_with(end));
            if !is_source {
                continue;
            }
            places += 1;
            let source = folder.parent().expect("a folder").join(&target);
            let text = fs::read_to_string(&source).unwrap_or_default();
            if !target.ends_with(file) || !(symbol.is_empty() || defines(&text, symbol)) {
                problems.push(format!("{path}: {label} is not in {target}"));
            }
        }
    }
    assert_none(&problems);
    assert!(places > 25, "only {places} places are named");
}

/// Whether a line has a keyword of a definition and then the symbol.
fn defines(source: &str, symbol: &str) -> bool {
    let keywords = ["fn", "struct", "enum", "trait", "const", "int", "class"];
    source.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(2).any(|pair| {
            let name = pair[1]
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next();
            keywords.contains(&pair[0]) && name == Some(symbol)
        })
    })
}

/// A path in backquotes is one of the tree, whole or from some folder on: `session/tcp.rs`.
#[test]
fn every_path_in_the_text_is_in_the_tree() {
    let mut files = Vec::new();
    list(&root(), &mut files);
    let in_tree = |span: &str| {
        let start = format!("/{}", span.trim_end_matches(['*', '/']));
        files.iter().any(|file| {
            file.match_indices(&start).any(|(at, _)| {
                let rest = &file[at + start.len()..];
                span.ends_with('*') || rest.is_empty() || rest.starts_with(['/', '.'])
            })
        })
    };
    let is_path = |span: &str| {
        let is_plain = span
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./*".contains(c));
        let in_crates = [
            "runtime/",
            "tests/",
            "benches/",
            "examples/",
            "policies/",
            "sdk/",
            "docs/",
        ]
        .iter()
        .any(|folder| span.starts_with(folder));
        let is_file = [".rs", ".md", ".toml"]
            .iter()
            .any(|end| span.ends_with(end));
        is_plain && (in_crates || is_file) && !is_example(span)
    };
    let mut problems = Vec::new();
    for path in DOCUMENTS {
        let (_, prose) = blocks(&read(path));
        let table = path == &"ARCHITECTURE.md";
        let spans = code_spans(&prose).into_iter().filter(|span| is_path(span));
        let tests = prose
            .lines()
            .filter(|line| table && line.matches(" | ").count() == 3);
        let tests = tests.flat_map(|line| {
            let column = line.rsplit_once(" | ").map_or("", |(_, last)| last);
            code_spans(column)
                .into_iter()
                .filter(|span| !span.contains(' '))
        });
        for span in spans.chain(tests) {
            if !in_tree(&span) {
                problems.push(format!("{path}: `{span}` is not in the tree"));
            }
        }
    }
    assert_none(&problems);
}

/// Files of a user's own, which the documents make up, and those of an installed system.
fn is_example(span: &str) -> bool {
    span.starts_with('/') || ["lb.toml", "x.rs"].contains(&span)
}

/// All files below a folder, but for what is built.
fn list(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder)
        .expect("a folder can be listed")
        .flatten()
    {
        let (path, name) = (entry.path(), entry.file_name());
        let is_built = ["target", ".git"].iter().any(|skipped| name == *skipped);
        if path.is_dir() && !is_built {
            list(&path, files);
        } else if let Some(path) = path.to_str() {
            files.push(path.to_owned());
        }
    }
}

#[test]
fn every_config_is_accepted() {
    let mut problems = Vec::new();
    let mut configs = 0;
    for (path, block) in all_blocks().filter(|(_, block)| block.language == "toml") {
        configs += 1;
        let text = completed(&block.text);
        if let Err(errors) = Config::parse(&text, Path::new("lb.toml")) {
            problems.push(format!("{path}: {errors}\nin\n{text}"));
        }
    }
    assert_none(&problems);
    assert!(configs >= 4, "only {configs} configs are shown");
}

/// A part of a config with what it lacks to be a whole one.
fn completed(part: &str) -> String {
    let tables = part.find("\n[").map_or(part.len(), |at| at + 1);
    let tables = if part.starts_with('[') { 0 } else { tables };
    let (top, tables) = part.split_at(tables);
    let has = |table: &str| tables.lines().any(|line| line.trim_end() == table);
    let unless = |table: &str, text: &'static str| if has(table) { "" } else { text };
    let defaults = if top.contains("modules =") { "" } else { TOP };
    let service = unless("[[service]]", SERVICE);
    // A part of a service comes after the service's head and before its backends.
    let backend = unless("[[service.backend]]", BACKEND);
    let port = unless("[[port]]", PORT);
    let (own, of_service) = tables
        .find("[[service.")
        .filter(|_| !service.is_empty())
        .map_or((tables, ""), |at| tables.split_at(at));
    format!("{defaults}{top}\n{port}{own}\n{service}\n{of_service}\n{backend}")
}

#[test]
fn every_command_parses() {
    let waxwing = built("waxwing");
    let usage = read("xtask/src/main.rs");
    let packages = packages();
    let mut problems = Vec::new();
    let mut commands = 0;
    let mut check = |path: &str, line: &str| {
        commands += 1;
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = match words.as_slice() {
            ["sudo", "target/release/waxwing", rest @ ..] | ["waxwing", rest @ ..] => {
                parses(&waxwing, rest)
            }
            ["cargo", "xtask", rest @ ..] => is_in_usage(&usage, rest),
            ["cargo", "test" | "build" | "bench", rest @ ..] => are_packages(&packages, rest),
            ["sudo", program, ..] | [program, ..] if OTHER_PROGRAMS.contains(program) => Ok(()),
            _ => Err("is no command that this test knows".to_owned()),
        };
        if let Err(why) = outcome {
            problems.push(format!("{path}: `{line}` {why}"));
        }
    };
    for (path, block) in all_blocks().filter(|(_, block)| block.language == "sh") {
        let lines = block
            .text
            .lines()
            .map(|line| line.split(" # ").next().unwrap_or(line));
        for command in lines.flat_map(|line| line.split("&&")) {
            check(path, command.trim());
        }
    }
    for path in DOCUMENTS {
        let (_, prose) = blocks(&read(path));
        for span in code_spans(&prose) {
            // `waxwing module` is the name of a group of commands.
            let is_command = span.starts_with("waxwing ") && span != "waxwing module";
            if is_command || span.starts_with("cargo ") {
                check(path, &span);
            }
        }
    }
    assert_none(&problems);
    assert!(commands > 40, "only {commands} commands are shown");
}

/// A program that cargo has built beside this test.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let folder = test.ancestors().nth(2).expect("it lies in `deps`");
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: cargo build --workspace",
        path.display()
    );
    path
}

/// Words of a command line; quotes keep one together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Whether the real program takes these arguments: it parses all of them before it shows its help.
fn parses(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .arg("--help")
        .output()
        .map_err(|error| format!("does not start: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("is refused: {error}"))
    }
}

/// Whether the help of `cargo xtask` has the command, its kind (`bench wire`) and its options.
fn is_in_usage(usage: &str, arguments: &[&str]) -> Result<(), String> {
    let [command, rest @ ..] = arguments else {
        return Ok(());
    };
    let starts = |text: &str| {
        let text = format!("\n  {text}");
        let mut found = usage.match_indices(&text);
        found.any(|(at, _)| usage[at + text.len()..].starts_with([' ', '\n']))
    };
    let is_help = *command == "help";
    if !is_help && !starts(command) {
        return Err(format!("has no `{command}` in xtask's help"));
    }
    let kind = rest
        .first()
        .filter(|word| !word.starts_with('-') && *command == "bench");
    // A word that is no kind is a filter.
    let head = kind.map_or((*command).to_owned(), |kind| format!("{command} {kind}"));
    let head = if starts(&head) {
        head
    } else {
        (*command).to_owned()
    };
    let from = usage.find(&format!("\n  {head}")).unwrap_or_default();
    let section = &usage[from + 1..];
    let end = section
        .match_indices("\n  ")
        .find(|(at, _)| !section[at + 3..].starts_with(' '))
        .map_or(section.len(), |(at, _)| at);
    let missing = rest
        .iter()
        .find(|word| word.starts_with("--") && !section[..end].contains(**word));
    missing.map_or(Ok(()), |option| {
        Err(format!("has no `{option}` in xtask's help"))
    })
}

/// The names of the workspace's packages.
fn packages() -> BTreeSet<String> {
    let mut files = Vec::new();
    list(&root(), &mut files);
    let manifests = files.iter().filter(|file| file.ends_with("/Cargo.toml"));
    manifests
        .filter_map(|manifest| {
            let text = fs::read_to_string(manifest).ok()?;
            let name = text
                .lines()
                .find_map(|line| line.strip_prefix("name = \""))?;
            Some(name.trim_end_matches('"').to_owned())
        })
        .collect()
}

fn are_packages(packages: &BTreeSet<String>, arguments: &[&str]) -> Result<(), String> {
    let named = arguments
        .windows(2)
        .filter(|pair| ["--package", "-p"].contains(&pair[0]))
        .map(|pair| pair[1]);
    let mut unknown = named.filter(|name| !packages.contains(*name));
    unknown.next().map_or(Ok(()), |name| {
        Err(format!("names {name}, which is no package"))
    })
}

/// A block that a paragraph with a link to a file introduces, ended by a colon, is part of that file.
#[test]
fn quoted_code_is_the_code() {
    let mut problems = Vec::new();
    let mut quotes = 0;
    for (path, block) in all_blocks() {
        let paragraph = block
            .before
            .trim_end()
            .rsplit("\n\n")
            .next()
            .unwrap_or_default();
        let Some((_, target)) = links(paragraph).pop().filter(|_| paragraph.ends_with(':')) else {
            continue;
        };
        let is_quoted = ["rust", "toml"].contains(&block.language.as_str())
            && [".rs", ".toml"].iter().any(|end| target.ends_with(end));
        if !is_quoted {
            continue;
        }
        quotes += 1;
        let folder = root().join(path);
        let file = folder.parent().expect("a folder").join(&target);
        let text = fs::read_to_string(&file).unwrap_or_default();
        if !text.contains(&block.text) {
            problems.push(format!("{path}: {target} has no\n{}", block.text));
        }
    }
    assert_none(&problems);
    assert!(quotes >= 2, "only {quotes} blocks quote a file");
}
