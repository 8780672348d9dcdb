//! Counts the instructions per packet by callgrind: the exact cost of a change, on any machine under any
//! load.
//!
//! Each case is a run of this program under callgrind, which counts only while `case::counted` runs; frames
//! are made, injected and removed outside it. The result is compared with the figures kept in
//! `benches/instructions.md`; `--keep` replaces those.
//!
//! Invariant: the same program yields the same counts. Keys, addresses, order and time are fixed.

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

/// Checks that each of `parts` is part of a case's name.
fn check(parts: &[&str]) -> Result<(), String> {
    if parts.contains(&"--keep") {
        return Err("--keep replaces the whole kept table: run it without PART".to_owned());
    }
    let is_none = |part: &&&str| !CASES.iter().any(|case| case.name.contains(**part));
    match parts.iter().find(is_none) {
        None => Ok(()),
        Some(part) => {
            let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            let names = names.join(", ");
            Err(format!(
                "no case has `{part}` in its name; the cases are {names}"
            ))
        }
    }
}

/// Counts the cases whose names contain one of `parts` (all if empty), and prints them beside the kept
/// figures.
fn compare(parts: &[&str], keep: bool) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../instructions.md");
    let directory = out_directory()?;
    let is_selected = |case: &&Case| {
        let named = parts.iter().any(|part| case.name.contains(part));
        parts.is_empty() || named || case.name == PASS_THROUGH
    };
    let counts: Vec<(&Case, u64)> = CASES
        .iter()
        .filter(is_selected)
        .map(|case| Ok((case, count(case, &directory)?)))
        .collect::<Result<_, String>>()?;
    let figures = kept::figures(&counts);
    println!("{}", table(&figures, &kept::read(&path)));
    let passes = passes_of(&counts, &directory)?;
    println!("{passes}");
    println!(
        "details: callgrind_annotate {}/CASE.out",
        directory.display()
    );
    if keep {
        kept::write(&path, &figures, &passes)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("kept in benches/instructions.md");
    }
    Ok(())
}

/// One case's instructions by pass, if it was counted.
fn passes_of(counts: &[(&Case, u64)], directory: &Path) -> Result<String, String> {
    let Some((case, _)) = counts.iter().find(|(case, _)| case.name == passes::CASE) else {
        return Ok(String::new());
    };
    let text = read(&out_file(case, directory))?;
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

/// The directory of callgrind's output files.
fn out_directory() -> Result<PathBuf, String> {
    let target = output::target().map_err(|error| error.to_string())?;
    let directory = target.join("bench/instructions");
    std::fs::create_dir_all(&directory)
        .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    Ok(directory)
}

/// The pattern of the function that callgrind counts: `case::counted`.
const TOGGLE: &str = "*waxwing_instructions*counted*";

/// Counts all instructions of a case.
fn count(case: &Case, directory: &Path) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = out_file(case, directory);
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=no"])
        .arg(format!("--toggle-collect={TOGGLE}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["--case", case.name])
        .stdout(Stdio::null())
        .output()
        .map_err(|error| {
            format!("cannot start valgrind: {error}; install it by `apt-get install valgrind`")
        })?;
    if !run.status.success() {
        let stderr = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{} failed under valgrind:\n{stderr}", case.name));
    }
    total(&read(&out)?).map_err(|error| format!("{}: {error}", out.display()))
}

fn out_file(case: &Case, directory: &Path) -> PathBuf {
    directory.join(format!("{}.out", case.name))
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// Parses the total of callgrind's output.
fn total(text: &str) -> Result<u64, String> {
    let total = |line: &str| line.strip_prefix("totals: ")?.trim().parse().ok();
    match text.lines().find_map(total) {
        None => {
            Err("no totals found: is this the output of another version of valgrind?".to_owned())
        }
        Some(0) => Err(format!(
            "nothing was counted: no function matches `{TOGGLE}`. Check whether `counted` was inlined \
             or renamed, and adapt TOGGLE"
        )),
        Some(total) => Ok(total),
    }
}

/// Runs a case; called under callgrind.
fn run_case(name: &str) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.name == name);
    case.ok_or_else(|| format!("there is no case `{name}`"))?
        .run()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{CASES, check, total};

    #[test]
    fn an_unknown_part_is_rejected_with_a_list_of_cases() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["hit", CASES[1].name]), Ok(()));
        let error = check(&["hit", "hti"]).expect_err("no case");
        assert!(error.contains("`hti`"), "{error}");
        assert!(CASES.iter().all(|case| error.contains(case.name)));
    }

    #[test]
    fn keep_with_a_part_is_rejected() {
        let error = check(&["hit", "--keep"]).expect_err("refused");
        assert!(error.contains("without PART"), "{error}");
    }

    #[test]
    fn a_total_of_zero_or_none_is_an_error() {
        assert_eq!(total("events: Ir\ntotals: 1234\n"), Ok(1234));
        assert!(total("totals: 0\n").is_err_and(|error| error.contains("nothing was counted")));
        assert!(total("events: Ir\n").is_err());
    }
}
