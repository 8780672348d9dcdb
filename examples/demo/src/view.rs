//! The live view: bars and numbers on a terminal, plain lines elsewhere.
//!
//! Invariant: the terminal is in the alternate screen only while a [`View`] lives, or until
//! [`restore_terminal`]. It is never in raw mode, so Ctrl-C stays a signal.

use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph};
use ratatui::{Frame, symbols};
use waxwing_tests::{Status, Tally};

use crate::recording::Recording;

/// Between two lines of numbers where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The servers, in the order of their bars.
const SERVERS: [(&str, Color); 3] = [
    ("1", Color::Cyan),
    ("2", Color::Magenta),
    ("3", Color::Yellow),
];

/// Whether the terminal is in the alternate screen, for [`restore_terminal`].
static IN_SCREEN: AtomicBool = AtomicBool::new(false);

/// Where the demo shows itself.
pub(crate) struct View {
    lines: Vec<String>,
    out: Out,
    recording: Option<Recording>,
}

enum Out {
    Screen(Box<Terminal<CrosstermBackend<Stdout>>>),
    Lines { next: Instant },
}

/// What a view shows.
pub(crate) struct Picture<'a> {
    /// The last second or so.
    pub(crate) recent: &'a Tally,
    /// How long that is.
    pub(crate) recent_seconds: f64,
    /// All since the start.
    pub(crate) total: &'a Tally,
    /// The balancer's.
    pub(crate) status: &'a Status,
}

impl View {
    /// On the terminal, where standard output is one.
    #[must_use]
    pub(crate) fn new(plain: bool, recording: Option<Recording>) -> Self {
        let screen = (!plain && io::stdout().is_terminal())
            .then(screen)
            .and_then(Result::ok);
        let out = screen.map_or_else(
            || Out::Lines {
                next: Instant::now() + LINE_EVERY,
            },
            |terminal| Out::Screen(Box::new(terminal)),
        );
        Self {
            lines: Vec::new(),
            out,
            recording,
        }
    }

    /// Says what happens now.
    pub(crate) fn say(&mut self, line: &str) {
        self.lines.push(line.to_owned());
        match &mut self.out {
            Out::Lines { next } => {
                println!("{line}");
                *next = Instant::now() + LINE_EVERY;
            }
            Out::Screen(terminal) => {
                let lines = &self.lines;
                // The next picture shows it where this one could not.
                drop(terminal.draw(|frame| story(frame, frame.area(), lines)));
            }
        }
    }

    /// Shows the numbers.
    ///
    /// # Errors
    /// Nobody reads the output any more.
    pub(crate) fn show(&mut self, picture: &Picture<'_>) -> Result<()> {
        if let Some(recording) = &mut self.recording {
            recording.take(|frame| draw(frame, &self.lines, picture))?;
        }
        match &mut self.out {
            Out::Screen(terminal) if IN_SCREEN.load(Ordering::SeqCst) => {
                let lines = &self.lines;
                terminal.draw(|frame| draw(frame, lines, picture))?;
            }
            Out::Lines { next } if Instant::now() >= *next => {
                *next += LINE_EVERY;
                writeln!(io::stdout(), "{}", plain(picture))?;
            }
            // The terminal has been given back, or the next line is not due.
            Out::Screen(_) | Out::Lines { .. } => {}
        }
        Ok(())
    }
}

