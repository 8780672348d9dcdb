//! Coverage-guided fuzzing by cargo-fuzz, on the stable toolchain: of the hot path, of the rings under
//! AddressSanitizer, and of the module loader; and the session table under Miri.
//!
//! Invariant: the committed corpus is only read. New inputs go to the target folder, where the next run
//! starts from them.

use std::process::Command;

use crate::run;

/// The version of cargo-fuzz to install if there is none.
const VERSION: &str = "0.13.2";

/// A crate whose folder `fuzz` has targets.
struct Fuzzed {
    folder: &'static str,
    targets: &'static [&'static str],
    /// Finds wrong use of memory: `address` for a crate with `unsafe` code, else `none`.
    sanitizer: &'static str,
    /// The longest input, in bytes.
    input_max: usize,
}

const CORE: Fuzzed = Fuzzed {
    folder: "runtime/dataplane",
    targets: &["any_bytes", "mutated", "sequence"],
    sanitizer: "none",
    // No target reads more.
    input_max: 300,
};

const RINGS: Fuzzed = Fuzzed {
    folder: "runtime/xdp",
    targets: &["rings"],
    sanitizer: "address",
    input_max: 300,
};

/// Builds the Wasm compiler with the fuzzer's instrumentation, which takes minutes.
const LOADER: Fuzzed = Fuzzed {
    folder: "runtime/plugin",
    targets: &["loader_bytes", "loader_smith"],
    sanitizer: "none",
    input_max: 4096,
};

/// Default time per target, in seconds.
const SECONDS: u64 = 600;

/// Runs `fuzz [--seconds N]`.
pub(crate) fn all(arguments: &[String]) -> Result<(), String> {
    let seconds = match arguments {
        [] => Some(SECONDS),
        [name, n] if name == "--seconds" => n.parse().ok(),
        _ => None,
    };
    let seconds = seconds.ok_or("usage: fuzz [--seconds N]")?;
    install()?;
    [CORE, RINGS, LOADER]
        .iter()
        .try_for_each(|it| it.run(seconds))?;
    miri()
}

/// Interprets the tests of the session table, which finds undefined behaviour; skipped without a nightly
/// toolchain that has Miri.
fn miri() -> Result<(), String> {
    if run::output("cargo", &["+nightly", "miri", "--version"]).is_none() {
        println!("   skipped: Miri; `rustup +nightly component add miri rust-src`");
        return Ok(());
    }
    run::step("interpreting the tests of the session table (Miri)");
    run::command(
        // By its name in `PATH`: only rustup's takes a toolchain.
        Command::new("cargo")
            .args(["+nightly", "miri", "test", "--package", "waxwing-dataplane"])
            // The statistics of the hash take hours so.
            .args(["--lib", "session::", "--", "--skip", "session::hash"])
            .current_dir(run::root())
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env("CARGO_TARGET_DIR", run::target().join("miri"))
            .env("MIRIFLAGS", "-Zmiri-disable-isolation")
            .env("PROPTEST_CASES", "4"),
    )
}

/// Fuzzes each target of the core and the rings for some seconds; skips if cargo-fuzz cannot be installed.
pub(crate) fn some(seconds: u64) -> Result<(), String> {
    if let Err(error) = install() {
        println!("   skipped: fuzzing, because cargo-fuzz cannot be installed here: {error}");
        return Ok(());
    }
    [CORE, RINGS].iter().try_for_each(|it| it.run(seconds))
}

fn install() -> Result<(), String> {
    if run::output("cargo-fuzz", &["--version"]).is_some() {
        return Ok(());
    }
    run::step("installing cargo-fuzz");
    run::cargo(&["install", "cargo-fuzz", "--locked", "--version", VERSION])
}

impl Fuzzed {
    fn run(&self, seconds: u64) -> Result<(), String> {
        self.targets.iter().try_for_each(|target| {
            run::step(&format!("fuzzing {target} for {seconds} s"));
            self.fuzz(target, seconds)
        })
    }

    /// Fuzzes one target. A finding is an error; cargo-fuzz prints the command that reproduces it.
    fn fuzz(&self, target: &str, seconds: u64) -> Result<(), String> {
        let crate_folder = run::root().join(self.folder);
        let build = run::target().join("fuzz");
        let corpus = build.join("corpus").join(target);
        std::fs::create_dir_all(&corpus)
            .map_err(|error| format!("{}: {error}", corpus.display()))?;
        run::command(
            Command::new(run::cargo_path())
                .args(["fuzz", "run", "--sanitizer", self.sanitizer, target])
                .args([corpus, crate_folder.join("fuzz/corpus").join(target)])
                .arg("--")
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-max_len={}", self.input_max))
                // Statistics only at the end.
                .args(["-verbosity=0", "-print_final_stats=1"])
                .current_dir(crate_folder)
                .env("CARGO_TARGET_DIR", build)
                // Sanitizers are not stable, but a stable compiler has them.
                .env("RUSTC_BOOTSTRAP", "1"),
        )
    }
}
