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
mod passes;

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
        _ => check(&arguments).and_then(|()| compare(&arguments, false)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether each of these is part of a case's name.
fn check(parts: &[&str]) -> Result<(), String> {
    if parts.contains(&"--keep") {
        return Err("--keep replaces all that is kept: run it without PART".to_owned());
    }
    let is_none = |part: &&&str| !CASES.iter().any(|case| case.name.contains(**part));
    match parts.iter().find(is_none) {
        None => Ok(()),
        Some(part) => {
            let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            let names = names.join(", ");
            Err(format!(
                "no case has `{part}` in its name; there are {names}"
            ))
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
    let passes = passes_of(&counts, &folder)?;
    println!("{passes}");
    println!(
        "where they are: callgrind_annotate {}/WHAT.out",
        folder.display()
    );
    if keep {
        kept::write(&path, &figures, &passes)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("kept in benches/instructions.md");
    }
    Ok(())
}

/// Where the instructions of one case are, if it was counted.
fn passes_of(counts: &[(&Case, u64)], folder: &Path) -> Result<String, String> {
    let Some((case, _)) = counts.iter().find(|(case, _)| case.name == passes::CASE) else {
        return Ok(String::new());
    };
    let text = read(&out_file(case, folder))?;
    let mut table = Table::new([passes::CASE, "in all"]);
    for (pass, count) in passes::of(&text) {
        let packets = case.packets();
        table.row([
            pass.to_owned(),
            ((count + packets / 2) / packets).to_string(),
        ]);
    }
    Ok(table.to_string())
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

/// What callgrind counts within, by its name in the program: [`counted`].
const TOGGLE: &str = "*waxwing_instructions*counted*";

/// The instructions of one case, in all.
fn count(case: &Case, folder: &Path) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = out_file(case, folder);
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=no"])
        .arg(format!("--toggle-collect={TOGGLE}"))
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
    total(&read(&out)?).map_err(|error| format!("{}: {error}", out.display()))
}

fn out_file(case: &Case, folder: &Path) -> PathBuf {
    folder.join(format!("{}.out", case.name))
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// The total that callgrind has written.
fn total(text: &str) -> Result<u64, String> {
    let total = |line: &str| line.strip_prefix("totals: ")?.trim().parse().ok();
    match text.lines().find_map(total) {
        None => Err("there are no totals in it: is it of another version of valgrind?".to_owned()),
        Some(0) => Err(format!(
            "nothing was counted: no function has a name like `{TOGGLE}`; see whether `counted` is \
             inlined or has another name, and set TOGGLE by it"
        )),
        Some(total) => Ok(total),
    }
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

#[cfg(test)]
mod tests {
    use super::{CASES, check, total};

    #[test]
    fn a_part_that_names_no_case_is_refused_with_the_cases() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["hit", CASES[1].name]), Ok(()));
        let error = check(&["hit", "hti"]).expect_err("no case");
        assert!(error.contains("`hti`"), "{error}");
        assert!(CASES.iter().all(|case| error.contains(case.name)));
    }

    #[test]
    fn a_part_is_not_kept() {
        let error = check(&["hit", "--keep"]).expect_err("refused");
        assert!(error.contains("without PART"), "{error}");
    }

    #[test]
    fn nothing_counted_is_an_error() {
        assert_eq!(total("events: Ir\ntotals: 1234\n"), Ok(1234));
        assert!(total("totals: 0\n").is_err_and(|error| error.contains("nothing was counted")));
        assert!(total("events: Ir\n").is_err());
    }
}
