//! What nobody should send. Every kind is a row of the table [`KINDS`].

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::benign::Picture;
use super::dice::Dice;
use crate::bench::wire::{BOUNDARY, form, form_type, open, request};

/// Longest time for one attack: more than the server's own limit on slow senders.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prepared files that are expensive to make.
pub(super) struct Arsenal {
    files: BTreeMap<String, Vec<u8>>,
}

impl Arsenal {
    pub(super) fn load(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
            files.insert(name, fs::read(&path)?);
        }
        Ok(Self { files })
    }

    fn file(&self, name: &str) -> &[u8] {
        self.files.get(name).map_or(&[], Vec::as_slice)
    }
}

/// How the bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// All at once; then the answer is waited for.
    Whole,
    /// A piece at a time, so slowly that it never ends.
    Drip,
    /// All that there is, then the connection is cut.
    Vanish,
}

/// One attack.
pub(super) struct Attack {
    pub(super) kind: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) manner: Manner,
    /// Statuses that are right; a closed connection always is, except where `answered`.
    allowed: &'static [u16],
    answered: bool,
}

type Make = fn(&mut Dice, &Arsenal, &[Picture]) -> Vec<u8>;

/// Name, weight, manner, statuses that are right, whether there has to be one, and how it is made.
type Kind = (&'static str, usize, Manner, &'static [u16], bool, Make);

use Manner::{Drip, Vanish, Whole};

