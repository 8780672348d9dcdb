//! Compiles C for the BPF target, for the build scripts of this package and of `benches/peers`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Compiles `source` with clang to `object` in `OUT_DIR`. On failure ends the build, with the packages to
/// install.
pub(crate) fn compile(source: &str, object: &str) {
    // Its folder: headers beside it too.
    let folder = Path::new(source).parent().unwrap_or(Path::new("."));
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let object = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(object);

    // The BPF target does not search the architecture's directory, in which Debian has <asm/types.h>.
    let headers = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    if Path::new(&headers).is_dir() {
        command.arg("-I").arg(&headers);
    }
    let output = command.args(["-c", source, "-o"]).arg(&object).output();
    let message = match output {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => format!("cannot run `{clang}`: {error}"),
    };
    eprintln!(
        "{message}\n{source} did not compile for BPF. On Debian or Ubuntu, install the packages it needs:\n\
         \n    apt-get install clang libbpf-dev linux-libc-dev\n"
    );
    exit(1);
}
