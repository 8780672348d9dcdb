//! Compiles policy and health check crates of a cargo workspace to Wasm modules, with the Wasm
//! compiler of this machine.
//!
//! Invariant: the result depends only on the sources and the compiler. Variables of an outer cargo,
//! a wrapper or a user's flags are removed from the environment; paths of this machine do not get
//! into the module; the target directory is the caller's own, so that no build waits for an outer
//! cargo's lock.
//!
//! From a build script:
//!
//! ```no_run
//! # use std::path::Path;
//! let out_dir = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
//! let policies = ["waxwing-policy-round-robin", "waxwing-policy-maglev"];
//! let lists = [("POLICIES", &policies[..])];
//! waxwing_module_build::embed(Path::new("../../Cargo.toml"), &lists, Path::new(&out_dir))?;
//! // Then, in the crate: include!(concat!(env!("OUT_DIR"), "/modules.rs"));
//! # Ok::<(), waxwing_module_build::Error>(())
//! ```

mod command;
mod embed;
mod error;
mod toolchain;

use std::path::{Path, PathBuf};

pub use embed::embed;
pub use error::Error;
pub use toolchain::{TOOLCHAIN_VARIABLE, Toolchain, find_toolchain};

/// The target of modules.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A compiled module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// The module's name, by which a config refers to it: the name of the crate's library.
    pub name: String,
    /// The `.wasm` file.
    pub path: PathBuf,
}

/// Compiles `packages` of the workspace at `manifest` (the path of its `Cargo.toml`) into
/// `target_dir`, with the toolchain of [`find_toolchain`]. Returns the modules, sorted by name.
/// Fast when nothing changed.
///
/// # Errors
/// If there is no toolchain, a crate does not compile (the error has cargo's output), or a crate is
/// not a module.
pub fn build(manifest: &Path, packages: &[&str], target_dir: &Path) -> Result<Vec<Module>, Error> {
    find_toolchain()?.build(manifest, packages, target_dir)
}

impl Toolchain {
    /// As [`build`], with this toolchain.
    ///
    /// # Errors
    /// As [`build`].
    pub fn build(
        &self,
        manifest: &Path,
        packages: &[&str],
        target_dir: &Path,
    ) -> Result<Vec<Module>, Error> {
        let manifest = manifest.canonicalize().map_err(|source| Error::Io {
            path: manifest.into(),
            source,
        })?;
        let output = command::cargo_build(self, &manifest, packages, target_dir)
            .output()
            .map_err(|source| Error::Io {
                path: self.cargo().into(),
                source,
            })?;
        if !output.status.success() {
            return Err(Error::Compile {
                packages: packages.join(", "),
                toolchain: self.name(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        let modules = modules_of(&String::from_utf8_lossy(&output.stdout));
        if modules.len() < packages.len() {
            return Err(Error::NotModules {
                packages: packages.join(", "),
            });
        }
        Ok(modules)
    }
}

/// Returns the modules among the artifacts that cargo reports, one line of JSON each: strings that
/// end in `.wasm`. (Not a JSON parser, because this crate has no dependencies. In a path cargo
/// escapes only quotes and backslashes, which are not supported.)
fn modules_of(messages: &str) -> Vec<Module> {
    let mut modules: Vec<_> = messages
        .lines()
        .filter(|line| line.contains(r#""reason":"compiler-artifact""#))
        .flat_map(|line| line.split('"'))
        .map(Path::new)
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_string();
            Some(Module {
                name,
                path: path.into(),
            })
        })
        .collect();
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    modules.dedup();
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","filenames":["/t/release/libserde.rlib"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","filenames":["/t/release/b.wasm","/t/libb.rlib"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","filenames":["/t/release/a.wasm"],"fresh":true}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let names: Vec<_> = modules_of(messages)
            .into_iter()
            .map(|module| module.name)
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
