//! The page in a real browser: what it shows is true, and it steers by keyboard alone.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::browser::{Browser, ENTER, ESCAPE, TAB};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::process::{retry, run_with_input};
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Config, Layout, Load, Server, Topology, Waxwing};

use crate::consequences::stay;
use crate::health::three;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        the_page_shows_what_is_and_what_is_wrong,
        "chromedriver",
        "chromium",
        "curl"
    )
    .heavy(),
    scenario!(
        the_page_steers_by_keyboard_and_shows_no_markup,
        "chromedriver",
        "chromium",
        "curl"
    )
    .heavy(),
];

const LISTEN: &str = "127.0.0.1:9118";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// How long the page may take for what it is waited for. Its rates look five seconds back.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder into which pictures for the documents are written, if it is set.
const PICTURES: &str = "WAXWING_PICTURES";

/// A text that a page that took it for markup would run.
const HOSTILE: &str = "<img src=x onerror=document.title=1>";

/// Returns three servers, and a config with the API on a TCP port.
fn listening(topology: &Topology) -> Result<(Vec<Server<'_>>, Config)> {
    let (servers, config) = three(topology)?;
    let token = topology.scratch.write("token", TOKEN)?;
    Ok((servers, config.listening(LISTEN, token)))
}

/// Opens the page and enters a wrong token, then the right one.
fn open(topology: &Topology) -> Result<Browser<'_>> {
    let browser = Browser::start(&topology.balancer, topology.scratch.path())?;
    browser.open(&format!("http://{LISTEN}/"))?;
    wait_text(&browser, "#ask", "asks for the token")?;
    browser.write("#token", &format!("not-{TOKEN}{ENTER}"))?;
    wait_text(&browser, "#token-error", "not the balancer's token")?;
    browser.write("#token", &format!("{TOKEN}{ENTER}"))?;
    wait_text(&browser, "#cards", "server-3")?;
    Ok(browser)
}

fn wait_text(browser: &Browser<'_>, selector: &str, text: &str) -> Result<()> {
    retry(PATIENCE, || {
        let shown = browser.text(selector)?;
        ensure!(shown.contains(text), "{selector} has no {text:?}: {shown}");
        Ok(())
    })
}

/// Returns what each backend's row shows in a column, the first number of it.
fn column(browser: &Browser<'_>, label: &str) -> Result<Vec<f64>> {
    let cells = browser.run(&format!(
        "return [...document.querySelectorAll('#cards td[data-label=\"{label}\"]')]\
         .map((cell) => parseFloat(cell.innerText))"
    ))?;
    let cells = cells.as_array().context("no cells")?;
    Ok(cells.iter().filter_map(Value::as_f64).collect())
}

/// Waits until a column shows these numbers, each within `off`.
fn wait_column(browser: &Browser<'_>, label: &str, expected: [f64; 3], off: f64) -> Result<()> {
    retry(PATIENCE, || {
        let shown = column(browser, label)?;
        let mut pairs = shown.iter().zip(expected);
        let is_close = shown.len() == 3 && pairs.all(|(shown, it)| (shown - it).abs() <= off);
        ensure!(is_close, "{label}: {shown:?}, not {expected:?}");
        Ok(())
    })
}

/// Asserts that the console has nothing but requests that failed: no script failed, and nothing was refused
/// by the content security policy.
fn assert_quiet(browser: &Browser<'_>) -> Result<()> {
    let mut lines = browser.console()?;
    lines.retain(|line| !line.starts_with("\"network\""));
    ensure!(lines.is_empty(), "{lines:?}");
    Ok(())
}

/// Asserts that nothing has to be scrolled sideways on a phone.
fn assert_fits_a_phone(browser: &Browser<'_>) -> Result<()> {
    browser.show_as(360, 740, "light")?;
    retry(PATIENCE, || {
        let width = browser.run("return document.documentElement.scrollWidth")?;
        ensure!(width.as_u64() <= Some(360), "it is {width} wide");
        Ok(())
    })
}

