//! Where a bench leaves what it measured.
//!
//! Invariant: one folder for each bench, `target/bench/NAME`, which a run begins anew, so that no
//! file in it is of another run.

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::about::About;
use crate::table::Table;

/// Cargo's target folder, of the program that runs: it lies in `target/PROFILE`.
///
/// # Errors
/// The program has no path, or none so deep.
pub fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).map(Path::to_owned);
    target.ok_or_else(|| Error::other(format!("{} is in no target folder", program.display())))
}

/// A bench's folder, and its page as far as it is written.
pub struct Output {
    name: String,
    folder: PathBuf,
    about: About,
    page: String,
}

/// What is in the JSON.
#[derive(Serialize)]
struct Figures<'a, T> {
    about: &'a About,
    figures: &'a T,
}

impl Output {
    /// The folder `bench/NAME` under this one, emptied. The page opens with `title`, and with what the run
    /// is of.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn begin(target: &Path, name: &str, title: &str) -> Result<Self> {
        let folder = target.join("bench").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        }
        fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        let about = About::this(name);
        Ok(Self {
            name: name.to_owned(),
            folder,
            page: format!("# {title}\n\n{about}\n"),
            about,
        })
    }

    /// Prints a paragraph (or a heading), and adds it to the page.
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

    /// Writes a chart to `CHART.svg`, and shows it on the page under its title.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn chart(&mut self, chart: &str, title: &str, svg: &str) -> Result<()> {
        let file = format!("{chart}.svg");
        self.write(&file, svg)?;
        self.page.push_str(&format!("\n![{title}]({file})\n"));
        Ok(())
    }

    /// Writes the page to `NAME.md`, what the run is of and all figures to `NAME.json`, and says where
    /// they are.
    ///
    /// # Errors
    /// A file cannot be written, or a figure is none that JSON has.
    pub fn end(self, figures: &impl Serialize) -> Result<PathBuf> {
        let about = &self.about;
        let json =
            serde_json::to_string_pretty(&Figures { about, figures }).map_err(Error::other)?;
        self.write(&format!("{}.json", self.name), &(json + "\n"))?;
        self.write(&format!("{}.md", self.name), &self.page)?;
        println!("\nwritten to {}", self.folder.display());
        Ok(self.folder)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
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
    fn a_run_leaves_its_page_its_charts_and_its_figures_and_nothing_of_the_run_before() {
        let target = tempfile::tempdir().unwrap();
        for run in ["first", "second"] {
            let mut output = Output::begin(target.path(), "cost", "Cost").unwrap();
            output.say("Of one run.");
            output.chart(run, "All of it", "<svg/>").unwrap();
            output.end(&Spread::exact(2.0)).unwrap();
        }
        let folder = target.path().join("bench/cost");
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        files.sort();
        assert_eq!(files, ["cost.json", "cost.md", "second.svg"]);
        let page = fs::read_to_string(folder.join("cost.md")).unwrap();
        let rest = page.strip_prefix("# Cost\n\n").unwrap();
        let (about, rest) = rest.split_once('\n').unwrap();
        assert!(about.contains("cargo xtask bench cost"), "{about}");
        assert_eq!(rest, "\nOf one run.\n\n![All of it](second.svg)\n");
        let json = fs::read_to_string(folder.join("cost.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            json["about"]["date"].as_str(),
            about.get(.."2026-11-23 17:09 UTC".len())
        );
        assert_eq!(json["figures"], serde_json::json!(Spread::exact(2.0)));
    }
}
