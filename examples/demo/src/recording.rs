//! The live view as an animated SVG, for the README.
//!
//! A recording is a film strip: the frames lie one below the other, and a CSS animation moves the strip
//! behind a window of one frame. Equal rows are stored once.
//!
//! Invariant: the file is complete: it has no script, font or link, so a browser plays it as an image.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use ratatui::{Frame, Terminal};

/// Columns and rows of the recorded terminal.
const SIZE: (u16, u16) = (92, 26);
/// Width and height of a cell, in pixels.
const CELL: (u16, u16) = (8, 18);
/// Width of the border around the terminal, in pixels.
const MARGIN: u16 = 16;
/// Time between two recorded frames.
const FRAME_EVERY: Duration = Duration::from_millis(500);
/// How long the last frame stays before the recording starts again.
const LAST_FRAME: Duration = Duration::from_secs(4);

/// Cells of a bar, by how many eighths of them are filled.
const EIGHTHS: [&str; 8] = ["▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"];

const STYLE: &str = "\
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f2328}
.page{fill:#f6f8fa;stroke:#d1d9e0}.line{stroke:#8c959f;fill:none}.on{fill:#fff}.bold{font-weight:700}
.dim{fill:#6e7781}
.cyan{fill:#1b7c83}.magenta{fill:#8250df}.yellow{fill:#9a6700}.green{fill:#1a7f37}.red{fill:#cf222e}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117;stroke:#3d444d}.line{stroke:#656c76}
.on{fill:#0d1117}.dim{fill:#848d97}
.cyan{fill:#39c5cf}.magenta{fill:#bc8cff}.yellow{fill:#d29922}.green{fill:#3fb950}.red{fill:#f85149}}
";

/// A recording in progress.
pub(crate) struct Recording {
    path: PathBuf,
    terminal: Terminal<TestBackend>,
    started: Option<Instant>,
    frames: Vec<(Duration, Buffer)>,
}

impl Recording {
    /// Starts a recording, to be written to `path`.
    pub(crate) fn new(path: PathBuf) -> Result<Self> {
        Ok(Self {
            path,
            terminal: Terminal::new(TestBackend::new(SIZE.0, SIZE.1))?,
            started: None,
            frames: Vec::new(),
        })
    }

    /// Records a frame if one is due.
    pub(crate) fn take(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<()> {
        let at = self.started.get_or_insert_with(Instant::now).elapsed();
        if self
            .frames
            .last()
            .is_none_or(|(last, _)| at - *last >= FRAME_EVERY)
        {
            self.terminal.draw(draw)?;
            self.frames
                .push((at, self.terminal.backend().buffer().clone()));
        }
        Ok(())
    }

    /// Writes the file.
    pub(crate) fn write(self) -> Result<()> {
        fs::write(&self.path, svg(&self.frames))
            .with_context(|| format!("cannot write the recording to {}", self.path.display()))
    }
}

/// The whole file. Writing to a string cannot fail.
fn svg(frames: &[(Duration, Buffer)]) -> String {
    let (width, height) = (SIZE.0 * CELL.0, SIZE.1 * CELL.1);
    let (outer_width, outer_height) = (width + 2 * MARGIN, height + 2 * MARGIN);
    let mut rows: HashMap<String, usize> = HashMap::new();
    let (mut definitions, mut strip) = (String::new(), String::new());
    for (number, (_, buffer)) in frames.iter().enumerate() {
        let top = number * usize::from(height);
        for y in 0..SIZE.1 {
            let text = row(buffer, y);
            if text.is_empty() {
                continue;
            }
            let next = rows.len();
            let id = *rows.entry(text.clone()).or_insert(next);
            if id == next {
                let _ = writeln!(definitions, "<g id=\"r{id}\">{text}</g>");
            }
            let y = top + usize::from(y * CELL.1);
            let _ = write!(strip, "<use href=\"#r{id}\" y=\"{y}\"/>");
        }
        strip.push('\n');
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{outer_width}\" height=\"{outer_height}\" \
         viewBox=\"0 0 {outer_width} {outer_height}\">\n\
         <title>A recording of cargo xtask demo</title>\n\
         <style>\n{STYLE}{animation}</style>\n<defs>\n{definitions}</defs>\n\
         <rect class=\"page\" x=\".5\" y=\".5\" width=\"{page_width}\" height=\"{page_height}\" rx=\"8\"/>\n\
         <svg x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{width}\" height=\"{height}\">\
         <g class=\"film\">\n{strip}</g></svg>\n\
         </svg>\n",
        animation = animation(frames, height),
        page_width = outer_width - 1,
        page_height = outer_height - 1,
    )
}

/// Moves the strip to each frame at its time. A reader who asked for less motion sees the last frame.
fn animation(frames: &[(Duration, Buffer)], height: u16) -> String {
    let last = frames.last().map_or(Duration::ZERO, |(at, _)| *at);
    let total = (last + LAST_FRAME).as_secs_f64();
    let top = |number: usize| number * usize::from(height);
    let mut steps = String::new();
    for (number, (at, _)) in frames.iter().enumerate() {
        let percent = at.as_secs_f64() / total * 100.0;
        let _ = write!(
            steps,
            "{percent:.2}%{{transform:translateY(-{}px)}}",
            top(number)
        );
    }
    let end = top(frames.len().saturating_sub(1));
    format!(
        "@keyframes film{{{steps}to{{transform:translateY(-{end}px)}}}}\n\
         .film{{animation:film {total:.1}s step-end infinite}}\n\
         @media(prefers-reduced-motion:reduce){{.film{{animation:none;transform:translateY(-{end}px)}}}}\n"
    )
}

/// One row of the terminal: filled cells, then lines, then texts.
fn row(buffer: &Buffer, y: u16) -> String {
    let cells: Vec<&Cell> = (0..SIZE.0).map(|x| &buffer[(x, y)]).collect();
    let (mut fills, mut lines, mut texts) = (String::new(), String::new(), String::new());
    let mut at = 0;
    while at < cells.len() {
        let cell = cells[at];
        let same = |other: &&&Cell| kind(other) == kind(cell);
        let len = cells[at..].iter().take_while(same).count();
        let (x, width) = (at * usize::from(CELL.0), len * usize::from(CELL.0));
        match kind(cell) {
            Kind::Blank => {}
            Kind::Filled(colour, eighths) => {
                // A cell is eight pixels wide.
                fill(&mut fills, x, width - (8 - eighths), colour);
            }
            Kind::Line => cells[at..at + len]
                .iter()
                .enumerate()
                .for_each(|(n, cell)| {
                    line(&mut lines, x + n * usize::from(CELL.0), cell.symbol());
                }),
            Kind::Text(style, background) => {
                if let Some(colour) = background {
                    fill(&mut fills, x, width, colour);
                }
                let text: String = cells[at..at + len]
                    .iter()
                    .map(|cell| cell.symbol())
                    .collect();
                write_text(&mut texts, x, &text, style);
            }
        }
        at += len;
    }
    if !lines.is_empty() {
        lines = format!("<path class=\"line\" d=\"{lines}\"/>");
    }
    fills + &lines + &texts
}

/// What a cell shows. Neighbours of one kind are drawn together.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Blank,
    /// A bar's cell of this colour, filled from the left by so many eighths.
    Filled(&'static str, usize),
    /// A border.
    Line,
    /// Letters of this style, on a bar of this colour if it covers them.
    Text((&'static str, &'static str), Option<&'static str>),
}

fn kind(cell: &Cell) -> Kind {
    let background = colour(cell.bg);
    let bar = colour(cell.fg).unwrap_or("dim");
    if let Some(less) = EIGHTHS.iter().position(|symbol| *symbol == cell.symbol()) {
        return Kind::Filled(bar, less + 1);
    }
    match cell.symbol() {
        "─" | "│" | "┌" | "┐" | "└" | "┘" => Kind::Line,
        " " if background.is_none() && cell.modifier.is_empty() && cell.fg == Color::Reset => {
            Kind::Blank
        }
        _ => {
            let weight = if cell.modifier.contains(Modifier::BOLD) {
                "bold"
            } else if cell.modifier.contains(Modifier::DIM) {
                "dim"
            } else {
                ""
            };
            let colour = match background {
                Some(_) => "on",
                None => colour(cell.fg).unwrap_or(""),
            };
            Kind::Text((colour, weight), background)
        }
    }
}

fn fill(path: &mut String, x: usize, width: usize, colour: &str) {
    let _ = write!(
        path,
        "<path class=\"{colour}\" d=\"M{x} 1h{width}v16h-{width}z\"/>"
    );
}

const fn colour(colour: Color) -> Option<&'static str> {
    match colour {
        Color::Cyan => Some("cyan"),
        Color::Magenta => Some("magenta"),
        Color::Yellow => Some("yellow"),
        Color::Green => Some("green"),
        Color::Red => Some("red"),
        _ => None,
    }
}

/// A border's cell as path segments, so that borders close at any font's line height.
fn line(path: &mut String, x: usize, symbol: &str) {
    let (middle, right) = (x + usize::from(CELL.0) / 2, x + usize::from(CELL.0));
    let _ = match symbol {
        "─" => write!(path, "M{x} 9H{right}"),
        "│" => write!(path, "M{middle} 0V18"),
        "┌" => write!(path, "M{middle} 18V9H{right}"),
        "┐" => write!(path, "M{x} 9H{middle}V18"),
        "└" => write!(path, "M{middle} 0V9H{right}"),
        _ => write!(path, "M{x} 9H{middle}V0"),
    };
}

/// Letters, each word group at its column: wide gaps are left out, since XML joins spaces.
fn write_text(out: &mut String, x: usize, text: &str, (colour, weight): (&str, &str)) {
    let class = [colour, weight].join(" ");
    let class = match class.trim() {
        "" => String::new(),
        class => format!(" class=\"{class}\""),
    };
    let mut column = 0;
    for group in text.split("  ") {
        let words = group.trim_start();
        let skipped = group.chars().count() - words.chars().count();
        let words = words.trim_end();
        if !words.is_empty() {
            let x = x + (column + skipped) * usize::from(CELL.0);
            let width = words.chars().count() * usize::from(CELL.0);
            let words = words
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;");
            let _ = write!(
                out,
                "<text x=\"{x}\" y=\"13\" textLength=\"{width}\" \
                 lengthAdjust=\"spacingAndGlyphs\"{class}>{words}</text>"
            );
        }
        column += group.chars().count() + 2;
    }
}

#[cfg(test)]
mod tests {
    use ratatui::style::Stylize as _;
    use ratatui::text::Line;
    use ratatui::widgets::{Block, Paragraph};

    use super::*;

    fn recorded(texts: &[&str]) -> String {
        let mut terminal = Terminal::new(TestBackend::new(SIZE.0, SIZE.1)).expect("in memory");
        let frames: Vec<_> = texts
            .iter()
            .zip(0..)
            .map(|(text, second)| {
                let page = Paragraph::new(Line::from((*text).red())).block(Block::bordered());
                terminal
                    .draw(|frame| frame.render_widget(page, frame.area()))
                    .expect("in memory");
                (
                    Duration::from_secs(second),
                    terminal.backend().buffer().clone(),
                )
            })
            .collect();
        svg(&frames)
    }

    #[test]
    fn equal_rows_are_stored_once() {
        let svg = recorded(&["one", "two", "two"]);
        // The borders above and below, the row of text twice, the rows with borders alone.
        assert_eq!(svg.matches("<g id=").count(), 5, "{svg}");
        assert_eq!(svg.matches("<use ").count(), 3 * usize::from(SIZE.1));
    }

    #[test]
    fn text_keeps_its_column_and_colour_and_is_escaped() {
        let svg = recorded(&["a  <b>"]);
        assert!(
            svg.contains("<text x=\"8\" y=\"13\" textLength=\"8\""),
            "{svg}"
        );
        assert!(svg.contains("x=\"32\""), "{svg}");
        assert!(svg.contains("class=\"red\">&lt;b&gt;<"), "{svg}");
    }

    #[test]
    fn every_frame_is_shown_from_its_time_on() {
        let svg = recorded(&["one", "two"]);
        // The second frame comes after 1 s of 1 s + 4 s.
        assert!(
            svg.contains("20.00%{transform:translateY(-468px)}"),
            "{svg}"
        );
    }
}
