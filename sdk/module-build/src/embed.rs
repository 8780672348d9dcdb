//! Embeds modules in a program, which then needs no folder to serve them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Module, TOOLCHAIN_VARIABLE, build};

/// For a build script: compiles packages of the workspace at `manifest`, and writes
/// `out_dir/modules.rs` with one static per entry of `lists` (the static's name, and its packages),
/// such as
///
/// ```
/// /// Modules that ship with this program, by name.
/// pub static POLICIES: &[(&str, &[u8])] = &[/* ("maglev", include_bytes!("…")), … */];
/// ```
///
/// Tells cargo to run the script again when a source of the modules changes. Returns the modules,
/// whose files are in `out_dir`.
///
/// # Errors
/// As [`build`], or if `out_dir` cannot be written.
pub fn embed(
    manifest: &Path,
    lists: &[(&str, &[&str])],
    out_dir: &Path,
) -> Result<Vec<Module>, Error> {
    let mut text = String::new();
    let mut modules = Vec::new();
    for (list, packages) in lists {
        let of_list = build(manifest, packages, &out_dir.join("modules"))?;
        text += &source(list, &of_list);
        modules.extend(of_list);
    }
    let path = out_dir.join("modules.rs");
    fs::write(&path, text).map_err(|source| Error::Io { path, source })?;

    println!("cargo::rerun-if-env-changed={TOOLCHAIN_VARIABLE}");
    for path in inputs(manifest, &modules)? {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    Ok(modules)
}

fn source(list: &str, modules: &[Module]) -> String {
    let mut text = format!(
        "/// Modules that ship with this program, by name.\n\
         pub static {list}: &[(&str, &[u8])] = &[\n",
    );
    for Module { name, path } in modules {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "    ({name:?}, include_bytes!({:?})),",
            path.display().to_string()
        );
    }
    text + "];\n"
}

/// Returns the inputs of the modules: the sources that cargo lists beside each, and the workspace's
/// manifest and lock file.
fn inputs(manifest: &Path, modules: &[Module]) -> Result<BTreeSet<PathBuf>, Error> {
    let mut inputs = BTreeSet::from([manifest.into(), manifest.with_file_name("Cargo.lock")]);
    for module in modules {
        let path = module.path.with_extension("d");
        let text = fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?;
        inputs.extend(dependencies(&text));
    }
    Ok(inputs)
}

/// Parses the files after the colon of a dep-info line, in which a space in a name is escaped.
fn dependencies(text: &str) -> impl Iterator<Item = PathBuf> {
    let (_, files) = text.split_once(": ").unwrap_or_default();
    let files = files.trim_end().replace("\\ ", "\0");
    let files: Vec<_> = files
        .split_whitespace()
        .map(|file| file.replace('\0', " "))
        .collect();
    files.into_iter().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_becomes_an_entry_of_the_list() {
        let modules = [Module {
            name: "a".to_string(),
            path: "/o/\"a\".wasm".into(),
        }];
        let text = source("LIST", &modules);
        assert!(text.contains("pub static LIST: &[("), "{text}");
        assert!(
            text.contains(r#"("a", include_bytes!("/o/\"a\".wasm")),"#),
            "{text}"
        );
    }

    #[test]
    fn sources_are_read_from_dep_info() {
        let files: Vec<_> = dependencies("/t/a.wasm: /s/lib.rs /my\\ s/x.rs\n").collect();
        assert_eq!(
            files,
            [PathBuf::from("/s/lib.rs"), PathBuf::from("/my s/x.rs")]
        );
    }
}
