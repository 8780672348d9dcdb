//! Counts the instructions that a packet takes, by callgrind: a change shows its cost to the last
//! one, on any machine, however busy.
//!
//! Each case is a run of this program of its own under callgrind, which counts while [`counted`] runs
//! and not otherwise: frames are made, put in and taken out before and after. The figures are set beside
//! those kept in `benches/instructions.md`; `--keep` writes them there.
//!
//! Invariant: the same program counts the same. Keys, addresses, order and time are fixed.

mod case;
mod kept;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use case::{CASES, Case, PASS_THROUGH};
use kept::Figure;
use waxwing_report::{Table, output};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["--keep"] => compare(&[], true),
        ["--case", name] => run_case(name),
        _ => compare(&arguments, false),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts the cases whose names have one of these parts, and shows them beside the kept ones.
fn compare(parts: &[&str], keep: bool) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../instructions.md");
    let folder = out_folder()?;
    let wanted = |case: &&Case| {
        let named = parts.iter().any(|part| case.name.contains(part));
        parts.is_empty() || named || case.name == PASS_THROUGH
    };
    let counts: Vec<(&Case, u64)> = CASES
        .iter()
        .filter(wanted)
        .map(|case| Ok((case, count(case, &folder)?)))
        .collect::<Result<_, String>>()?;
    let figures = kept::figures(&counts);
    println!("{}", table(&figures, &kept::read(&path)));
    println!(
        "where they are: callgrind_annotate {}/WHAT.out",
        folder.display()
    );
    if keep {
        kept::write(&path, &figures).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("kept in benches/instructions.md");
    }
    Ok(())
}

fn table(figures: &[Figure], before: &[(String, u64)]) -> Table {
    let mut table = Table::new([
        "what",
        "instructions a packet",
        "kept",
        "difference",
        "its own",
    ]);
    for figure in figures {
        let kept = before.iter().find(|(name, _)| name == figure.name);
        let (kept, difference) = kept.map_or((String::new(), String::new()), |(_, kept)| {
            let difference = i128::from(figure.in_all) - i128::from(*kept);
            (kept.to_string(), format!("{difference:+}"))
        });
        table.row([
            figure.name.to_owned(),
            figure.in_all.to_string(),
            kept,
            difference,
            figure.own.map_or(String::new(), |own| own.to_string()),
        ]);
    }
    table
}

/// Where callgrind's own files go, for a look at what is behind a figure.
fn out_folder() -> Result<PathBuf, String> {
    let target = output::target().map_err(|error| error.to_string())?;
    let folder = target.join("bench/instructions");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// The instructions of one case, in all.
fn count(case: &Case, folder: &Path) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = folder.join(format!("{}.out", case.name));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=no"])
        .arg("--toggle-collect=*waxwing_instructions*counted*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["--case", case.name])
        .stdout(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind did not start: {error}; apt-get install valgrind"))?;
    if !run.status.success() {
        let said = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{} failed under valgrind:\n{said}", case.name));
    }
    let text =
        std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
        .ok_or_else(|| format!("{} has no totals", out.display()))
}

/// Within callgrind.
fn run_case(name: &str) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.name == name);
    case.ok_or_else(|| format!("no case {name}"))?
        .run()
        .map_err(|error| error.to_string())
}

/// What callgrind counts: this function, and all that it calls.
#[inline(never)]
pub(crate) fn counted<R>(work: impl FnOnce() -> R) -> R {
    std::hint::black_box(work())
}
