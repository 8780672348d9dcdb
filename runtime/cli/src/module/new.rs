//! `waxwing module new`.
//!
//! Invariant: nothing that is there is written over, and a crate is made whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use waxwing_plugin::is_module_name;

use crate::query::print;

/// The SDK of the tree that this program was built from.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk");

/// A crate's files: their paths and texts, in which `{{crate}}`, `{{library}}` and `{{sdk}}` stand for what
/// differs.
type Files = &'static [(&'static str, &'static str)];

/// Those of a policy.
const POLICY: Files = &[
    ("Cargo.toml", include_str!("template/policy/manifest.toml")),
    ("src/lib.rs", include_str!("template/policy/lib.rs")),
    ("benches/pick.rs", include_str!("template/policy/pick.rs")),
    ("README.md", include_str!("template/policy/README.md")),
];

/// Those of a health check.
const HEALTH: Files = &[
    ("Cargo.toml", include_str!("template/health/manifest.toml")),
    ("src/lib.rs", include_str!("template/health/lib.rs")),
    ("README.md", include_str!("template/health/README.md")),
];

/// Names that a library cannot have: Rust's keywords, what cargo makes itself, and the crates that a
/// module uses.
const TAKEN: &[&str] = &[
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
    /// The crate's name. A config names the module so, with `_` for `-`.
    #[arg(value_name = "NAME")]
    name: String,
    /// What the module is to be.
    #[arg(long, value_enum, default_value = "policy")]
    kind: Kind,
    /// The folder `sdk` of Waxwing's source; by default of the tree that this program was built from.
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
    /// Where the crate's folder is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
}

/// The kinds of modules.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Chooses the backend of each new session.
    Policy,
    /// Says whether a backend is well.
    Health,
}

impl Kind {
    const fn files(self) -> Files {
        match self {
            Self::Policy => POLICY,
            Self::Health => HEALTH,
        }
    }

    /// What the crate is before its author changes it.
    const fn summary(self) -> &'static str {
        match self {
            Self::Policy => "a policy that keeps a client with its server",
            Self::Health => "a health check that says a line and looks at the answer",
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
        bail!("{folder} is there already; choose another name, or another folder by --path");
    }
    write(&folder, kind.files(), name, &sdk)?;
    print(&format!(
        "{0}: {1}\n\n  cd {0}\n  cargo test\n  waxwing module build\n\nREADME.md there has the rest.\n",
        folder.display(),
        kind.summary()
    ))
}

/// A crate that cargo takes, whose module a service can name.
fn check_name(name: &str) -> Result<()> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic());
    if !starts_well || !is_module_name(name) {
        bail!(
            "{name:?} is no name for a module: write 1 to 64 of a-z, A-Z, 0-9, `_` and `-`, a letter first"
        );
    }
    if TAKEN.contains(&name.replace('-', "_").as_str()) {
        bail!("{name:?} means something to Rust or cargo; write another name, like my-{name}");
    }
    Ok(())
}

fn find_sdk(given: Option<&Path>) -> Result<PathBuf> {
    let folder = given.unwrap_or(Path::new(SDK));
    let is_sdk = || -> Option<PathBuf> {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
        let ours = manifest
            .lines()
            .any(|line| line.trim() == "name = \"waxwing-sdk\"");
        folder.canonicalize().ok().filter(|_| ours)
    };
    is_sdk().with_context(|| {
        let why = if given.is_some() {
            format!("{} is not Waxwing's SDK", folder.display())
        } else {
            "the source that this program was built from is not there any more".to_owned()
        };
        format!("{why}; name the SDK's folder in a checkout of Waxwing: --sdk /path/to/waxwing/sdk")
    })
}

/// Makes the crate beside its place, then moves it there.
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
        // What was made so far is nobody's; where it cannot be removed, that changes nothing.
        let _ = fs::remove_dir_all(&aside);
        anyhow::Error::new(error).context(format!("cannot make {}", folder.display()))
    })
}

/// A template with the crate's own names, in one pass: what is put in is not looked at again.
fn fill(template: &str, name: &str, sdk: &str) -> String {
    let library = name.replace('-', "_");
    // JSON and TOML write a string alike, as far as paths go.
    let sdk = serde_json::Value::from(sdk).to_string();
    let mut pieces = template.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (token, after) = piece.split_once("}}").unwrap_or((piece, ""));
        text += match token {
            "crate" => name,
            "library" => &library,
            "sdk" => &sdk,
            // The templates have no other, which a test sees to.
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
    fn a_template_is_filled_once_whatever_the_names_are() {
        let template = "{{crate}} {{library}} at {{sdk}}.";
        assert_eq!(
            fill(template, "my-my_policy2", "/my-policy/{{crate}}/sdk"),
            r#"my-my_policy2 my_my_policy2 at "/my-policy/{{crate}}/sdk"."#
        );
    }

    #[test]
    fn the_templates_have_known_tokens_only() {
        for (path, template) in POLICY.iter().chain(HEALTH) {
            for piece in template.split("{{").skip(1) {
                let token = piece.split_once("}}").map(|(token, _)| token);
                let known = [Some("crate"), Some("library"), Some("sdk")];
                assert!(known.contains(&token), "{path}: {token:?}");
            }
        }
    }

    #[test]
    fn a_name_is_a_crates_and_a_modules() {
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
    fn a_folder_that_is_no_sdk_is_refused_with_what_to_write() {
        let error = find_sdk(Some(Path::new("/")))
            .map(|_| ())
            .expect_err("no SDK");
        assert!(error.to_string().contains("--sdk"), "{error}");
    }

    #[test]
    fn the_names_that_are_taken_are_in_order() {
        assert!(TAKEN.is_sorted());
    }
}
