//! Draws a page of `waxwing top`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table, TableState};

use super::model::{Order, Page, Row};

/// The most problems, and the most modules, that are shown.
const LINES_MAX: usize = 5;

/// The width of the bar of a backend's share, in characters.
const BAR: usize = 12;

/// From how many new sessions a second on a share is compared with the weight.
const COMPARED_FROM: f64 = 20.0;

/// What the person has done so far.
#[derive(Default)]
pub(super) struct View {
    pub(super) order: Order,
    pub(super) filter: String,
    /// The row that is chosen, and how far the table is scrolled.
    pub(super) table: TableState,
    /// A question, or an answer.
    pub(super) message: Option<String>,
    /// Why there is no newer status.
    pub(super) error: Option<String>,
}

const KEYS: &str = "q quit  s sort  / filter  d drain  x disable  e enable";

pub(super) fn draw(frame: &mut Frame<'_>, page: &Page, view: &mut View) {
    let lines = |count: usize| u16::try_from(count.min(LINES_MAX)).unwrap_or(0);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(lines(page.problems.len())),
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(lines(page.modules.len())),
        Constraint::Length(1),
    ]);
    let [head, problems, table, drops, modules, keys] = areas.areas(frame.area());
    let [first, second] = &page.head;
    let head_lines = vec![Line::from(&**first).bold(), Line::from(&**second)];
    frame.render_widget(Paragraph::new(head_lines), head);
    let problem = |text: &String| Line::from(format!("PROBLEM {text}")).red();
    let shown = page.problems.iter().take(LINES_MAX).map(problem);
    frame.render_widget(Paragraph::new(shown.collect::<Vec<_>>()), problems);
    services(frame, table, page, view);
    frame.render_widget(Paragraph::new(dropped(page)), drops);
    let shown = page.modules.iter().take(LINES_MAX);
    let shown: Vec<Line<'_>> = shown.map(|it| Line::from(&**it).dim()).collect();
    frame.render_widget(Paragraph::new(shown), modules);
    let last = view.message.as_ref().or(view.error.as_ref());
    let last = last.cloned().unwrap_or_else(|| {
        let filter = match &*view.filter {
            "" => String::new(),
            filter => format!("  filter: {filter}"),
        };
        format!("{KEYS}  sorted by: {}{filter}", view.order.label())
    });
    frame.render_widget(Paragraph::new(last).reversed(), keys);
}

fn services(frame: &mut Frame<'_>, area: Rect, page: &Page, view: &mut View) {
    let titles = [
        "SERVICE / BACKEND",
        "STATE",
        "WEIGHT",
        "SHARE OF NEW",
        "NEW/s",
        "ACTIVE",
        "PACKETS/s",
        "BIT/s",
        "CONNECT",
        "FAILED/s",
    ];
    let widths = [
        Constraint::Min(24),
        Constraint::Length(12),
        Constraint::Length(6),
        Constraint::Length(18),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(8),
    ];
    let table = Table::new(page.rows.iter().map(cells), widths)
        .header(TableRow::new(titles).style(Style::new().underlined()))
        .row_highlight_style(Style::new().reversed());
    frame.render_stateful_widget(table, area, &mut view.table);
}

fn cells(row: &Row) -> TableRow<'_> {
    let is_service = row.backend.is_none();
    let indent = if is_service { "" } else { "  " };
    let title = Cell::from(format!("{indent}{}", row.title));
    let state = Cell::from(&*row.state);
    let state = if row.is_well {
        state
    } else {
        state.style(Color::Red)
    };
    let weight = row.weight.map(|part| format!("{:3.0} %", part * 100.0));
    let connect = match row.connect_us {
        0 => String::new(),
        micros => format!("{} us", number(micros.into())),
    };
    let failed = Cell::from(number(row.rates.failed));
    let failed = if row.rates.failed > 0.0 {
        failed.style(Color::Red)
    } else {
        failed
    };
    let cells = [
        title,
        state,
        weight.unwrap_or_default().into(),
        share(row),
        number(row.rates.new).into(),
        row.active.to_string().into(),
        number(row.rates.packets).into(),
        number(row.rates.bits).into(),
        connect.into(),
        failed,
    ];
    let cells = TableRow::new(cells);
    if is_service { cells.bold() } else { cells }
}

