//! The program itself, as a user or a supervisor runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::*;

const WAIT: Duration = Duration::from_secs(60);

pub(crate) struct Running {
    child: Child,
    pub(crate) address: String,
    log: Mutex<Receiver<String>>,
}

impl Running {
    /// Starts the program with a fixture model on a free port and waits until it is ready.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let model = fixture("tiny.onnx");
        let all = ["--model", model.to_str().unwrap()].into_iter().chain(flags.iter().copied());
        Self::bare(&all.collect::<Vec<_>>())
    }

    /// Likewise, without a model.
    pub(crate) fn bare(flags: &[&str]) -> Self {
        Self::with_environment(flags, &[])
    }

    pub(crate) fn with_environment(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command()
            .args(["--port", "0"])
            .args(flags)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
        let mut running = Self { child, address: String::new(), log: Mutex::new(log) };
        let first = running.wait_for("occlude-serve");
        let address = first.split("://").nth(1).unwrap();
        running.address =
            address.split(|c: char| !c.is_ascii_digit() && !".:".contains(c)).next().unwrap().to_owned();
        running
    }

    /// Where it speaks gRPC; the line about it is the one after that of the HTTP port.
    pub(crate) fn grpc_address(&self) -> String {
        let line = self.wait_for("gRPC on ");
        line.split("gRPC on ")
            .nth(1)
            .unwrap()
            .chars()
            .filter(|c| c.is_ascii_digit() || ".:".contains(*c))
            .collect()
    }

    /// Sends a body and gives the whole answer as text.
    pub(crate) fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        self.try_send(method, path, kind, body).unwrap()
    }

    /// Likewise; nothing where the server is gone.
    pub(crate) fn try_send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Option<String> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\n\
             content-length: {length}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let mut answer = Vec::new();
        // What came before the end counts, if it is whole.
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn post(&self, body: &[u8], path: &str) -> String {
        self.ask(&post(body, path))
    }

    pub(crate) fn get(&self, path: &str) -> String {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn wait_for(&self, what: &str) -> String {
        loop {
            let line = self
                .log
                .lock()
                .unwrap()
                .recv_timeout(WAIT)
                .unwrap_or_else(|_| panic!("the log never said `{what}`"));
            if line.contains(what) {
                return line;
            }
        }
    }

    pub(crate) fn ask(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn terminate(mut self) -> (i32, Vec<String>) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let code = self.child.wait().unwrap().code().unwrap();
        (code, self.log.lock().unwrap().iter().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a script of the Python environment in a folder, with the server's address as its argument; for the official
/// clients of the APIs.
pub(crate) fn python(script: &str, server: &Running, folder: &Path) {
    let python = std::env::var("OCCLUDE_PYTHON").expect("`OCCLUDE_PYTHON`: run `cargo xtask setup`");
    let address = format!("http://{}", server.address);
    let output = Command::new(python).args(["-c", script, &address]).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_occlude-serve"))
}

pub(crate) fn fails(flags: &[&str]) -> (i32, String) {
    let output = command().args(flags).output().unwrap();
    assert!(output.stdout.is_empty(), "stdout carries data only");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn post(body: &[u8], path: &str) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

const READY: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

pub(crate) fn pictures(dir: &Path) {
    for (class, name, colour) in [("red", "a.png", [240, 20, 20]), ("blue", "b.png", [20, 20, 240])] {
        std::fs::create_dir_all(dir.join(class)).unwrap();
        std::fs::write(dir.join(class).join(name), png(60, 40, colour)).unwrap();
    }
    std::fs::write(dir.join("red/broken.png"), "no picture").unwrap();
}

#[test]
fn serves_a_gallery_and_ends_cleanly_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let server = Running::start(&["--gallery", dir.path().to_str().unwrap(), "--provider", "auto"]);
    server.wait_for("provider: ");
    assert!(server.wait_for("skipped: ").contains("broken.png"));
    assert!(server.wait_for("gallery").contains("2 pictures"));
    server.wait_for("ready");
    let ready = server.ask(READY);
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"provider\":\"C"), "{ready}");
    let found = server.ask(&post(&png(60, 40, [240, 20, 20]), "/v1/search?k=1"));
    assert!(found.contains("\"path\":\"red/a.png\"") && found.contains("\"class\":\"red\""), "{found}");
    let (code, log) = server.terminate();
    assert_eq!(code, 0);
    assert!(log.iter().any(|l| l.contains("SIGTERM")), "{log:?}");
}

/// One request after the other until the server is gone; how many were answered with 200, and how many turned away.
fn ask_until_the_end(address: &str, request: &[u8], answered: &AtomicUsize) -> (usize, usize) {
    let (mut whole, mut refused) = (0, 0);
    loop {
        let Ok(mut stream) = TcpStream::connect(address) else { return (whole, refused) };
        let sent = stream.write_all(request);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        if bytes.is_empty() {
            // The door was closed before the server saw this connection.
            continue;
        }
        let answer = String::from_utf8_lossy(&bytes);
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer} {read:?} {sent:?}"));
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length.parse(), Ok(body.len()), "cut off: {read:?} {sent:?}");
        if head.starts_with("HTTP/1.1 200") {
            whole += 1;
            answered.fetch_add(1, Ordering::Relaxed);
        } else {
            assert!(head.starts_with("HTTP/1.1 503") && body.contains("\"draining\""), "{answer}");
            refused += 1;
        }
    }
}

