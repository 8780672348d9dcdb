//! Runs other programs. Each is printed before it runs, and named in the error if it fails.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Prints a heading.
pub(crate) fn step(what: &str) {
    println!("\n=> {what}");
}

/// Runs a command to its end.
pub(crate) fn command(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    println!("   {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` ended with {status}")),
        Err(error) => Err(format!("`{shown}` did not start: {error}")),
    }
}

/// Runs a command to its end, and prints its output then. So lines of several commands do not mix.
pub(crate) fn captured(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    let output = command
        .output()
        .map_err(|error| format!("`{shown}` did not start: {error}"))?;
    let mut text = format!("   {shown}\n").into_bytes();
    text.extend(&output.stdout);
    text.extend(&output.stderr);
    // What a closed standard output loses, nobody reads.
    let _ = std::io::stdout().lock().write_all(&text);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("`{shown}` ended with {}", output.status))
    }
}

/// Runs the cargo that runs us, in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Result<(), String> {
    command(
        Command::new(cargo_path())
            .args(arguments)
            .current_dir(root()),
    )
}

/// Builds the whole workspace. Another selection of packages would unify features differently, and cargo
/// would build the Wasm compiler again.
pub(crate) fn build() -> Result<(), String> {
    cargo(&["build", "--workspace"])
}

/// The cargo that runs us.
pub(crate) fn cargo_path() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Returns what is in a folder, in order.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Returns a program built in the dev profile.
pub(crate) fn built(name: &str) -> Result<PathBuf, String> {
    let path = target().join("debug").join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!(
            "{} does not exist although its build succeeded",
            path.display()
        ))
    }
}

/// Runs a program with the rights that namespaces and AF_XDP need.
pub(crate) fn as_root<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> Result<(), String> {
    let mut call = if is_root() {
        Command::new(program)
    } else if sudo_works() {
        let mut sudo = Command::new("sudo");
        sudo.arg("--preserve-env").arg(program);
        sudo
    } else {
        let program = program.display();
        return Err(format!(
            "network namespaces and AF_XDP need root, and sudo asks for a password or is missing; \
             run this as root, or: sudo {program}"
        ));
    };
    command(call.args(arguments).current_dir(root()))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    output("id", &["-u"]).is_some_and(|id| id.trim() == "0")
}

/// Whether sudo runs commands without asking.
pub(crate) fn sudo_works() -> bool {
    output("sudo", &["-n", "true"]).is_some()
}

/// Returns what a program prints, or `None` if it fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
