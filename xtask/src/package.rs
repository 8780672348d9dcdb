//! The Debian package: a staged tree that `dpkg-deb` packs.
//!
//! Invariant: what the program itself can tell (manual pages, completions) it writes itself, and the
//! libraries that it needs are read from it. The same sources, tools and time of the commit give the same
//! package.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arm64::{self, Libraries};
use crate::run::entries;
use crate::{packages, run, setup};

/// Copied from the sources: from, to.
const FILES: &[(&str, &str)] = &[
    (
        "packaging/waxwing.service",
        "usr/lib/systemd/system/waxwing.service",
    ),
    ("packaging/sysusers.conf", "usr/lib/sysusers.d/waxwing.conf"),
    ("packaging/waxwing.toml", "etc/waxwing/waxwing.toml"),
    ("docs/operating.md", "usr/share/doc/waxwing/operating.md"),
    ("docs/authoring.md", "usr/share/doc/waxwing/authoring.md"),
    ("examples/full.toml", "usr/share/doc/waxwing/full.toml"),
    (
        "examples/transparent.toml",
        "usr/share/doc/waxwing/transparent.toml",
    ),
];

/// What `waxwing package-files` writes: from, to.
const COMPLETIONS: &[(&str, &str)] = &[
    (
        "waxwing.bash",
        "usr/share/bash-completion/completions/waxwing",
    ),
    (
        "waxwing.fish",
        "usr/share/fish/vendor_completions.d/waxwing.fish",
    ),
    ("_waxwing", "usr/share/zsh/vendor-completions/_waxwing"),
];

/// The package's scripts.
const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];

/// Where the SDK's sources are installed; `waxwing module new` looks for them there.
const SDK: &str = "usr/share/waxwing/sdk";

/// How well a package is compressed.
#[derive(Clone, Copy)]
pub(crate) enum Speed {
    /// For a test.
    Fast,
    /// For others.
    Small,
}

/// `package [--binary PATH] [--target arm64]`.
pub(crate) fn command(arguments: &[String]) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let package = match arguments.as_slice() {
        [] => {
            setup::debian(packages::BUILD)?;
            run::step("building the balancer in release mode");
            run::cargo(&["build", "--release", "--locked", "--package", "waxwing"])?;
            build(&run::target().join("release/waxwing"), Speed::Small)?
        }
        ["--binary", path] => build(Path::new(path), Speed::Small)?,
        ["--target", "arm64"] => {
            setup::debian(packages::BUILD)?;
            let libraries = Libraries::fetch()?;
            let program = arm64::build(&libraries)?;
            build_for(&program, Speed::Small, Some(&libraries))?
        }
        _ => {
            return Err("usage: cargo xtask package [--binary PATH | --target arm64]".to_owned());
        }
    };
    println!("\n   {}", package.display());
    Ok(())
}

/// Packs a program with what belongs to it, and returns the package.
pub(crate) fn build(program: &Path, speed: Speed) -> Result<PathBuf, String> {
    build_for(program, speed, None)
}

/// As [`build`]; a program for ARM64 needs the libraries of that.
fn build_for(program: &Path, speed: Speed, arm64: Option<&Libraries>) -> Result<PathBuf, String> {
    run::step("packing the Debian package");
    let folder = run::target().join("package");
    let stage = Stage::new(folder.join("stage"))?;
    let installed = stage.put(program, "usr/bin/waxwing")?;
    let architecture = architecture(&installed)?;
    // Symbols stay, for the backtraces of panics.
    let strip = arm64.map_or("strip", |_| "aarch64-linux-gnu-strip");
    run::command(Command::new(strip).arg("--strip-debug").arg(&installed))?;
    mode(&installed, 0o755)?;
    for (from, to) in FILES {
        stage.put(&run::root().join(from), to)?;
    }
    make(&stage.at("etc/waxwing/modules"))?;
    let emulated = arm64.map(|libraries| libraries.emulate(program));
    let describing = emulated.unwrap_or_else(|| Command::new(program));
    describe(&stage, describing, &folder.join("described"))?;
    legal(&stage)?;
    sdk(&stage)?;

    let depends = libraries(&folder.join("libraries"), &installed, arm64)?;
    let version = env!("CARGO_PKG_VERSION");
    control(&stage, version, architecture, &depends)?;
    let package = folder.join(format!("waxwing_{version}_{architecture}.deb"));
    let mut pack = Command::new("dpkg-deb");
    if let Speed::Fast = speed {
        pack.arg("-z1");
    }
    pack.args(["--root-owner-group", "--build"])
        .arg(&stage.root)
        .arg(&package);
    if let Some(time) = time_of_sources() {
        pack.env("SOURCE_DATE_EPOCH", time);
    }
    run::command(&mut pack)?;
    Ok(package)
}