impl View {
    /// Ends the view and writes the recording, if there is one.
    ///
    /// # Errors
    /// The recording cannot be written.
    pub(crate) fn close(mut self) -> Result<()> {
        self.recording.take().map_or(Ok(()), Recording::write)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Leaves the alternate screen, where it was entered. For a signal's handler too.
pub(crate) fn restore_terminal() {
    if IN_SCREEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs no restoring.
        drop(execute!(io::stdout(), Show, LeaveAlternateScreen));
    }
}

fn screen() -> Result<Terminal<CrosstermBackend<Stdout>>> {
    execute!(io::stdout(), EnterAlternateScreen, Hide)?;
    IN_SCREEN.store(true, Ordering::SeqCst);
    Ok(Terminal::new(CrosstermBackend::new(io::stdout()))?)
}

fn draw(frame: &mut Frame<'_>, lines: &[String], picture: &Picture<'_>) {
    let [story_area, servers_area, numbers_area] = Layout::vertical([
        Constraint::Min(6),
        Constraint::Length(2 * 3 + 2),
        Constraint::Length(8),
    ])
    .areas(frame.area());
    story(frame, story_area, lines);
    servers(frame, servers_area, picture);
    numbers(frame, numbers_area, picture);
}

fn story(frame: &mut Frame<'_>, area: Rect, lines: &[String]) {
    let room = usize::from(area.height.saturating_sub(2)).max(1);
    let shown = &lines[lines.len().saturating_sub(room)..];
    let text: Vec<Line<'_>> = shown
        .iter()
        .enumerate()
        .map(|(at, line)| {
            let is_now = at + 1 == shown.len();
            if is_now {
                line.as_str().bold().into()
            } else {
                line.as_str().dim().into()
            }
        })
        .collect();
    frame.render_widget(
        Paragraph::new(text).block(Block::bordered().title(" Waxwing ")),
        area,
    );
}

fn servers(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let block = Block::bordered().title(" new connections by server ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = Layout::vertical([Constraint::Length(2); 3]).split(inner);
    for ((name, colour), row) in SERVERS.into_iter().zip(rows.iter()) {
        let [label, bar] =
            Layout::horizontal([Constraint::Length(24), Constraint::Min(10)]).areas(*row);
        let rate = per_second(picture, name);
        let text = format!("server {name} {rate:>7.0} /s");
        frame.render_widget(
            Paragraph::new(Span::styled(text, Style::new().fg(colour))),
            label,
        );
        let share = picture.recent.share(name).clamp(0.0, 1.0);
        let gauge = Gauge::default()
            .ratio(share)
            .label(format!("{:.1} %", share * 100.0))
            .use_unicode(true)
            .gauge_style(Style::new().fg(colour));
        frame.render_widget(gauge, Rect { height: 1, ..bar });
    }
}

fn numbers(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let (recent, total, status) = (picture.recent, picture.total, picture.status);
    let failed = Span::raw(format!("{} failed", total.failed()));
    let failed = if total.failed() == 0 {
        failed.green()
    } else {
        failed.red().bold()
    };
    let text = vec![
        Line::from(vec![
            Span::raw(format!("requests  {}   ", total.answers())),
            failed,
        ]),
        Line::from(format!(
            "latency   p50 {}   p99 {}",
            ms(recent.latency(0.5)),
            ms(recent.latency(0.99))
        )),
        Line::from(format!("sessions  {}", status.sessions())),
        Line::from(format!("drops     {}", drops(status))),
        Line::from(format!(
            "module    round_robin {}",
            status.module_hash("round_robin").unwrap_or("unknown")
        )),
    ];
    let block = Block::bordered()
        .border_set(symbols::border::PLAIN)
        .title(" now ");
    frame.render_widget(Paragraph::new(text).block(block), area);
}

fn plain(picture: &Picture<'_>) -> String {
    let (recent, total, status) = (picture.recent, picture.total, picture.status);
    let mut line = String::from("  ");
    for (name, _) in SERVERS {
        line += &format!(
            "server {name} {:>5.1} % {:>4.0}/s   ",
            recent.share(name) * 100.0,
            per_second(picture, name)
        );
    }
    line + &format!(
        "p50 {} p99 {}   sessions {}   drops {}   module {}   failed {}",
        ms(recent.latency(0.5)),
        ms(recent.latency(0.99)),
        status.sessions(),
        drops(status),
        status.module_hash("round_robin").unwrap_or("unknown"),
        total.failed()
    )
}

fn per_second(picture: &Picture<'_>, server: &str) -> f64 {
    let answers = picture.recent.servers.get(server).copied().unwrap_or(0);
    answers as f64 / picture.recent_seconds
}

fn ms(latency: Duration) -> String {
    format!("{:.1} ms", latency.as_secs_f64() * 1000.0)
}

fn drops(status: &Status) -> String {
    let drops = status.drops().into_iter().filter(|(_, count)| *count > 0);
    let drops: Vec<_> = drops
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if drops.is_empty() {
        "none".to_owned()
    } else {
        drops.join(", ")
    }
}