const KINDS: [Kind; 31] = [
    ("truncated picture", 12, Whole, &[415, 422], true, |d, _, p| post_image(&truncated(d, p))),
    ("flipped bytes", 8, Whole, &[200, 413, 415, 422], true, |d, _, p| post_image(&flipped(d, p))),
    ("truncated picture among whole ones", 4, Whole, &[415, 422], true, |d, _, p| {
        let (good, bad) = (d.pick(p).file.clone(), truncated(d, p));
        let files: [(&str, &[u8]); 3] = [("a", &good), ("b", &bad), ("c", &good)];
        closing("/v1/analyze", &form_type(), &form(&files))
    }),
    ("header of 60000x60000", 5, Whole, &[413], true, |_, a, _| {
        post_image(a.file("header-of-60000x60000.png"))
    }),
    ("PNG just over the limit", 4, Whole, &[413], true, |_, a, _| post_image(a.file("just-over.png"))),
    ("PNG just under the limit", 1, Whole, &[200], true, |_, a, _| post_image(a.file("just-under.png"))),
    ("PNG without its rows", 3, Whole, &[422], true, |_, a, _| post_image(a.file("rows-missing.png"))),
    ("thousands of scans", 3, Whole, &[422], true, |_, a, _| post_image(a.file("thousands-of-scans.jpg"))),
    ("many scans, just allowed", 1, Whole, &[200, 422], true, |_, a, _| {
        post_image(a.file("scans-allowed.jpg"))
    }),
    ("WebP that claims to be huge", 3, Whole, &[413, 422], true, |_, _, _| post_image(&huge_webp())),
    ("no picture", 6, Whole, &[400, 415, 422], true, |d, _, _| post_image(d.pick::<&[u8]>(&NO_PICTURES))),
    ("wrong content type", 6, Whole, &[400, 415], true, |d, _, p| {
        let kind =
            d.pick(&["text/plain", "application/xml", "multipart/form-data", "video/mp4", "\u{fc}/\u{fc}"]);
        closing("/v1/embed", kind, &d.pick(p).file)
    }),
    ("broken JSON", 12, Whole, &[400, 413, 422], true, |d, _, p| {
        closing("/v1/embed", "application/json", &broken_json(d, p))
    }),
    ("nested JSON", 4, Whole, &[400, 422], true, |d, _, _| {
        let open = d.pick(&["[", "{\"image\":", "{\"images\":[", "{\"a\":{\"image\":"]);
        let levels = 1000 << d.below(8);
        closing("/v1/embed", "application/json", open.repeat(levels).as_bytes())
    }),
    ("JSON with null bytes", 3, Whole, &[400, 422], true, |_, _, _| {
        closing("/v1/embed", "application/json", b"{\"image\": \"\\u0000\\u0000\", \"ima\0ge\": 1}")
    }),
    ("broken multipart", 10, Whole, &[400, 413, 415, 422], true, |d, _, p| {
        closing("/v1/embed", &form_type(), &broken_form(d, p))
    }),
    ("huge headers", 5, Whole, &[400, 431], false, |d, _, _| {
        let rows = match d.below(3) {
            0 => format!("x-big: {}\r\n", "a".repeat(80_000 << d.below(4))),
            1 => "a: b\r\n".repeat(500),
            _ => format!("{}: b\r\n", "n".repeat(70_000)),
        };
        format!("GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rows}\r\n").into_bytes()
    }),
    ("huge address", 3, Whole, &[400, 404, 414, 431], false, |d, _, _| {
        let path = "a".repeat(1000 << d.below(8));
        format!("GET /{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
    }),
    ("slow head", 3, Drip, &[408], false, |_, _, _| {
        b"POST /v1/embed HTTP/1.1\r\nhost: x\r\nx-slow: ".to_vec()
    }),
    ("slow body", 3, Drip, &[408], false, |d, _, p| {
        let whole = post_image(&d.pick(p).file);
        whole[..whole.len() / 2].to_vec()
    }),
    ("body that never comes", 2, Whole, &[100, 408], false, |_, _, _| {
        b"POST /v1/embed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"
            .to_vec()
    }),
    ("gone within the head", 4, Vanish, &[], false, |d, _, p| {
        let whole = post_image(&d.pick(p).file);
        whole[..d.below(60)].to_vec()
    }),
    ("gone within the body", 6, Vanish, &[], false, |d, _, p| {
        let whole = post_image(&d.pick(p).file);
        whole[..100 + d.below(whole.len() - 100)].to_vec()
    }),
    ("gone before the answer", 8, Vanish, &[], false, |d, _, p| post_image(&d.pick(p).file)),
    ("garbage behind a request", 5, Whole, &[200, 400], true, |d, _, _| {
        let mut bytes = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1 + d.below(20));
        bytes.extend((0..2000).map(|_| d.below(256) as u8));
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    }),
    ("noise", 4, Whole, &[400, 408], false, |d, _, _| {
        let start = *d.pick::<&[u8]>(&[
            b"",
            b"\x16\x03\x01\x02\x00\x01",
            b"SSH-2.0-x\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]);
        let noise = (0..200).map(|_| d.below(256) as u8);
        start.iter().copied().chain(noise).chain(*b"\r\n\r\n").collect()
    }),
    ("impossible length", 8, Whole, &[400, 408, 413, 415, 422, 431], false, |d, _, p| {
        impossible_length(d, p)
    }),
    ("broken chunks", 8, Whole, &[400, 408, 413, 415, 422], false, |d, _, p| broken_chunks(d, p)),
    ("a body without end", 1, Whole, &[413], false, |_, _, _| {
        let mut bytes = head("POST /v1/embed", "transfer-encoding: chunked\r\n");
        let piece = [b"100000\r\n".as_slice(), &[0xff; 1 << 20], b"\r\n"].concat();
        bytes.extend(piece.repeat(22));
        bytes
    }),
    ("paths that lead elsewhere", 8, Whole, &[400, 404, 405, 409, 422], true, |d, _, _| {
        let (method, path) = d.pick(&PATHS);
        let body =
            if *method == "GET" { "" } else { "content-length: 2\r\ncontent-type: application/json\r\n" };
        let mut bytes = head(&format!("{method} {path}"), body);
        bytes.extend_from_slice(if body.is_empty() { b"" } else { b"{}" });
        bytes
    }),
    ("odd headers", 5, Whole, &[400, 405, 406], true, |d, _, p| {
        let file = &d.pick(p).file;
        let (line, row) = *d.pick(&[
            ("POST /v1/embed", "x-a: a\0b"),
            ("POST /v1/embed", "accept: image/tiff"),
            ("POST /v1/embed", "no colon"),
            ("POST /v1/embed", " folded: x"),
            ("POST /v1/embed?model", "x: y"),
            ("POST /v1/embed?models=a", "x: y"),
            ("POST /v1/saliency?opacity=NaN", "x: y"),
            ("POST /v1/saliency?max_side=99999999999999999999", "x: y"),
            ("POST /v1/analyze?k=-1", "x: y"),
            ("DELETE /v1/embed", "x: y"),
            ("TRACE /v1/embed", "x: y"),
        ]);
        let mut bytes = head(line, &format!("{row}\r\ncontent-length: {}\r\n", file.len()));
        bytes.extend_from_slice(file);
        bytes
    }),
];

const NO_PICTURES: [&[u8]; 6] = [
    b"GIF89a\x01\0\x01\0\0\0\0;",
    b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    b"",
    b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"II*\0\x08\0\0\0\0\0",
];

const PATHS: [(&str, &str); 14] = [
    ("GET", "/../../../../etc/passwd"),
    ("GET", "/v1/gallery/../../../etc/passwd/thumbnail"),
    ("GET", "/v1/gallery/%2e%2e%2f%2e%2e%2fetc%2fpasswd/thumbnail"),
    ("GET", "/v1/gallery/0%00.jpg/thumbnail"),
    ("GET", "/v1/gallery/-1/thumbnail"),
    ("GET", "/v1/gallery/99999999999999999999999/thumbnail"),
    ("GET", "/%00"),
    ("GET", "/%ff%fe"),
    ("GET", "//etc/passwd"),
    ("PUT", "/v1/collections/..%2f..%2fetc"),
    ("PUT", "/v1/collections/%00"),
    ("POST", "/v1/collections/..%2f..%2fetc/search"),
    ("POST", "/v1/embed?model=../../etc/passwd"),
    ("POST", "/v1/collections/%27%3B%20drop%20table%20points%3B--/count"),
];

/// A request's first lines; the connection is to be closed after it.
fn head(line: &str, rows: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rows}\r\n").into_bytes()
}

fn closing(path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    request(path, &[("content-type", kind), ("connection", "close")], body)
}

fn post_image(file: &[u8]) -> Vec<u8> {
    closing("/v1/embed", "image/jpeg", file)
}

fn truncated(dice: &mut Dice, pictures: &[Picture]) -> Vec<u8> {
    let file = &dice.pick(pictures).file;
    // The last bytes of a PNG say only that it ends.
    file[..1 + dice.below(file.len() * 9 / 10)].to_vec()
}

fn flipped(dice: &mut Dice, pictures: &[Picture]) -> Vec<u8> {
    let mut file = dice.pick(pictures).file.clone();
    for _ in 0..1 + dice.below(30) {
        let at = dice.below(file.len());
        file[at] ^= 1 << dice.below(8);
    }
    file
}

/// An extended WebP whose canvas has 2^24 pixels along both sides.
fn huge_webp() -> Vec<u8> {
    let mut body = b"WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec();
    body.extend_from_slice(&[0xff; 6]);
    body.extend_from_slice(b"VP8L\x05\0\0\0\x2f\xff\xff\xff\x0f\0");
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

fn broken_json(dice: &mut Dice, pictures: &[Picture]) -> Vec<u8> {
    let picture = STANDARD.encode(&dice.pick(pictures).file);
    let whole = format!("{{\"image\": \"{picture}\"}}");
    match dice.below(9) {
        0 => whole[..dice.below(whole.len())].to_owned() + " ",
        1 => format!("{{\"image\": \"{}\"}}", picture.replace('/', "\\ud800")),
        2 => format!("{{\"image\": \"{picture}\", \"images\": [\"{picture}\"]}}"),
        3 => format!("{{\"images\": [{}\"\"]}}", "\"\",".repeat(50_000)),
        4 => "{\"image\": 1e999999}".to_owned(),
        5 => "{\"image\": \"data:image/png;base64\"}".to_owned(),
        6 => "{\"image\": \"http://127.0.0.1:1/x.png\"}".to_owned(),
        7 => format!("{{\"image\": \"!{picture}\"}}"),
        _ => "\u{feff}{}".to_owned(),
    }
    .into_bytes()
}

fn broken_form(dice: &mut Dice, pictures: &[Picture]) -> Vec<u8> {
    let whole = form(&[("a.jpg", &dice.pick(pictures).file)]);
    match dice.below(6) {
        0 => whole[..dice.below(whole.len() - 4)].to_vec(),
        1 => form(&[]),
        2 => String::from_utf8_lossy(&whole).replace(BOUNDARY, "other").into_bytes(),
        3 => form(&vec![("", b"" as &[u8]); 20_000]),
        4 => format!("--{BOUNDARY}\r\n{}: x\r\n\r\n\r\n--{BOUNDARY}--", "n".repeat(100_000)).into_bytes(),
        _ => format!("--{BOUNDARY}\r\nno colon\0here\r\n\r\nx\r\n--{BOUNDARY}--").into_bytes(),
    }
}

fn impossible_length(dice: &mut Dice, pictures: &[Picture]) -> Vec<u8> {
    let rows = dice.pick(&[
        "content-length: -5\r\n",
        "content-length: 99999999999999999999999999\r\n",
        "content-length: 18446744073709551615\r\n",
        "content-length: 1000000000000\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 0x10\r\n",
        "content-length: +7\r\n",
        "content-length:\r\n",
        "content-length: 10\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: chunked, gzip\r\n",
    ]);
    let mut bytes = head("POST /v1/embed", rows);
    bytes.extend_from_slice(&dice.pick(pictures).file);
    bytes
}

fn broken_chunks(dice: &mut Dice, pictures: &[Picture]) -> Vec<u8> {
    let mut bytes = head("POST /v1/embed", "transfer-encoding: chunked\r\n");
    let file = &dice.pick(pictures).file;
    let chunks: Vec<u8> = match dice.below(6) {
        0 => b"zz\r\nabc\r\n".to_vec(),
        1 => b"ffffffffffffffffff\r\nabc\r\n".to_vec(),
        2 => b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n".to_vec(),
        3 => [b"3\r\n", &file[..], b"\r\n0\r\n\r\n"].concat(),
        4 => format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(100_000)).into_bytes(),
        _ => {
            [format!("{:x}\r\n", file.len() - 1).as_bytes(), &file[1..], b"\r\n0\r\na: b\r\nno colon\r\n\r\n"]
                .concat()
        }
    };
    bytes.extend(chunks);
    bytes
}

impl Attack {
    /// One of the kinds, by weight.
    pub(super) fn throw(dice: &mut Dice, arsenal: &Arsenal, pictures: &[Picture]) -> Self {
        let all: usize = KINDS.iter().map(|kind| kind.1).sum();
        let mut left = dice.below(all);
        let heavy = |kind: &&Kind| {
            let here = left < kind.1;
            left = left.saturating_sub(kind.1);
            here
        };
        let kind = KINDS.iter().find(heavy).unwrap_or(&KINDS[0]);
        Self::of(kind, dice, arsenal, pictures)
    }

    /// One of every kind.
    pub(super) fn each(dice: &mut Dice, arsenal: &Arsenal, pictures: &[Picture]) -> Vec<Self> {
        KINDS.iter().map(|kind| Self::of(kind, dice, arsenal, pictures)).collect()
    }

    fn of(kind: &Kind, dice: &mut Dice, arsenal: &Arsenal, pictures: &[Picture]) -> Self {
        let (name, _, manner, allowed, answered, make) = *kind;
        Self { kind: name, bytes: make(dice, arsenal, pictures), manner, allowed, answered }
    }

    /// Sends it and waits for the end of the connection; the statuses that came.
    pub(super) fn send(&self, address: SocketAddr) -> io::Result<Vec<u16>> {
        let mut stream = open(address)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // The server may close before everything is written.
        let _ = stream.write_all(&self.bytes);
        if self.manner == Vanish {
            return Ok(vec![]);
        }
        let (begun, mut seen, mut piece) = (Instant::now(), Vec::new(), [0; 16 << 10]);
        while begun.elapsed() < PATIENCE {
            match stream.read(&mut piece) {
                Ok(0) => return Ok(statuses(&seen)),
                Ok(count) => seen.extend_from_slice(&piece[..count]),
                Err(error) if waits(&error) => {
                    if self.manner == Drip {
                        let _ = stream.write_all(b"a");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
                // A reset is an end, too.
                Err(_) => return Ok(statuses(&seen)),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server kept the connection"))
    }

    /// Why these statuses are wrong.
    pub(super) fn wrong(&self, statuses: &[u16]) -> Option<String> {
        let known = |status: &&u16| !self.allowed.contains(status);
        if let Some(other) = statuses.iter().find(known) {
            return Some(format!("answered {other}, expected one of {:?}", self.allowed));
        }
        (self.answered && statuses.is_empty()).then(|| "closed without an answer".to_owned())
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The status of every answer in these bytes.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let found = text.split("HTTP/1.1 ").skip(1).chain(text.split("HTTP/1.0 ").skip(1));
    found.map(|rest| rest.get(..3).and_then(|s| s.parse().ok()).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_found_and_judged() {
        assert_eq!(statuses(b"HTTP/1.1 200 OK\r\n\r\n{}HTTP/1.1 400 Bad"), [200, 400]);
        assert_eq!(statuses(b"HTTP/1.1 OK"), [0]);
        let attack = Attack { kind: "", bytes: vec![], manner: Whole, allowed: &[200, 400], answered: true };
        assert!(attack.wrong(&[200, 400]).is_none());
        assert!(attack.wrong(&[]).is_some() && attack.wrong(&[500]).is_some());
    }
}
