//! Coverage-guided fuzzing by cargo-fuzz, on the stable toolchain: of the hot path, of the rings, and of the
//! module loader.
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
    /// The longest input, in bytes.
    input_max: usize,
}

const CORE: Fuzzed = Fuzzed {
    folder: "runtime/dataplane",
    targets: &["any_bytes", "mutated", "sequence"],
    // No target reads more.
    input_max: 300,
};

const RINGS: Fuzzed = Fuzzed {
    folder: "runtime/xdp",
    targets: &["rings"],
    input_max: 300,
};

/// Builds the Wasm compiler with the fuzzer's instrumentation, which takes minutes.
const LOADER: Fuzzed = Fuzzed {
    folder: "runtime/plugin",
    targets: &["loader_bytes", "loader_smith"],
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
        .try_for_each(|it| it.run(seconds))
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
                // Sanitizers need a nightly compiler, and only find bugs in `unsafe` code.
                .args(["fuzz", "run", "--sanitizer", "none", target])
                .args([corpus, crate_folder.join("fuzz/corpus").join(target)])
                .arg("--")
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-max_len={}", self.input_max))
                // Statistics only at the end.
                .args(["-verbosity=0", "-print_final_stats=1"])
                .current_dir(crate_folder)
                .env("CARGO_TARGET_DIR", build),
        )
    }
}
