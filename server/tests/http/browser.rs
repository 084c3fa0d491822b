//! A headless Chromium, driven by the DevTools protocol over a pipe.
//! (Protocol: <https://chromedevtools.github.io/devtools-protocol/>)

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Nothing that a page does takes this long, even on a busy machine.
const WAIT: Duration = Duration::from_secs(60);

/// One tab.
pub(crate) struct Browser {
    child: Child,
    pipe: RefCell<Pipe>,
    session: String,
    _profile: tempfile::TempDir,
}

struct Pipe {
    commands: ChildStdin,
    messages: Receiver<Value>,
    sent: u64,
    /// Events that nobody has asked for yet.
    events: Vec<Value>,
}

/// The program: `OCCLUDE_CHROMIUM`, else the first that is installed.
fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("OCCLUDE_CHROMIUM") {
        return Some(path.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let path = std::env::var_os("PATH")?;
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|p| p.is_file())
}

impl Browser {
    /// Starts one; `None` where there is no Chromium and the test is skipped.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = program() else {
            occlude_skip::test(
                "Chromium",
                "install it, e.g. `apt install chromium`, or point `OCCLUDE_CHROMIUM` at it",
            );
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // The pipe is file descriptors 3 and 4. The sandbox cannot run as root; the pages are this server's.
        let shell = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", shell])
            .arg(&program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-dev-shm-usage", "--disable-extensions"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while answers.read_until(0, &mut line).is_ok_and(|n| n > 0) {
                line.pop();
                if sender.send(serde_json::from_slice(&line).unwrap()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let commands = child.stdin.take().unwrap();
        let pipe = Pipe { commands, messages, sent: 0, events: Vec::new() };
        let mut browser = Self { child, pipe: RefCell::new(pipe), session: String::new(), _profile: profile };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "DOM", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        let watch = "window.violations = []; addEventListener('securitypolicyviolation', \
                     (e) => violations.push(e.violatedDirective + ' ' + e.blockedURI));";
        browser.call("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": watch }));
        browser.size(1280, 900, false);
        Some(browser)
    }

    /// A command of the protocol; its result.
    pub(crate) fn call(&self, method: &str, params: &Value) -> Value {
        let mut pipe = self.pipe.borrow_mut();
        pipe.sent += 1;
        let id = pipe.sent;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() && !method.starts_with("Target.") && !method.starts_with("Browser.") {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        pipe.commands.write_all(&bytes).unwrap();
        loop {
            let answer = pipe.messages.recv_timeout(WAIT).unwrap_or_else(|_| panic!("no answer to {method}"));
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            if answer["id"].is_null() {
                pipe.events.push(answer);
            }
        }
    }

    /// Waits for an event, and takes it out of those that came; its parameters.
    pub(crate) fn event(&self, method: &str) -> Value {
        let start = Instant::now();
        loop {
            let mut pipe = self.pipe.borrow_mut();
            if let Some(i) = pipe.events.iter().position(|e| e["method"] == method) {
                return pipe.events.remove(i)["params"].clone();
            }
            assert!(start.elapsed() < WAIT, "there was no {method}");
            if let Ok(event) = pipe.messages.recv_timeout(Duration::from_millis(50)) {
                pipe.events.push(event);
            }
        }
    }

    pub(crate) fn open(&self, url: &str) {
        // The page before, if any, may answer a little longer.
        self.eval("window.isLeft = true");
        self.call("Page.navigate", &json!({ "url": url }));
        self.until("!window.isLeft && document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    pub(crate) fn size(&self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    pub(crate) fn scheme(&self, name: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": name }]);
        self.call("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// The value of an expression of the page; promises are awaited.
    pub(crate) fn eval(&self, expression: &str) -> Value {
        let how = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "replMode": true });
        let result = self.call("Runtime.evaluate", &how);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    pub(crate) fn text(&self, expression: &str) -> String {
        self.eval(expression).as_str().unwrap_or_else(|| panic!("{expression} is no text")).to_owned()
    }

    /// Waits until an expression holds.
    pub(crate) fn until(&self, expression: &str) {
        let start = Instant::now();
        while self.eval(&format!("Boolean({expression})")) != true {
            if start.elapsed() > WAIT {
                let error = self.eval("document.getElementById('error')?.innerText");
                panic!("`{expression}` never held; the page says {error}");
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Presses a key that the protocol knows by `name`: `Tab`, `Enter`, `ArrowRight`.
    pub(crate) fn press(&self, name: &str) {
        let code = match name {
            "Tab" => 9,
            "Enter" => 13,
            "End" => 35,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            other => panic!("{other}"),
        };
        let mut key =
            json!({ "type": "rawKeyDown", "key": name, "code": name, "windowsVirtualKeyCode": code });
        if name == "Enter" {
            key["type"] = "keyDown".into();
            key["text"] = "\r".into();
        }
        self.call("Input.dispatchKeyEvent", &key);
        key["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", &key);
    }

    /// Drags with the left button from one place of the window to another, with Shift or without.
    pub(crate) fn drag(&self, from: (f64, f64), to: (f64, f64), shift: bool) {
        let send = |kind: &str, (x, y): (f64, f64)| {
            let modifiers = if shift { 8 } else { 0 };
            let event = json!({
                "type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1, "modifiers": modifiers,
            });
            self.call("Input.dispatchMouseEvent", &event);
        };
        send("mousePressed", from);
        for step in 1..=4 {
            let part = f64::from(step) / 4.0;
            send("mouseMoved", (from.0 + (to.0 - from.0) * part, from.1 + (to.1 - from.1) * part));
        }
        send("mouseReleased", to);
    }

    /// Left, top, width and height of an element in the window.
    pub(crate) fn place(&self, selector: &str) -> [f64; 4] {
        let expression = format!(
            "(({{ left, top, width, height }}) => [left, top, width, height])(document.querySelector({}).getBoundingClientRect())",
            json!(selector)
        );
        serde_json::from_value(self.eval(&expression)).unwrap()
    }

    pub(crate) fn write(&self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// Gives files to the element that `selector` finds.
    pub(crate) fn choose(&self, selector: &str, files: &[PathBuf]) {
        let root = self.call("DOM.getDocument", &json!({}))["root"]["nodeId"].clone();
        let found = self.call("DOM.querySelector", &json!({ "nodeId": root, "selector": selector }));
        self.call("DOM.setFileInputFiles", &json!({ "nodeId": found["nodeId"], "files": files }));
    }

    /// Where saved files go.
    pub(crate) fn save_into(&self, dir: &Path) {
        self.call("Browser.setDownloadBehavior", &json!({ "behavior": "allow", "downloadPath": dir }));
    }

    /// A picture of the whole page, where `OCCLUDE_SCREENSHOTS` names a folder for them.
    pub(crate) fn screenshot(&self, name: &str) {
        use base64::Engine;

        let Some(dir) = std::env::var_os("OCCLUDE_SCREENSHOTS") else { return };
        let how = json!({ "captureBeyondViewport": true });
        let data = self.call("Page.captureScreenshot", &how)["data"].as_str().unwrap().to_owned();
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        std::fs::write(Path::new(&dir).join(name).with_extension("png"), bytes).unwrap();
    }

    /// Nothing was thrown, and the content security policy refused nothing.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.eval("violations"), json!([]));
        let pipe = self.pipe.borrow();
        let thrown: Vec<_> =
            pipe.events.iter().filter(|e| e["method"] == "Runtime.exceptionThrown").collect();
        assert!(thrown.is_empty(), "{thrown:?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
