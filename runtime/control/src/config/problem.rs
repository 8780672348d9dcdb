//! What is wrong with a config, where, and what to write instead.
//!
//! Invariant: a problem names a place in the file as it was read, whoever found it: the syntax,
//! the values, or a look at the running system. So all of them sort and print alike.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The most characters of an offending line that are shown.
const EXCERPT_MAX: usize = 120;

/// A part of the config's text, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Where it begins.
    pub start: usize,
    /// Where it ends; the byte there is not in it.
    pub end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// A value and where in the config it was written (or, for a default, the table it is missing in).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub span: Span,
}

impl<T> Located<T> {
    /// A value at a place.
    pub const fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// The same place with another value.
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: to(self.value),
            span: self.span,
        }
    }
}

/// A place for people: both count from 1, the column in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A config's text and where it came from: turns spans into positions and excerpts.
#[derive(Debug)]
pub struct Source {
    path: Arc<Path>,
    text: String,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

impl Source {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        Self {
            path: path.into(),
            lines: lines.collect(),
            text: text.to_owned(),
        }
    }

    /// The file's path, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line and column where a span begins.
    #[must_use]
    pub fn position(&self, span: Span) -> Position {
        let (line, start) = self.line_at(span.start);
        let column = self.text[start..self.boundary(span.start)].chars().count() + 1;
        Position { line, column }
    }

    /// The line (from 1) that holds a byte, and where it begins.
    fn line_at(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= byte);
        (line, self.lines[line - 1])
    }

    /// The last character boundary at or before a byte.
    fn boundary(&self, byte: usize) -> usize {
        self.text.floor_char_boundary(byte)
    }

    /// The line a span begins in, cut to a width fit for a terminal, with a caret line below.
    fn excerpt(&self, span: Span) -> Excerpt {
        let Position { line, column } = self.position(span);
        let (_, start) = self.line_at(span.start);
        let text = self.text[start..].lines().next().unwrap_or_default();
        let end = self.boundary(span.end).min(start + text.len());
        let marked = self
            .text
            .get(self.boundary(span.start)..end)
            .unwrap_or_default();
        let skipped = if column > EXCERPT_MAX {
            column - EXCERPT_MAX / 2
        } else {
            0
        };
        // A tab or an escape sequence would move the caret away from what it points at.
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Excerpt {
            line,
            text: text
                .chars()
                .skip(skipped)
                .take(EXCERPT_MAX)
                .map(plain)
                .collect(),
            indent: column - 1 - skipped,
            width: marked
                .chars()
                .count()
                .clamp(1, (EXCERPT_MAX + skipped + 1 - column).max(1)),
        }
    }
}

/// An offending line and what to underline in it, in characters.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Excerpt {
    line: usize,
    text: String,
    indent: usize,
    width: usize,
}

/// Whether a config with this problem can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but its writer should know.
    Warning,
}

/// One thing that is wrong with a config. It prints as `file:line:column: what; what to write`,
/// with the offending line and a caret below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Where, or `None` where the file as a whole is meant.
    pub position: Option<Position>,
    /// What is wrong, and what to write.
    pub text: String,
    path: Arc<Path>,
    excerpt: Option<Excerpt>,
}

impl Problem {
    pub(super) fn at(
        source: &Source,
        severity: Severity,
        span: Span,
        text: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            position: Some(source.position(span)),
            text: text.into(),
            path: Arc::clone(&source.path),
            excerpt: Some(source.excerpt(span)),
        }
    }

    pub(super) fn whole_file(path: &Path, severity: Severity, text: impl Into<String>) -> Self {
        Self {
            severity,
            position: None,
            text: text.into(),
            path: path.into(),
            excerpt: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        match self.severity {
            Severity::Error => write!(f, " {}", self.text)?,
            Severity::Warning => write!(f, " warning: {}", self.text)?,
        }
        let Some(Excerpt {
            line,
            text,
            indent,
            width,
        }) = &self.excerpt
        else {
            return Ok(());
        };
        write!(f, "\n{line:>5} | {}", text.trim_end())?;
        write!(f, "\n      | {:indent$}{:^<width$}", "", "")
    }
}

/// Why a config was refused: every problem found, warnings too, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// Every problem, in the order of the file; at least one is an error.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for ConfigErrors {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Sorts problems by position and gives them back where all are warnings.
///
/// # Errors
/// All of them, where one is an error.
pub fn judge(mut problems: Vec<Problem>) -> Result<Vec<Problem>, ConfigErrors> {
    problems.sort_by_key(|problem| problem.position);
    problems.dedup();
    if problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
    {
        Err(ConfigErrors { problems })
    } else {
        Ok(problems)
    }
}