/// Writes a picture of the page if one is asked for.
fn picture(browser: &Browser<'_>, name: &str) -> Result<()> {
    let Some(folder) = std::env::var_os(PICTURES) else {
        return Ok(());
    };
    let path = Path::new(&folder).join(name);
    let mut decode = Command::new("sh");
    decode.args(["-c", "base64 -d > \"$0\""]).arg(path);
    run_with_input(&decode, &browser.picture()?).map(drop)
}

fn the_page_shows_what_is_and_what_is_wrong() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (mut servers, config) = listening(&topology)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    let browser = open(&topology)?;
    wait_text(&browser, "#problems", "No problem is known")?;
    // The sockets have it too.
    let socket = config.socket().to_string_lossy();
    let args = ["-sS", "--unix-socket", &socket, "http://waxwing/"];
    let page = topology.balancer.run("curl", &args)?;
    ensure!(page.contains("<title>Waxwing</title>"), "{page}");
    let load = Load {
        rate: 150,
        ..connections(VIP4, 80, UNTIL_STOPPED)
    };
    let mut load = RunningLoad::start(&topology.client, load)?;

    wait_column(&browser, "Share of new sessions", [33.3; 3], 1.0)?;
    wait_column(&browser, "New", [50.0; 3], 5.0)?;
    ensure!(
        waxwing
            .ask(&["backend", "weight", "web", "server-1", "2"])?
            .status
            .success()
    );
    wait_column(&browser, "Share of new sessions", [50.0, 25.0, 25.0], 1.5)?;
    wait_text(&browser, "#cards", "weight 2: 50 %, set to 2")?;
    wait_text(&browser, "#event-list", "/v1/backends/weight")?;

    servers[2].stop()?;
    wait_text(&browser, "#problem-list", "server-3")?;
    wait_text(
        &browser,
        "#problem-list",
        "web degraded: 1 of 3 backends down",
    )?;
    wait_text(&browser, "#cards", "✗ down")?;
    wait_text(&browser, "#event-list", "server-3")?;
    wait_column(&browser, "Share of new sessions", [66.7, 33.3, 0.0], 2.0)?;
    let label = browser.roles("svg")?;
    ensure!(
        label[0].0 == "image" && label[0].1.contains("server-1"),
        "{label:?}"
    );

    for scheme in ["light", "dark"] {
        browser.show_as(1100, 1000, scheme)?;
        let ground = browser.run("return getComputedStyle(document.body).backgroundColor")?;
        let is_dark = ground == "rgb(20, 23, 28)";
        ensure!(is_dark == (scheme == "dark"), "{scheme}: {ground}");
        picture(&browser, &format!("page-{scheme}.png"))?;
    }
    assert_fits_a_phone(&browser)?;
    load.stop()?;
    load.finish()?;

    waxwing.stop()?;
    wait_text(&browser, "#away", "No answer since")?;
    let waxwing = Waxwing::start(&topology, &config)?;
    retry(PATIENCE, || {
        let away = browser.text("#away")?;
        ensure!(away.is_empty(), "{away}");
        Ok(())
    })?;
    assert_quiet(&browser)?;
    waxwing.stop().map(drop)
}

/// Presses Tab until a control has the focus.
fn tab_to(browser: &Browser<'_>, name: &str) -> Result<()> {
    let focus = "const it = document.activeElement; \
        return [it.ariaLabel ?? it.innerText, getComputedStyle(it).outlineStyle]";
    for _ in 0..100 {
        browser.press(&[TAB])?;
        let focused = browser.run(focus)?;
        if focused[0] == name {
            ensure!(focused[1] == "solid", "the focus on {name} does not show");
            return Ok(());
        }
    }
    bail!("Tab does not reach {name}")
}

/// Opens the dialog of a control, and presses its other button.
fn confirm(browser: &Browser<'_>, name: &str, action: &str) -> Result<()> {
    tab_to(browser, name)?;
    browser.press(&[ENTER])?;
    ensure!(browser.run("return document.getElementById('confirm').open")? == true);
    tab_to(browser, action)?;
    browser.press(&[ENTER])
}