/// The tree of the package, empty at first.
struct Stage {
    root: PathBuf,
}

impl Stage {
    fn new(root: PathBuf) -> Result<Self, String> {
        empty(&root)?;
        Ok(Self { root })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Copies a file, readable for everybody, and returns its place.
    fn put(&self, from: &Path, to: &str) -> Result<PathBuf, String> {
        let to = self.at(to);
        make(to.parent().unwrap_or(&self.root))?;
        fs::copy(from, &to).map_err(|error| {
            format!(
                "cannot copy {} to {}: {error}",
                from.display(),
                to.display()
            )
        })?;
        mode(&to, 0o644)?;
        Ok(to)
    }

    fn write(&self, path: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.at(path);
        make(path.parent().unwrap_or(&self.root))?;
        fs::write(&path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        mode(&path, 0o644)?;
        Ok(path)
    }
}

/// Adds the manual pages and completions, which the program writes.
fn describe(stage: &Stage, mut program: Command, work: &Path) -> Result<(), String> {
    empty(work)?;
    run::command(program.arg("package-files").arg(work))?;
    for (from, to) in COMPLETIONS {
        stage.put(&work.join("completions").join(from), to)?;
    }
    let schema = work.join("waxwing.schema.json");
    stage.put(&schema, "usr/share/waxwing/waxwing.schema.json")?;
    let mut pages = Vec::new();
    for page in entries(&work.join("man1"))? {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        pages.push(stage.put(&page, &format!("usr/share/man/man1/{name}"))?);
    }
    compress(&pages)
}

/// Adds the licences and the list of changes.
fn legal(stage: &Stage) -> Result<(), String> {
    let read = |path: &str| {
        fs::read_to_string(run::root().join(path)).map_err(|error| format!("{path}: {error}"))
    };
    // The format wants a continued field indented, and its empty lines as dots.
    let licence = read("LICENSE-MIT")?
        .lines()
        .map(|line| format!(" {}\n", if line.is_empty() { "." } else { line }))
        .collect::<String>();
    let copyright = read("packaging/debian/copyright")? + &licence;
    stage.write("usr/share/doc/waxwing/copyright", &copyright)?;
    compress(&[stage.write("usr/share/doc/waxwing/changelog", &read("CHANGELOG.md")?)?])
}

/// Adds the SDK's sources as cargo would publish them: a crate that needs no workspace.
fn sdk(stage: &Stage) -> Result<(), String> {
    run::cargo(&[
        "package",
        "--package",
        "waxwing-sdk",
        "--no-verify",
        "--allow-dirty",
        "--quiet",
    ])?;
    let name = format!("package/waxwing-sdk-{}.crate", env!("CARGO_PKG_VERSION"));
    make(&stage.at(SDK))?;
    run::command(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--no-same-owner"])
            .args(["--exclude=Cargo.lock", "--exclude=Cargo.toml.orig"])
            .args([
                "--exclude=.cargo_vcs_info.json",
                "--exclude=tests",
                "--file",
            ])
            .arg(run::target().join(name))
            .arg("--directory")
            .arg(stage.at(SDK)),
    )
}

/// Writes what `dpkg` reads.
fn control(stage: &Stage, version: &str, architecture: &str, depends: &str) -> Result<(), String> {
    let from = run::root().join("packaging/debian");
    let template = fs::read_to_string(from.join("control"))
        .map_err(|error| format!("packaging/debian/control: {error}"))?;
    let size = run::output(
        "du",
        &["--summarize", "-k", &stage.root.display().to_string()],
    );
    let kibibytes = size
        .as_deref()
        .and_then(|text| text.split_whitespace().next());
    let text = template
        .replace("{{version}}", version)
        .replace("{{architecture}}", architecture)
        .replace("{{depends}}", depends)
        .replace("{{kibibytes}}", kibibytes.ok_or("`du` failed")?);
    stage.write("DEBIAN/control", &text)?;
    stage.put(&from.join("conffiles"), "DEBIAN/conffiles")?;
    for script in SCRIPTS {
        let script = stage.put(&from.join(script), &format!("DEBIAN/{script}"))?;
        mode(&script, 0o755)?;
    }
    Ok(())
}

/// Returns the packages of the program's shared libraries, with their versions.
fn libraries(work: &Path, program: &Path, arm64: Option<&Libraries>) -> Result<String, String> {
    // The tool wants the control file of a source package.
    let source = work.join("debian/control");
    empty(&work.join("debian"))?;
    fs::write(
        &source,
        "Source: waxwing\n\nPackage: waxwing\nArchitecture: any\n",
    )
    .map_err(|error| format!("cannot write {}: {error}", source.display()))?;
    let mut search = Command::new("dpkg-shlibdeps");
    search.args(["-O", "-e"]).arg(program).current_dir(work);
    if let Some(libraries) = arm64 {
        let folders = libraries.packages()?;
        let folders = folders
            .iter()
            .map(|folder| format!("-S{}", folder.display()));
        search.args(folders).env("DEB_HOST_ARCH", "arm64");
    }
    let output = search
        .output()
        .map_err(|error| format!("`dpkg-shlibdeps` (package dpkg-dev) did not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.trim().strip_prefix("shlibs:Depends=");
    found
        .filter(|_| output.status.success())
        .map(str::to_owned)
        .ok_or_else(|| {
            let why = String::from_utf8_lossy(&output.stderr);
            format!("`dpkg-shlibdeps` failed: {}", why.trim())
        })
}

/// Returns Debian's name for the processor that a program is for.
fn architecture(program: &Path) -> Result<&'static str, String> {
    let bytes = fs::read(program).map_err(|error| format!("{}: {error}", program.display()))?;
    // `e_machine` of the ELF header, elf(5).
    match bytes.get(18..20) {
        Some([62, 0]) => Ok("amd64"),
        Some([183, 0]) => Ok("arm64"),
        _ => Err(format!(
            "{} is a program for neither x86-64 nor ARM64",
            program.display()
        )),
    }
}

/// Returns the time that the package's files get, in seconds since 1970: that of the commit, unless
/// `SOURCE_DATE_EPOCH` is set.
fn time_of_sources() -> Option<String> {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let root = run::root().display().to_string();
    let commit = || run::output("git", &["-C", &root, "log", "-1", "--format=%ct"]);
    given.or_else(commit).map(|time| time.trim().to_owned())
}

fn compress(files: &[PathBuf]) -> Result<(), String> {
    run::command(
        Command::new("gzip")
            .args(["--no-name", "--best"])
            .args(files),
    )
}

/// Makes a folder, or removes what is in it.
fn empty(folder: &Path) -> Result<(), String> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .map_err(|error| format!("cannot remove {}: {error}", folder.display()))?;
    }
    make(folder)
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

fn mode(path: &Path, mode: u32) -> Result<(), String> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| format!("cannot change the mode of {}: {error}", path.display()))
}
