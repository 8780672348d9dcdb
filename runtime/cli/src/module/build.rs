//! `waxwing module build`.
//!
//! Invariant: a module is copied only if it passes, and in one step, so the folder may be one that
//! a balancer watches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;
use waxwing_module_build::{Toolchain, find_toolchain};

use super::check;
use crate::query::print;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The folder of the crate.
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Copies NAME.wasm into this folder if it passes, for instance one that a balancer watches.
    /// Without it, the module stays in cargo's target folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    services: check::Services,
    /// Prints JSON: `passed`, `path`, and `module` or `error`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = find_toolchain()?;
    let package = Package::at(&toolchain, &arguments.path)?;
    eprintln!("building {} with {}", package.name, toolchain.name());
    let built = package.build(&toolchain)?;
    let outcome = arguments.services.check(&built);
    let path = match (&outcome, &arguments.out) {
        (Ok(_), Some(folder)) => put(&built, folder)?,
        _ => built,
    };
    if arguments.json {
        let mut verdict = check::verdict(&outcome);
        verdict["path"] = path.display().to_string().into();
        print(&(serde_json::to_string_pretty(&verdict)? + "\n"))?;
    } else if let Ok(report) = &outcome {
        print(&format!("{}\n{}", path.display(), check::text(report)))?;
    }
    outcome.map(|_| ()).map_err(Into::into)
}

/// A module's crate, from cargo's metadata.
struct Package {
    name: String,
    manifest: PathBuf,
    /// Its library's name, which is the module's.
    library: String,
    target: PathBuf,
}

impl Package {
    fn at(toolchain: &Toolchain, folder: &Path) -> Result<Self> {
        let manifest = folder.join("Cargo.toml");
        let manifest = manifest.canonicalize().with_context(|| {
            let path = manifest.display();
            format!("{path}; give the folder of a crate, or create one: waxwing module new NAME")
        })?;
        let output = Command::new(toolchain.cargo())
            .args(["metadata", "--no-deps", "--format-version=1"])
            .arg("--manifest-path")
            .arg(&manifest)
            .output()
            .with_context(|| format!("cannot run {}", toolchain.cargo().display()))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata = serde_json::from_slice(&output.stdout)
            .context("cannot parse the output of cargo metadata")?;
        Self::find(&metadata, manifest)
    }

    fn find(metadata: &Value, manifest: PathBuf) -> Result<Self> {
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let here =
            |package: &&Value| package["manifest_path"].as_str().map(Path::new) == Some(&manifest);
        let package = packages.clone().find(here).with_context(|| {
            let path = manifest.display();
            format!("{path} is the manifest of a workspace; give the folder of one of its crates")
        })?;
        let targets = package["targets"].as_array().into_iter().flatten();
        let is_module = |target: &&Value| {
            let kinds = target["kind"].as_array().into_iter().flatten();
            kinds.clone().any(|kind| kind == "cdylib")
        };
        let library = targets.clone().find(is_module).with_context(|| {
            let path = manifest.display();
            format!(
                "{path} builds no module: write `crate-type = [\"cdylib\", \"rlib\"]` under [lib]"
            )
        })?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            name: text(&package["name"]),
            library: text(&library["name"]).replace('-', "_"),
            target: PathBuf::from(text(&metadata["target_directory"])).join("waxwing"),
            manifest,
        })
    }

    fn build(&self, toolchain: &Toolchain) -> Result<PathBuf> {
        let modules = toolchain.build(&self.manifest, &[&self.name], &self.target)?;
        let module = modules
            .into_iter()
            .find(|module| module.name == self.library);
        let module = module.with_context(|| format!("cargo built no {}.wasm", self.library))?;
        Ok(module.path)
    }
}

/// Copies the module into a folder, in one step.
fn put(module: &Path, folder: &Path) -> Result<PathBuf> {
    let name = module.file_name().unwrap_or_default();
    let path = folder.join(name);
    let aside = folder.join(format!(
        ".{}.{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(module, &aside))
        .and_then(|_| fs::rename(&aside, &path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