/// Asserts that an assistive program can name all that can be used.
fn assert_named(browser: &Browser<'_>) -> Result<()> {
    let mut controls = browser.roles("main button, main input, main select, summary, a, table")?;
    // Those that are hidden.
    controls.retain(|(role, _)| role != "none");
    ensure!(controls.len() > 20, "{controls:?}");
    for (role, name) in &controls {
        ensure!(!name.is_empty() && !role.is_empty(), "{role} {name:?}");
    }
    let has = |role: &str| controls.iter().any(|(of, _)| of == role);
    ensure!(
        ["button", "searchbox", "table", "link"]
            .into_iter()
            .all(has),
        "{controls:?}"
    );
    let landmarks = browser.roles("main, header, nav, section[aria-labelledby]")?;
    let named = landmarks
        .iter()
        .filter(|(role, name)| role == "region" && !name.is_empty());
    ensure!(named.count() >= 6, "{landmarks:?}");
    Ok(())
}

fn the_page_steers_by_keyboard_and_shows_no_markup() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = listening(&topology)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    let browser = open(&topology)?;
    let admin = |backend: usize| -> Result<Value> {
        let shown = waxwing.ask(&["backend", "list", "--json"])?;
        let list: Value = serde_json::from_str(&shown.stdout)?;
        Ok(list["items"][backend]["health"].clone())
    };

    tab_to(&browser, "Disable server-1 of web")?;
    browser.press(&[ENTER])?;
    browser.press(&[ESCAPE])?;
    ensure!(admin(0)?["admin"] == "enable", "it was not confirmed");
    confirm(&browser, "Drain server-1 of web", "Drain")?;
    wait_text(&browser, "#done", "Drain server-1 of web")?;
    ensure!(admin(0)?["admin"] == "drain", "{}", admin(0)?);
    wait_text(&browser, "#cards", "⇣ draining")?;
    // The focus is where it was.
    let focus = browser.run("return document.activeElement.ariaLabel")?;
    ensure!(focus == "Drain server-1 of web", "{focus}");

    tab_to(&browser, "Weight server-2 of web")?;
    browser.press(&[ENTER])?;
    browser.write("#confirm-value", "0")?;
    browser.press(&[ENTER])?;
    wait_text(&browser, "#done", "Weight of server-2 of web")?;
    ensure!(admin(1)?["operator_weight"] == 10, "{}", admin(1)?);

    let (_connection, _) = stay(&topology)?;
    browser.write("input[name=client]", &format!("10.1.0.0/24{ENTER}"))?;
    wait_text(&browser, "#session-note", "1 session, all that match")?;
    wait_text(&browser, "#session-list", "active")?;
    browser.write("input[name=backend]", &format!("{HOSTILE}{ENTER}"))?;
    wait_text(&browser, "#session-note", HOSTILE)?;

    // No build was before the shipped one.
    let policy = &config.services[0].policy;
    let button = format!("Roll back {policy}");
    confirm(&browser, &button, "Roll back")?;
    retry(PATIENCE, || {
        let why = browser.text("#confirm-error")?;
        ensure!(!why.is_empty(), "the refusal is not told");
        Ok(())
    })?;
    browser.press(&[ESCAPE])?;

    assert_named(&browser)?;
    waxwing.ask(&["backend", "drain", HOSTILE, "x"])?;
    wait_text(&browser, "#event-list", HOSTILE)?;
    // All that the balancer says is hostile now.
    let script = format!(
        "const of = window.fetch; window.fetch = async (...args) => {{ \
            const text = await (await of(...args)).text(); \
            return new Response(text.replaceAll('server-2', {HOSTILE:?}) \
                .replaceAll('shipped', {HOSTILE:?})); }}"
    );
    browser.run(&script)?;
    for part in ["#cards", "#module-cards"] {
        wait_text(&browser, part, HOSTILE)?;
    }
    let images = browser.run("return document.images.length")?;
    ensure!(images == 0, "{images} images");
    assert_quiet(&browser)?;
    waxwing.stop().map(drop)
}
