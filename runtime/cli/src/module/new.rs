//! `waxwing module new`.
//!
//! Invariant: an existing file is never overwritten, and a crate is created completely or not at
//! all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use waxwing_plugin::is_module_name;

use crate::query::print;

/// The SDK in the source tree that this program was built from.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk");

/// The SDK that the Debian package installs.
const PACKAGED_SDK: &str = "/usr/share/waxwing/sdk";

/// A crate's files: paths and templates, in which `{{crate}}`, `{{library}}` and `{{sdk}}` are
/// placeholders.
type Files = &'static [(&'static str, &'static str)];

const POLICY: Files = &[
    ("Cargo.toml", include_str!("template/policy/manifest.toml")),
    ("src/lib.rs", include_str!("template/policy/lib.rs")),
    ("benches/pick.rs", include_str!("template/policy/pick.rs")),
    ("README.md", include_str!("template/policy/README.md")),
];

const HEALTH: Files = &[
    ("Cargo.toml", include_str!("template/health/manifest.toml")),
    ("src/lib.rs", include_str!("template/health/lib.rs")),
    ("README.md", include_str!("template/health/README.md")),
];

/// Names that a library cannot have: Rust's keywords, names that cargo uses, and the crates that a
/// module depends on.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "bench",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "criterion",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "waxwing_sdk",
    "where",
    "while",
    "yield",
];

#[derive(Args)]
pub(crate) struct Arguments {
    /// The crate's name. A config refers to the module by it, with `_` in place of `-`.
    #[arg(value_name = "NAME")]
    name: String,
    /// The kind of module.
    #[arg(long, value_enum, default_value = "policy")]
    kind: Kind,
    /// The folder `sdk` of Waxwing's source; by default, in the tree that this program was built
    /// from.
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
    /// The folder in which the crate's folder is created.
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Chooses the backend of each new session.
    Policy,
    /// Decides whether a backend is healthy.
    Health,
}

impl Kind {
    const fn files(self) -> Files {
        match self {
            Self::Policy => POLICY,
            Self::Health => HEALTH,
        }
    }

    /// Describes the crate before its author changes it.
    const fn summary(self) -> &'static str {
        match self {
            Self::Policy => "a policy that keeps each client on one server",
            Self::Health => "a health check that sends a line and checks the answer",
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        name,
        kind,
        sdk,
        path,
    } = arguments;
    check_name(name)?;
    let sdk = find_sdk(sdk.as_deref())?;
    let folder = match path.to_str() {
        Some(".") => PathBuf::from(name),
        _ => path.join(name),
    };
    if folder.symlink_metadata().is_ok() {
        let folder = folder.display();
        bail!("{folder} exists already; choose another name, or another folder with --path");
    }
    write(&folder, kind.files(), name, &sdk)?;
    print(&format!(
        "{0}: {1}\n\n  cd {0}\n  cargo test\n  waxwing module build\n\nSee README.md there for more.\n",
        folder.display(),
        kind.summary()
    ))
}

/// Checks that cargo accepts the crate's name and that a service can name its module.
fn check_name(name: &str) -> Result<()> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic());
    if !starts_well || !is_module_name(name) {
        bail!(
            "{name:?} is not a valid module name: write 1 to 64 of a-z, A-Z, 0-9, `_` and `-`, a letter first"
        );
    }
    if RESERVED.contains(&name.replace('-', "_").as_str()) {
        bail!("{name:?} is reserved by Rust or cargo; write another name, like my-{name}");
    }
    Ok(())
}

fn find_sdk(given: Option<&Path>) -> Result<PathBuf> {
    let is_sdk = |folder: &Path| -> Option<PathBuf> {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
        let ours = manifest
            .lines()
            .any(|line| line.trim() == "name = \"waxwing-sdk\"");
        folder.canonicalize().ok().filter(|_| ours)
    };
    let found = match given {
        Some(folder) => is_sdk(folder),
        None => [SDK, PACKAGED_SDK]
            .map(Path::new)
            .into_iter()
            .find_map(is_sdk),
    };
    found.with_context(|| {
        let why = match given {
            Some(folder) => format!("{} is not Waxwing's SDK", folder.display()),
            None => format!(
                "the SDK is neither in {PACKAGED_SDK} nor in the source tree that this program was built from"
            ),
        };
        format!("{why}; give the SDK's folder in a checkout of Waxwing: --sdk /path/to/waxwing/sdk")
    })
}

/// Creates the crate in a temporary folder, then renames it.
fn write(folder: &Path, files: Files, name: &str, sdk: &Path) -> Result<()> {
    let sdk = sdk.to_str().context("the SDK's path is not UTF-8")?;
    let aside = folder.with_file_name(format!(".{name}.{}", std::process::id()));
    let make = || -> std::io::Result<()> {
        for (path, template) in files {
            let path = aside.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&aside))?;
            fs::write(path, fill(template, name, sdk))?;
        }
        fs::rename(&aside, folder)
    };
    make().map_err(|error| {
        // If the partial crate cannot be removed, the original error still matters more.
        let _ = fs::remove_dir_all(&aside);
        anyhow::Error::new(error).context(format!("cannot make {}", folder.display()))
    })
}

/// Fills in a template in one pass, so that substituted text is not substituted again.
fn fill(template: &str, name: &str, sdk: &str) -> String {
    let library = name.replace('-', "_");
    // JSON and TOML strings have the same syntax for paths.
    let sdk = serde_json::Value::from(sdk).to_string();
    let mut pieces = template.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (token, after) = piece.split_once("}}").unwrap_or((piece, ""));
        text += match token {
            "crate" => name,
            "library" => &library,
            "sdk" => &sdk,
            // A test checks that the templates have no other placeholder.
            other => other,
        };
        text += after;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substituted_names_are_not_substituted_again() {
        let template = "{{crate}} {{library}} at {{sdk}}.";
        assert_eq!(
            fill(template, "my-my_policy2", "/my-policy/{{crate}}/sdk"),
            r#"my-my_policy2 my_my_policy2 at "/my-policy/{{crate}}/sdk"."#
        );
    }

    #[test]
    fn templates_contain_only_known_tokens() {
        for (path, template) in POLICY.iter().chain(HEALTH) {
            for piece in template.split("{{").skip(1) {
                let token = piece.split_once("}}").map(|(token, _)| token);
                let known = [Some("crate"), Some("library"), Some("sdk")];
                assert!(known.contains(&token), "{path}: {token:?}");
            }
        }
    }

    #[test]
    fn a_name_must_suit_cargo_and_the_module_registry() {
        for good in ["a", "by-token", "By_Client2", "policy"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in [
            "",
            "2nd",
            "-a",
            "_a",
            "a.b",
            "../a",
            "a/b",
            "é",
            "fn",
            "proc-macro",
            "serde",
            &long,
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_without_the_sdk_is_refused_with_a_hint() {
        let error = find_sdk(Some(Path::new("/")))
            .map(|_| ())
            .expect_err("no SDK");
        assert!(error.to_string().contains("--sdk"), "{error}");
    }

    #[test]
    fn reserved_names_are_sorted() {
        assert!(RESERVED.is_sorted());
    }
}
