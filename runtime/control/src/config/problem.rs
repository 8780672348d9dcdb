//! What is wrong with a config, where, and what to write instead.
//!
//! Invariant: every problem points into the file as it was read, whether it was found in the
//! syntax, the values or the running system. So all of them sort and print alike.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::schema::Asked;

/// A range of the config's text, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub start: usize,
    /// Exclusive.
    pub end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// A value and its place in the config. A default has the place of the table that lacks it. Equal values are
/// equal wherever they are written.
#[derive(Clone, Copy, Eq, Debug)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> Located<T> {
    pub const fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: to(self.value),
            span: self.span,
        }
    }
}

/// A line and column for people: both count from 1, the column in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A config's text and path. Turns spans into positions and excerpts.
#[derive(Debug)]
pub struct SourceText {
    path: Arc<Path>,
    text: String,
    /// The byte offset of each line.
    lines: Vec<usize>,
}

impl SourceText {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        Self {
            path: path.into(),
            lines: lines.collect(),
            text: text.to_owned(),
        }
    }

    /// Returns the file's path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns where a span starts.
    #[must_use]
    pub fn position(&self, span: Span) -> Position {
        let (line, line_start) = self.line_of(span);
        let start = self.text.floor_char_boundary(span.start);
        let column = self.text[line_start..start].chars().count() + 1;
        Position { line, column }
    }

    /// Returns the line that a span starts in, and the offset of that line.
    fn line_of(&self, span: Span) -> (usize, usize) {
        let start = self.text.floor_char_boundary(span.start);
        let line = self.lines.partition_point(|first| *first <= start);
        (line, self.lines[line - 1])
    }

    /// Returns the line that a span starts in, and the part of the span in it.
    fn excerpt(&self, span: Span) -> Excerpt {
        let (line, line_start) = self.line_of(span);
        let text = self.text[line_start..].lines().next().unwrap_or_default();
        // The span may start at the line break, or end in a later line.
        let in_line = |at: usize| at.saturating_sub(line_start).min(text.len());
        let start = text.floor_char_boundary(in_line(span.start));
        let end = text.ceil_char_boundary(in_line(span.end));
        Excerpt {
            line,
            text: text.to_owned(),
            marked: start..end.max(start),
        }
    }
}

/// One line of the config and the range to underline in it, in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Excerpt {
    line: usize,
    text: String,
    marked: Range<usize>,
}

/// Whether a config with this problem can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but probably does not do what its author wants.
    Warning,
}

/// One thing that is wrong with a config. Prints the severity and the text, then the place
/// (`file:line:column`), then the line with the place underlined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub severity: Severity,
    /// `None`: the file as a whole.
    pub position: Option<Position>,
    /// What is wrong, and what to write.
    pub text: String,
    path: Arc<Path>,
    excerpt: Option<Excerpt>,
}

impl Problem {
    pub(super) fn at(
        source: &SourceText,
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

    /// Returns an error about the file as a whole.
    pub(super) fn whole_file(path: &Path, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            position: None,
            text: text.into(),
            path: path.into(),
            excerpt: None,
        }
    }

    /// Returns the same problem as one that the config can run with.
    pub(crate) fn into_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let path = self.path.to_string_lossy();
        let title = level.primary_title(&*self.text);
        let group = match &self.excerpt {
            Some(Excerpt { line, text, marked }) => title.element(
                Snippet::source(&**text)
                    .line_start(*line)
                    .path(&*path)
                    .annotation(AnnotationKind::Primary.span(marked.clone())),
            ),
            None => title.element(Origin::path(&*path)),
        };
        f.write_str(&Renderer::plain().render(&[group]))
    }
}

/// The problems found so far.
pub(super) struct Problems {
    pub(super) source: Arc<SourceText>,
    pub(super) list: Vec<Problem>,
    /// What the reader asks for, if somebody wants to know.
    pub(super) asked: Option<Asked>,
}

impl Problems {
    pub(super) fn new(source: &Arc<SourceText>) -> Self {
        Self {
            source: Arc::clone(source),
            list: Vec::new(),
            asked: None,
        }
    }

    pub(super) fn error(&mut self, span: Span, text: impl Into<String>) {
        self.list
            .push(Problem::at(&self.source, Severity::Error, span, text));
    }

    pub(super) fn warn(&mut self, span: Span, text: impl Into<String>) {
        self.list
            .push(Problem::at(&self.source, Severity::Warning, span, text));
    }

    /// Returns the folder that relative paths in the config start from.
    pub(super) fn folder(&self) -> PathBuf {
        let parent = self.source.path().parent();
        parent.map(Path::to_owned).unwrap_or_default()
    }

    /// Returns the line of a span, for a message that refers to another place.
    pub(super) fn line(&self, span: Span) -> usize {
        self.source.position(span).line
    }
}

/// Why a config was refused: all problems, warnings too, in file order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// Returns all problems in file order. At least one is an error.
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

/// Sorts problems by position, removes duplicates, and returns them if all are warnings.
///
/// # Errors
/// All problems, if at least one is an error.
pub fn into_warnings(mut problems: Vec<Problem>) -> Result<Vec<Problem>, ConfigErrors> {
    problems.sort_by_key(|problem| problem.position);
    problems.dedup();
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    if problems.iter().any(is_error) {
        Err(ConfigErrors { problems })
    } else {
        Ok(problems)
    }
}
