//! The live view: bars and numbers on a terminal, otherwise lines.
//!
//! Invariant: the terminal shows the alternate screen only while a [`View`] exists, or until
//! [`restore_terminal`]. It is never in raw mode, so Ctrl-C sends a signal.

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

/// The time between two lines of numbers without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The servers, in the order of their bars.
const SERVERS: [(&str, Color); 3] = [
    ("1", Color::Cyan),
    ("2", Color::Magenta),
    ("3", Color::Yellow),
];

/// Whether the terminal shows the alternate screen.
static IN_SCREEN: AtomicBool = AtomicBool::new(false);

/// The demo's output.
pub(crate) struct View {
    lines: Vec<String>,
    out: Out,
    recording: Option<Recording>,
}

enum Out {
    Screen(Box<Terminal<CrosstermBackend<Stdout>>>),
    Lines { next: Instant },
}

/// The numbers that a view shows.
pub(crate) struct Numbers<'a> {
    /// The most recent samples.
    pub(crate) recent: &'a Tally,
    /// The time that they cover.
    pub(crate) recent_seconds: f64,
    /// All samples since the start.
    pub(crate) total: &'a Tally,
    pub(crate) status: &'a Status,
}

impl View {
    /// Uses the terminal if standard output is one, unless `plain`.
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

    /// Announces what happens next.
    pub(crate) fn announce(&mut self, line: &str) {
        self.lines.push(line.to_owned());
        match &mut self.out {
            Out::Lines { next } => {
                println!("{line}");
                *next = Instant::now() + LINE_EVERY;
            }
            Out::Screen(terminal) => {
                let lines = &self.lines;
                // If drawing fails, the next update shows the line.
                drop(terminal.draw(|frame| log(frame, frame.area(), lines)));
            }
        }
    }

    /// Shows the numbers.
    pub(crate) fn show(&mut self, numbers: &Numbers<'_>) -> Result<()> {
        if let Some(recording) = &mut self.recording {
            recording.take(|frame| draw(frame, &self.lines, numbers))?;
        }
        match &mut self.out {
            Out::Screen(terminal) if IN_SCREEN.load(Ordering::SeqCst) => {
                let lines = &self.lines;
                terminal.draw(|frame| draw(frame, lines, numbers))?;
            }
            Out::Lines { next } if Instant::now() >= *next => {
                *next += LINE_EVERY;
                writeln!(io::stdout(), "{}", plain(numbers))?;
            }
            // The terminal was restored, or the next line is not due.
            Out::Screen(_) | Out::Lines { .. } => {}
        }
        Ok(())
    }
}

impl View {
    /// Ends the view and writes the recording, if there is one.
    pub(crate) fn close(mut self) -> Result<()> {
        self.recording.take().map_or(Ok(()), Recording::write)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Leaves the alternate screen if it was entered. The signal handler calls this too.
pub(crate) fn restore_terminal() {
    if IN_SCREEN.swap(false, Ordering::SeqCst) {
        // A closed terminal needs no restoring.
        drop(execute!(io::stdout(), Show, LeaveAlternateScreen));
    }
}

fn screen() -> Result<Terminal<CrosstermBackend<Stdout>>> {
    execute!(io::stdout(), EnterAlternateScreen, Hide)?;
    IN_SCREEN.store(true, Ordering::SeqCst);
    Ok(Terminal::new(CrosstermBackend::new(io::stdout()))?)
}

fn draw(frame: &mut Frame<'_>, lines: &[String], numbers: &Numbers<'_>) {
    let [log_area, servers_area, totals_area] = Layout::vertical([
        Constraint::Min(6),
        Constraint::Length(2 * 3 + 2),
        Constraint::Length(8),
    ])
    .areas(frame.area());
    log(frame, log_area, lines);
    servers(frame, servers_area, numbers);
    totals(frame, totals_area, numbers);
}

fn log(frame: &mut Frame<'_>, area: Rect, lines: &[String]) {
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

fn servers(frame: &mut Frame<'_>, area: Rect, numbers: &Numbers<'_>) {
    let block = Block::bordered().title(" new connections by server ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = Layout::vertical([Constraint::Length(2); 3]).split(inner);
    for ((name, colour), row) in SERVERS.into_iter().zip(rows.iter()) {
        let [label, bar] =
            Layout::horizontal([Constraint::Length(24), Constraint::Min(10)]).areas(*row);
        let rate = per_second(numbers, name);
        let text = format!("server {name} {rate:>7.0} /s");
        frame.render_widget(
            Paragraph::new(Span::styled(text, Style::new().fg(colour))),
            label,
        );
        let share = numbers.recent.share(name).clamp(0.0, 1.0);
        let gauge = Gauge::default()
            .ratio(share)
            .label(format!("{:.1} %", share * 100.0))
            .use_unicode(true)
            .gauge_style(Style::new().fg(colour));
        frame.render_widget(gauge, Rect { height: 1, ..bar });
    }
}

fn totals(frame: &mut Frame<'_>, area: Rect, numbers: &Numbers<'_>) {
    let (recent, total, status) = (numbers.recent, numbers.total, numbers.status);
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

fn plain(numbers: &Numbers<'_>) -> String {
    let (recent, total, status) = (numbers.recent, numbers.total, numbers.status);
    let mut line = String::from("  ");
    for (name, _) in SERVERS {
        line += &format!(
            "server {name} {:>5.1} % {:>4.0}/s   ",
            recent.share(name) * 100.0,
            per_second(numbers, name)
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

fn per_second(numbers: &Numbers<'_>, server: &str) -> f64 {
    let answers = numbers.recent.servers.get(server).copied().unwrap_or(0);
    answers as f64 / numbers.recent_seconds
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