/// With a delay, the end is announced before anything is refused; a second signal cuts it short.
#[test]
fn with_a_delay_requests_are_answered_after_sigterm() {
    let mut server = Running::start(&["--shutdown-delay", "1h"]);
    server.wait_for("ready");
    let picture = png_of(40, 30, &ramp(40, 30));
    server.signal("TERM");
    server.wait_for("SIGTERM: no longer ready; answering for 3600 s more");
    let ready = server.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("\"draining\""), "{ready}");
    assert!(server.get("/metrics").contains("occlude_ready 0\n"));
    // A connection that the client would keep is closed: the next one may lead to another server.
    let length = picture.len();
    let head = format!("POST /v1/embed HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let answer = server.ask(&[head.as_bytes(), &picture].concat());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    server.signal("TERM");
    server.wait_for("SIGTERM: finishing accepted requests");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// The signal comes while clients ask without a pause: all that the server's log calls answered has arrived, whole.
#[test]
fn sigterm_under_load_answers_what_was_accepted() {
    let server = Running::start(&["--max-batch", "2", "--decode-threads", "1"]);
    server.wait_for("ready");
    let answered = Arc::new(AtomicUsize::new(0));
    let request = post(&png_of(600, 400, &ramp(600, 400)), "/v1/analyze");
    let client = || {
        let (address, request, answered) = (server.address.clone(), request.clone(), Arc::clone(&answered));
        std::thread::spawn(move || ask_until_the_end(&address, &request, &answered))
    };
    let clients: Vec<_> = (0..16).map(|_| client()).collect();
    let start = Instant::now();
    while answered.load(Ordering::Relaxed) < 40 {
        assert!(start.elapsed() < WAIT);
        std::thread::sleep(Duration::from_millis(1));
    }
    let (code, log) = server.terminate();
    assert_eq!(code, 0);
    let seen = clients.into_iter().map(|c| c.join().unwrap());
    let (whole, refused) = seen.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    let logged = |status: &str| log.iter().filter(|l| l.contains("POST") && l.contains(status)).count();
    assert_eq!((logged("status=200"), logged("status=503")), (whole, refused), "{log:#?}");
    assert_eq!(logged("POST"), whole + refused, "{log:#?}");
}

#[test]
fn what_cannot_start_says_why() {
    let (code, error) = fails(&["--model", "gone.onnx", "--port", "0"]);
    assert_eq!(code, 1);
    assert!(error.contains("no model at `gone.onnx`; hint: "), "{error}");
    let refused = fixture("no-contract.onnx");
    let (code, error) = fails(&["--model", refused.to_str().unwrap(), "--port", "0"]);
    assert!(code == 1 && error.contains("no metadata `preprocess`"), "{error}");
    let model = fixture("tiny.onnx");
    let model = model.to_str().unwrap();
    let (code, error) = fails(&["--model", model, "--port", "0", "--gallery", "gone"]);
    assert!(code == 1 && error.contains("no such folder: `gone`"), "{error}");
    let (code, error) = fails(&["--model", model, "--host", "192.0.2.1"]);
    assert!(code == 1 && error.contains("cannot listen on 192.0.2.1:8080"), "{error}");
    let (code, error) = fails(&["--model", model, "--max-batch", "0"]);
    assert!(code == 2 && error.contains("`--max-batch` must be at least 1"), "{error}");
    let (code, _) = fails(&["--model", model, "--nonsense"]);
    assert_eq!(code, 2);
}

#[test]
fn a_missing_library_is_named_with_a_hint() {
    let model = fixture("tiny.onnx");
    let output = command()
        .args(["--model", model.to_str().unwrap(), "--port", "0"])
        .env("ORT_DYLIB_PATH", "nowhere/libonnxruntime.so")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("hint: correct or unset it"), "{error}");
    let text = tempfile::NamedTempFile::new().unwrap();
    let output = command()
        .args(["--model", model.to_str().unwrap(), "--port", "0"])
        .env("ORT_DYLIB_PATH", text.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("cannot load ONNX Runtime from"), "{error}");
}

#[test]
fn help_describes_every_flag() {
    let output = command().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for flag in ["--model", "--gallery", "--provider", "--max-delay", "--max-queue", "--drain-timeout"] {
        assert!(help.contains(flag), "{flag}");
    }
}
