//! The result directory of a bench.
//!
//! Invariant: each bench has one directory, `target/bench/NAME`. A run empties it first, so all files in it
//! are of the same run.

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::about::About;
use crate::table::Table;

/// Returns Cargo's target directory: this program is in `target/PROFILE`.
pub fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).map(Path::to_owned);
    target.ok_or_else(|| {
        Error::other(format!(
            "{} is not in a target directory",
            program.display()
        ))
    })
}

/// A bench's result directory, and its page so far.
pub struct Output {
    name: String,
    directory: PathBuf,
    about: About,
    page: String,
}

/// The content of the JSON file.
#[derive(Serialize)]
struct Figures<'a, T> {
    about: &'a About,
    figures: &'a T,
}

impl Output {
    /// Creates or empties the directory `bench/NAME` in `target`. The page starts with `title` and the run's
    /// origin.
    pub fn begin(target: &Path, name: &str, title: &str) -> Result<Self> {
        let directory = target.join("bench").join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(|error| at(&directory, &error))?;
        }
        fs::create_dir_all(&directory).map_err(|error| at(&directory, &error))?;
        let about = About::this(name);
        Ok(Self {
            name: name.to_owned(),
            directory,
            page: format!("# {title}\n\n{about}\n"),
            about,
        })
    }

    /// Prints a paragraph or heading, and adds it to the page.
    pub fn say(&mut self, text: &str) {
        println!("\n{text}");
        self.page.push('\n');
        self.page.push_str(text);
        self.page.push('\n');
    }

    /// Prints a table, and adds it to the page.
    pub fn table(&mut self, table: &Table) {
        self.say(table.to_string().trim_end());
    }

    /// Writes a chart to `CHART.svg`, and adds it to the page.
    pub fn chart(&mut self, chart: &str, title: &str, svg: &str) -> Result<()> {
        let file = format!("{chart}.svg");
        self.write(&file, svg)?;
        self.page.push_str(&format!("\n![{title}]({file})\n"));
        Ok(())
    }

    /// Writes the page to `NAME.md`, the run's origin and all figures to `NAME.json`, and prints their
    /// directory.
    pub fn end(self, figures: &impl Serialize) -> Result<PathBuf> {
        let about = &self.about;
        let json =
            serde_json::to_string_pretty(&Figures { about, figures }).map_err(Error::other)?;
        self.write(&format!("{}.json", self.name), &(json + "\n"))?;
        self.write(&format!("{}.md", self.name), &self.page)?;
        println!("\nwritten to {}", self.directory.display());
        Ok(self.directory)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, text).map_err(|error| at(&path, &error))
    }
}

fn at(path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::Spread;

    #[test]
    fn a_run_writes_page_charts_and_figures_and_removes_those_of_the_run_before() {
        let target = tempfile::tempdir().unwrap();
        for run in ["first", "second"] {
            let mut output = Output::begin(target.path(), "cost", "Cost").unwrap();
            output.say("Of one run.");
            output.chart(run, "All of it", "<svg/>").unwrap();
            output.end(&Spread::exact(2.0)).unwrap();
        }
        let directory = target.path().join("bench/cost");
        let mut files: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        files.sort();
        assert_eq!(files, ["cost.json", "cost.md", "second.svg"]);
        let page = fs::read_to_string(directory.join("cost.md")).unwrap();
        let rest = page.strip_prefix("# Cost\n\n").unwrap();
        let (about, rest) = rest.split_once('\n').unwrap();
        assert!(about.contains("cargo xtask bench cost"), "{about}");
        assert_eq!(rest, "\nOf one run.\n\n![All of it](second.svg)\n");
        let json = fs::read_to_string(directory.join("cost.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            json["about"]["date"].as_str(),
            about.get(.."2026-11-23 17:09 UTC".len())
        );
        assert_eq!(json["figures"], serde_json::json!(Spread::exact(2.0)));
    }
}
