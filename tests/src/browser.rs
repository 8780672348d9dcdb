//! A headless Chromium, driven by its own driver over `WebDriver` (W3C), which is HTTP with JSON.
//!
//! Invariant: the browser runs in a namespace and ends with the driver or the namespace.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::process::{Process, run, run_with_input};
use crate::{actors, tools};

/// The driver's port in the namespace.
const PORT: u16 = 9515;
/// The key under which an element's id is in answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys as [`Browser::press`] takes them.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const SHIFT: &str = "\u{e008}";
pub const ESCAPE: &str = "\u{e00c}";

/// A browser with one tab.
#[derive(Debug)]
pub struct Browser<'a> {
    namespace: &'a Namespace,
    _driver: Process,
    session: String,
}

impl<'a> Browser<'a> {
    /// Starts the browser; its profile is in `folder`.
    pub fn start(namespace: &'a Namespace, folder: &Path) -> Result<Self> {
        let mut command = namespace.command(tools::find("chromedriver")?);
        command.arg(format!("--port={PORT}")).env("HOME", folder);
        let mut driver = Process::spawn("chromedriver", &command)?;
        actors::wait_listening(namespace, &mut driver, PORT)?;
        let mut browser = Self {
            namespace,
            _driver: driver,
            session: String::new(),
        };
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        // As root its own sandbox does not work; the page is ours.
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            &profile,
        ];
        let options = json!({ "args": args, "binary": tools::find("chromium")? });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } } } });
        let session = browser.post("", &wanted)?;
        let id = session["sessionId"].as_str();
        browser.session = format!("/{}", id.context("the driver gave no session")?);
        Ok(browser)
    }

    /// Opens a page.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({ "url": url })).map(drop)
    }

    /// Runs a function's body in the page and returns its result.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Returns the text that the first matching element shows.
    pub fn text(&self, selector: &str) -> Result<String> {
        let id = self.find(selector)?;
        let text = self.get(&format!("/element/{id}/text"))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Writes into the first matching element, or presses keys there.
    pub fn write(&self, selector: &str, text: &str) -> Result<()> {
        let id = self.find(selector)?;
        self.post(&format!("/element/{id}/value"), &json!({ "text": text }))
            .map(drop)
    }

    /// Clicks the first matching element; an error if something lies over it.
    pub fn click(&self, selector: &str) -> Result<()> {
        let id = self.find(selector)?;
        self.post(&format!("/element/{id}/click"), &json!({}))
            .map(drop)
    }

    /// Presses keys together, and releases them.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        let act = |kind: &'static str| move |key: &&str| json!({ "type": kind, "value": key });
        let down = keys.iter().map(act("keyDown"));
        let up = keys.iter().rev().map(act("keyUp"));
        let actions: Vec<Value> = down.chain(up).collect();
        let keyboard =
            json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.post("/actions", &keyboard).map(drop)
    }

    /// Returns role and name, as assistive programs get them, of each matching element.
    pub fn roles(&self, selector: &str) -> Result<Vec<(String, String)>> {
        let query = json!({ "using": "css selector", "value": selector });
        let found = self.post("/elements", &query)?;
        let found = found.as_array().into_iter().flatten();
        let ask = |id: &str, what: &str| -> Result<String> {
            let answer = self.get(&format!("/element/{id}/{what}"))?;
            Ok(answer.as_str().unwrap_or_default().to_owned())
        };
        let pair = |element: &Value| {
            let id = element[ELEMENT].as_str().context("no element")?;
            Ok((ask(id, "computedrole")?, ask(id, "computedlabel")?))
        };
        found.map(pair).collect()
    }

    /// Returns what the console got since the last call, such as `network: … 401 (Unauthorized)`.
    pub fn console(&self) -> Result<Vec<String>> {
        let lines = self.post("/se/log", &json!({ "type": "browser" }))?;
        let lines = lines.as_array().into_iter().flatten();
        Ok(lines
            .map(|line| format!("{}: {}", line["source"], line["message"]))
            .collect())
    }

    /// Gives the browser a command of Chromium's own protocol.
    pub fn command(&self, name: &str, parameters: &Value) -> Result<Value> {
        let command = json!({ "cmd": name, "params": parameters });
        self.post("/goog/cdp/execute", &command)
    }

    /// Sets the size of the page, in pixels, and the reader's preference: `light` or `dark`.
    pub fn show_as(&self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", &scheme)
            .map(drop)
    }

    /// Returns a picture of the page as PNG, in base64.
    pub fn picture(&self) -> Result<String> {
        let picture = self.get("/screenshot")?;
        Ok(picture.as_str().context("no picture")?.to_owned())
    }

    fn find(&self, selector: &str) -> Result<String> {
        let query = json!({ "using": "css selector", "value": selector });
        let found = self.post("/element", &query)?;
        let id = found[ELEMENT].as_str();
        Ok(id.with_context(|| format!("no {selector}"))?.to_owned())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut command = self.namespace.command("curl");
        value(&run(command.args(["-sS", &self.url(path)]))?, path)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let mut command = self.namespace.command("curl");
        command.args(["-sS", "--json", "@-", &self.url(path)]);
        value(&run_with_input(&command, &body.to_string())?, path)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{PORT}/session{}{path}", self.session)
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        // Best effort: the namespace's end ends the browser too.
        let mut command = self.namespace.command("curl");
        drop(run(command.args(["-sS", "-X", "DELETE", &self.url("")])));
    }
}

/// Returns the value of the driver's answer.
fn value(answer: &str, path: &str) -> Result<Value> {
    let mut answer: Value = serde_json::from_str(answer)?;
    let value = answer["value"].take();
    if let Some(error) = value["error"].as_str() {
        bail!("{path}: {error}: {}", value["message"]);
    }
    ensure!(!path.is_empty() || value.is_object(), "{value}");
    Ok(value)
}
