//! A server with pictures, a browser before it, and what a person does there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::binary::{Running, pictures};
use crate::browser::Browser;
use crate::common::*;

/// A name that a careless command would break at.
pub(crate) const PHOTO: &str = "my photo's.png";

/// What of the page's modules tests speak of: all of its state, and some functions.
const HANDLES: &str = "{
    const names = ['state', 'dom', 'api', 'controls', 'saliency', 'look', 'send', 'server', 'region', 'saves'];
    const load = (name) => import(new URL('page/' + name + '.js', document.baseURI).href);
    const [{ state }, dom, api, controls, saliency, look, send, server, region, saves] = await Promise.all(names.map(load));
    for (const name of Object.keys(state)) {
        const [get, set] = [() => state[name], (value) => { state[name] = value; }];
        Object.defineProperty(window, name, { get, set, configurable: true });
    }
    const { $ } = dom, { ask, fail } = api, { drawn } = controls, { foreground, parts } = saliency;
    const { take } = look, { headersOf, send: sent } = send, { sources } = server, { mark } = region, { coco } = saves;
    Object.assign(window, { $, ask, fail, drawn, foreground, parts, take, headersOf, send: sent, sources, mark, coco });
    true
}";

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Running,
    pub(crate) browser: Browser,
}

/// A proxy that puts the server below a path of its own, as many do: it takes the path off again.
pub(crate) fn behind_a_path(server: &Running) -> String {
    let upstream = server.address.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = upstream.clone();
            std::thread::spawn(move || pass_on(client, &upstream));
        }
    });
    format!("http://{address}/occ")
}

/// One request of a connection; the answer ends it.
fn pass_on(mut client: TcpStream, upstream: &str) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0u8]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let (line, rest) = text.split_once("\r\n")?;
    let (method, target) = line.split_once(' ')?;
    let Some(inside) = target.strip_prefix("/occ") else {
        return client
            .write_all(b"HTTP/1.1 502 Not Ours\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .ok();
    };
    let inside = if inside.starts_with('/') { inside.to_owned() } else { format!("/{inside}") };
    let kept: Vec<&str> = rest.lines().filter(|l| !l.to_lowercase().starts_with("connection:")).collect();
    let head = format!("{method} {inside}\r\nconnection: close\r\n{}\r\n\r\n", kept.join("\r\n").trim_end());
    let mut server = TcpStream::connect(upstream).ok()?;
    server.write_all(head.as_bytes()).ok()?;
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::io::copy(&mut server, &mut client).ok()?;
    client.shutdown(std::net::Shutdown::Both).ok()
}

impl Scene {
    /// `None` where there is no browser.
    pub(crate) fn start(flags: &[&str]) -> Option<Self> {
        let browser = Browser::start()?;
        let dir = tempfile::tempdir().unwrap();
        pictures(&dir.path().join("gallery"));
        std::fs::write(dir.path().join(PHOTO), png_of(420, 280, &disks(420, 280))).unwrap();
        std::fs::write(dir.path().join("other.png"), png_of(120, 200, &ramp(120, 200))).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "not a picture at all").unwrap();
        let gallery = dir.path().join("gallery");
        let all: Vec<&str> =
            ["--gallery", gallery.to_str().unwrap()].into_iter().chain(flags.iter().copied()).collect();
        let server = Running::start(&all);
        server.wait_for("ready");
        let scene = Self { dir, server, browser };
        scene.open(&scene.url());
        scene.browser.until("server.gallery");
        Some(scene)
    }

    /// Opens the page, and gives its modules' names to the expressions of tests.
    pub(crate) fn open(&self, url: &str) {
        self.browser.open(url);
        self.browser.until("document.body.classList.contains('started')");
        assert_eq!(self.browser.eval(HANDLES), true);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.server.address)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn choose(&self, names: &[&str]) {
        let files: Vec<_> = names.iter().map(|n| self.path(n)).collect();
        self.browser.choose("#file", &files);
        self.answered();
    }

    /// Waits for the answer about the picture on show.
    pub(crate) fn answered(&self) {
        self.browser.until("shown && shown.bitmap && $('busy').hidden && map");
    }

    /// Moves the threshold as a person does, and waits for the server.
    pub(crate) fn threshold(&self, deviations: f64) {
        let set =
            format!("$('threshold').value = {deviations}; $('threshold').dispatchEvent(new Event('input'))");
        self.browser.eval(&set);
        self.browser.eval("$('threshold').dispatchEvent(new Event('change')); true");
        self.answered();
    }

    /// Runs a command where the pictures are.
    pub(crate) fn run(&self, program: &str, flag: &str, text: &str, key: &str) -> Output {
        let mut command = Command::new(program);
        command.args([flag, text]).current_dir(self.dir.path()).env("OCCLUDE_KEY", key);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    pub(crate) fn curl(&self, key: &str) -> Output {
        self.run("sh", "-euc", &self.browser.text("$('curl').textContent"), key)
    }

    pub(crate) fn python(&self, key: &str) -> Output {
        let python = std::env::var("OCCLUDE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        self.run(&python, "-c", &self.browser.text("$('python').textContent"), key)
    }
}

/// Two bright disks on a dark ramp.
fn disks(width: u32, height: u32) -> Vec<u8> {
    let inside = |x: u32, y: u32, cx: i64, cy: i64, r: i64| {
        let (dx, dy) = (i64::from(x) - cx, i64::from(y) - cy);
        dx * dx + dy * dy < r * r
    };
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        if inside(x, y, 150, 110, 60) {
            [235, 170, 60]
        } else if inside(x, y, 300, 200, 40) {
            [90, 200, 220]
        } else {
            [(x * 70 / width) as u8 + 20, 40, (y * 60 / height) as u8 + 30]
        }
    };
    (0..width * height).flat_map(pixel).collect()
}

pub(crate) fn wait_for_file(path: &Path) -> Vec<u8> {
    for _ in 0..600 {
        if path.exists() {
            return std::fs::read(path).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{} was never saved", path.display());
}
