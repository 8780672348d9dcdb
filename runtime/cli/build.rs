//! Compiles the shipped policies to Wasm and embeds them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

/// The policies that a config may name without a folder of modules.
const SHIPPED: &[&str] = &[
    "waxwing-policy-round-robin",
    "waxwing-policy-least-connections",
    "waxwing-policy-maglev",
];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let workspace = here.ancestors().nth(2).unwrap_or(Path::new("."));
    if let Err(error) =
        waxwing_module_build::embed(&workspace.join("Cargo.toml"), SHIPPED, &out_dir)
    {
        eprintln!("the shipped policies could not be compiled to Wasm: {error}");
        exit(1);
    }
}
