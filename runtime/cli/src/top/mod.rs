//! `waxwing top`: what the balancer does, live, and the operator's hand on it.
//!
//! Invariant: a balancer that does not answer is shown as such, and the keys work on; only a change is waited
//! for. The terminal is as it was when the command ends, by a panic too.

mod model;
mod screen;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use waxwing_control::admin::client::Client;
use waxwing_control::admin::requests::SetBackend;
use waxwing_control::admin::status::Status;
use waxwing_control::health::AdminState;

use crate::arguments::{AdminAddress, OnlyServices};
use crate::query::wait;
use model::{Page, Samples};
use screen::View;

/// How often the keys and the newest status are looked at.
const TURN: Duration = Duration::from_millis(50);

#[derive(Args)]
pub(crate) struct TopArguments {
    #[command(flatten)]
    admin: AdminAddress,
    #[command(flatten)]
    only: OnlyServices,
    /// The time between two looks, such as 2s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    every: Duration,
}

/// A status and when it was read, or why there is none.
type Read = Result<(Instant, Status), String>;

/// What the keys mean now.
enum Mode {
    Look,
    /// They are part of the filter.
    Filter,
    /// `y` confirms this.
    Confirm(SetBackend),
}

/// Runs until `q` or Ctrl-C.
pub(crate) fn top(arguments: &TopArguments) -> Result<()> {
    if !io::stdout().is_terminal() {
        bail!("`waxwing top` needs a terminal; `waxwing service list --watch` writes anywhere");
    }
    let (send, statuses) = sync_channel(1);
    let (socket, services) = (
        arguments.admin.socket.clone(),
        arguments.only.services.clone(),
    );
    let every = arguments.every;
    thread::spawn(move || read(&socket, services.as_deref(), every, &send));
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let outcome = Top::new(&arguments.admin.socket).run(&mut terminal, &statuses);
    ratatui::restore();
    outcome
}

/// Reads statuses until nobody wants one.
fn read(socket: &Path, services: Option<&str>, every: Duration, send: &SyncSender<Read>) {
    loop {
        let status = wait(async { Ok(Client::new(socket).status(services).await?) });
        let read = status.map(|status| (Instant::now(), status));
        if send
            .send(read.map_err(|error| format!("{error:#}")))
            .is_err()
        {
            return;
        }
        thread::sleep(every);
    }
}

struct Top<'a> {
    socket: &'a Path,
    view: View,
    mode: Mode,
    /// When the newest status was read.
    read_at: Option<Instant>,
    samples: Option<Samples>,
}

impl<'a> Top<'a> {
    fn new(socket: &'a Path) -> Self {
        Self {
            socket,
            view: View::default(),
            mode: Mode::Look,
            read_at: None,
            samples: None,
        }
    }

    fn run(mut self, terminal: &mut DefaultTerminal, statuses: &Receiver<Read>) -> Result<()> {
        self.view.error = Some("reading the status".to_owned());
        loop {
            if let Ok(read) = statuses.try_recv() {
                self.take(read);
            }
            let page = self.page();
            terminal.draw(|frame| screen::draw(frame, &page, &mut self.view))?;
            if event::poll(TURN)?
                && let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && self.press(key, &page)
            {
                return Ok(());
            }
        }
    }

    fn page(&self) -> Page {
        let samples = self.samples.as_ref();
        samples.map_or_else(Page::default, |it| {
            it.page(self.view.order, &self.view.filter)
        })
    }

    fn take(&mut self, read: Read) {
        let (at, now) = match read {
            Ok(read) => read,
            Err(why) => {
                self.view.error = Some(why);
                return;
            }
        };
        self.view.error = None;
        let before = self.samples.take().zip(self.read_at.replace(at));
        let before = before.map(|(samples, then)| (samples.now, at.duration_since(then)));
        self.samples = Some(Samples { before, now });
    }