/// Returns a bar of the share, yellow if it differs from the weight by half.
fn share(row: &Row) -> Cell<'_> {
    let Some(share) = row.share else {
        return Cell::default();
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most the width of the bar"
    )]
    let full = (share * BAR as f64).round() as usize;
    let bar = "█".repeat(full) + &"░".repeat(BAR.saturating_sub(full));
    let weight = row.weight.unwrap_or_default();
    let is_skewed = row.rates.new >= COMPARED_FROM && (share - weight).abs() > weight / 2.0;
    let color = if is_skewed {
        Color::Yellow
    } else {
        Color::Cyan
    };
    Line::from(vec![
        Span::from(bar).fg(color),
        Span::from(format!(" {:3.0} %", share * 100.0)),
    ])
    .into()
}

/// Returns the line of drops.
fn dropped(page: &Page) -> Line<'static> {
    let drops = page.drops.iter();
    let drops: Vec<String> = drops
        .map(|(reason, rate)| format!("{reason} {}/s", number(*rate)))
        .collect();
    match drops.is_empty() {
        true => Line::from("nothing is dropped").dim(),
        false => Line::from(format!("dropped: {}", drops.join(", "))).yellow(),
    }
}

/// Formats a number with at most four characters and a unit: `12.3 k`.
fn number(value: f64) -> String {
    let units = ["", " k", " M", " G", " T"];
    let mut value = value;
    let mut at = 0;
    while value >= 9999.5 && at + 1 < units.len() {
        value /= 1000.0;
        at += 1;
    }
    match value {
        _ if at == 0 => format!("{value:.0}"),
        ..100.0 => format!("{value:.1}{}", units[at]),
        _ => format!("{value:.0}{}", units[at]),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Cell;

    use super::super::model::Rates;
    use super::*;

    #[test]
    fn numbers_keep_four_characters() {
        let rows = [
            (0.0, "0"),
            (9999.0, "9999"),
            (12_345.0, "12.3 k"),
            (123_456_789.0, "123 M"),
            (2e9, "2000 M"),
        ];
        for (value, text) in rows {
            assert_eq!(number(value), text, "{value}");
        }
    }

    /// A page with a backend that gets more than its weight, and one that is down.
    fn page() -> Page {
        let row = |name: &str, share: f64, is_well: bool| Row {
            service: "web".into(),
            backend: Some(name.into()),
            title: name.into(),
            state: if is_well { "up" } else { "DOWN" }.into(),
            is_well,
            weight: Some(0.5),
            share: Some(share),
            rates: Rates {
                new: 100.0 * share,
                ..Rates::default()
            },
            ..Row::default()
        };
        let service = Row {
            service: "web".into(),
            title: "web tcp 203.0.113.10 80, maglev".into(),
            state: "1 of 2".into(),
            is_well: true,
            ..Row::default()
        };
        Page {
            head: ["waxwing 1".into(), "2 of 10 sessions".into()],
            problems: vec!["front is down".into()],
            rows: vec![service, row("web-1", 1.0, true), row("web-2", 0.0, false)],
            drops: vec![("policy".into(), 12.0)],
            modules: vec!["maglev 1 abc".into()],
        }
    }

    #[test]
    fn a_page_is_drawn_at_any_size() {
        for (columns, lines) in [(140, 20), (40, 8), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("a screen");
            let mut view = View::default();
            terminal
                .draw(|frame| draw(frame, &page(), &mut view))
                .expect("it draws");
            if columns < 140 {
                continue;
            }
            let screen = terminal.backend().buffer();
            let text: String = screen.content().iter().map(Cell::symbol).collect();
            for part in [
                "PROBLEM front is down",
                "web tcp 203.0.113.10 80, maglev",
                "████████████ 100 %",
                "DOWN",
                "dropped: policy 12/s",
                "maglev 1 abc",
                "sorted by: config",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            let yellow = screen.content().iter().filter(|cell| cell.symbol() == "█");
            assert!(yellow.into_iter().all(|cell| cell.fg == Color::Yellow));
        }
    }
}
