//! From a file to a [`Config`].

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::added::AddedBackends;
use super::check;
use super::model::Config;
use super::problem::{ConfigErrors, Problem, Problems, Severity, SourceText, into_warnings};
use super::sections;

/// Maximum size of a config file, in bytes: about 100,000 services.
const FILE_MAX: u64 = 64 << 20;

impl Config {
    /// Reads and checks a file. Returns the config and its warnings.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<(Self, Vec<Problem>), ConfigErrors> {
        Self::read_file(path)?.finish()
    }

    /// Reads and checks a text. Problems name `path`; relative paths in the config start from its
    /// folder.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<Problem>), ConfigErrors> {
        Self::read(text, path).finish()
    }

    /// Reads a file. The caller may add problems before [`ParsedConfig::finish`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_file(path: &Path) -> Result<ParsedConfig, ConfigErrors> {
        Self::read_file_with(path, |_| AddedBackends::default())
    }

    /// Like [`Config::read_file`], with the backends that `added` returns for the config of the file.
    pub(crate) fn read_file_with(
        path: &Path,
        added: impl FnOnce(&Self) -> AddedBackends,
    ) -> Result<ParsedConfig, ConfigErrors> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| {
                let text = format!(
                    "cannot read the config: {error}; pass the path of a readable file as `--config`"
                );
                Problem::whole_file(path, text)
            })?;
        if bytes.len() as u64 > FILE_MAX {
            let max = FILE_MAX >> 20;
            let text = format!("the file is larger than {max} MiB; is it a Waxwing config?");
            return Err(Problem::whole_file(path, text).into());
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = std::str::from_utf8(&bytes) {
            let at = error.valid_up_to();
            let problem = Problem::at(
                &SourceText::new(path, &text),
                Severity::Error,
                (at..at).into(),
                "this byte is not UTF-8; save the file in UTF-8",
            );
            return Err(problem.into());
        }
        Ok(Self::read_with(&text, path, added))
    }

    /// Reads a text. The caller may add problems before [`ParsedConfig::finish`].
    #[must_use]
    pub fn read(text: &str, path: &Path) -> ParsedConfig {
        Self::read_with(text, path, |_| AddedBackends::default())
    }

    /// Like [`Config::read`], with the backends that `added` returns for the config of the text.
    pub(crate) fn read_with(
        text: &str,
        path: &Path,
        added: impl FnOnce(&Self) -> AddedBackends,
    ) -> ParsedConfig {
        let mut problems = Problems::new(&Arc::new(SourceText::new(path, text)));
        let mut config = sections::read(&mut problems);
        if let Some(config) = &mut config {
            let added = added(config);
            config.admit(added, &mut problems);
            check::check(config, &mut problems);
        }
        ParsedConfig {
            config: config.unwrap_or_else(|| sections::defaults(&problems.source)),
            problems: problems.list,
        }
    }
}

/// A config that may have errors, and the problems found so far. Invalid entries are left out of
/// the config, so that checks of the system can run on the rest and all problems print together.
#[derive(Debug)]
pub struct ParsedConfig {
    config: Config,
    problems: Vec<Problem>,
}

impl ParsedConfig {
    /// Returns the config without its invalid entries.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds problems found by checks of the system (see [`Config::error_at`]).
    pub fn add(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.problems.extend(problems);
    }

    /// Returns whether a problem so far is an error.
    pub(crate) fn is_refused(&self) -> bool {
        let is_error = |problem: &Problem| problem.severity == Severity::Error;
        self.problems.iter().any(is_error)
    }

    /// Returns the config and its warnings.
    ///
    /// # Errors
    /// All problems, if at least one is an error.
    pub fn finish(self) -> Result<(Config, Vec<Problem>), ConfigErrors> {
        let warnings = into_warnings(self.problems)?;
        Ok((self.config, warnings))
    }
}