    /// Does what a key asks for. Returns whether that is to end.
    fn press(&mut self, key: KeyEvent, page: &Page) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code == KeyCode::Char('c');
        }
        self.view.message = None;
        match std::mem::replace(&mut self.mode, Mode::Look) {
            Mode::Look => return self.look(key.code, page),
            Mode::Filter => self.filter(key.code),
            Mode::Confirm(request) => {
                if key.code == KeyCode::Char('y') {
                    self.view.message = Some(self.change(&request));
                }
            }
        }
        false
    }

    fn look(&mut self, key: KeyCode, page: &Page) -> bool {
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('s') => self.view.order = self.view.order.next(),
            KeyCode::Char('/') => {
                self.view.filter.clear();
                self.mode = Mode::Filter;
            }
            KeyCode::Down | KeyCode::Char('j') => self.view.table.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.view.table.select_previous(),
            KeyCode::PageDown => self.view.table.scroll_down_by(10),
            KeyCode::PageUp => self.view.table.scroll_up_by(10),
            KeyCode::Char('d') => self.ask(page, AdminState::Draining, "drain"),
            KeyCode::Char('x') => self.ask(page, AdminState::Disabled, "disable"),
            KeyCode::Char('e') => self.ask(page, AdminState::Enabled, "enable"),
            _ => {}
        }
        false
    }

    fn filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => return,
            KeyCode::Esc => return self.view.filter.clear(),
            KeyCode::Backspace => drop(self.view.filter.pop()),
            KeyCode::Char(letter) => self.view.filter.push(letter),
            _ => {}
        }
        self.mode = Mode::Filter;
    }

    /// Asks whether the chosen backend is to be changed.
    fn ask(&mut self, page: &Page, state: AdminState, verb: &str) {
        let row = self.view.table.selected().and_then(|at| page.rows.get(at));
        let Some((row, backend)) = row.and_then(|row| Some((row, row.backend.as_ref()?))) else {
            self.view.message = Some("choose a backend with the arrow keys first".to_owned());
            return;
        };
        self.view.message = Some(format!("{verb} {backend} of {}? y: yes", row.service));
        self.mode = Mode::Confirm(SetBackend {
            service: row.service.clone(),
            backend: backend.clone(),
            state,
            within_s: None,
        });
    }

    /// Asks the balancer for a change. Returns what it says.
    fn change(&self, request: &SetBackend) -> String {
        let client = Client::new(self.socket);
        match wait(async { Ok(client.change("/v1/backends", request).await?) }) {
            Ok(_) => "done".to_owned(),
            Err(error) => format!("{error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::model::Row;
    use super::*;

    fn page() -> Page {
        let row = |backend: Option<&str>| Row {
            service: "web".into(),
            backend: backend.map(Into::into),
            ..Row::default()
        };
        Page {
            rows: vec![row(None), row(Some("web-1"))],
            ..Page::default()
        }
    }

    #[test]
    fn a_change_is_asked_for_and_only_y_confirms_it() {
        let mut top = Top::new(Path::new("/nowhere.sock"));
        let press = |top: &mut Top<'_>, keys: &str| {
            let mut keys = keys.chars().map(|key| KeyEvent::from(KeyCode::Char(key)));
            keys.any(|key| top.press(key, &page()))
        };
        let message = |top: &Top<'_>| top.view.message.clone().unwrap_or_default();
        assert!(!press(&mut top, "d"));
        assert!(message(&top).contains("choose a backend"));
        press(&mut top, "jd");
        assert!(
            message(&top).contains("choose a backend"),
            "a service is no backend"
        );
        press(&mut top, "jd");
        assert_eq!(message(&top), "drain web-1 of web? y: yes");
        press(&mut top, "n");
        assert!(message(&top).is_empty() && matches!(top.mode, Mode::Look));
        press(&mut top, "dy");
        assert!(
            message(&top).contains("/nowhere.sock: no such socket"),
            "{}",
            message(&top)
        );
        assert!(press(&mut top, "q"));
    }

    #[test]
    fn a_filter_takes_every_letter() {
        let mut top = Top::new(Path::new("/nowhere.sock"));
        let mut press = |code: KeyCode| top.press(code.into(), &page());
        let ends = "/quit".chars().map(KeyCode::Char).any(&mut press);
        assert!(!ends && !press(KeyCode::Backspace) && !press(KeyCode::Enter));
        assert!(press(KeyCode::Char('q')));
        assert_eq!(top.view.filter, "qui");
    }
}
