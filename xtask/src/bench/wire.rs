//! HTTP/1.1 as bytes: a client that costs next to nothing beside the server it measures, and that can say what no
//! proper client would.

use anyhow::{Context, Result, ensure};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for a piece of an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a connection lies unused before another takes its place: less than servers keep them.
const IDLE: Duration = Duration::from_secs(1);
/// More than any answer here has.
const MAX_ANSWER: usize = 64 << 20;

/// One connection, opened again where the server has closed it.
pub(super) struct Wire {
    address: SocketAddr,
    stream: Option<(TcpStream, Instant)>,
    buffer: Vec<u8>,
}

/// An answer; its body is the last `body` bytes of what the connection read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Head in small letters, without the status line.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// A header's value; `name` in small letters.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let rows = self.head.lines().filter_map(|row| row.split_once(':'));
        rows.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).next()
    }
}

impl Wire {
    /// `url`: `http://127.0.0.1:port`. Connects with the first request.
    pub(super) fn new(url: &str) -> Result<Self> {
        let address = url.strip_prefix("http://").unwrap_or(url);
        let address = address.parse().with_context(|| format!("`{address}` is not an address"))?;
        Ok(Self { address, stream: None, buffer: Vec::new() })
    }

    /// Where the server is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a whole request and reads the answer. The connection stays open unless the answer says otherwise.
    pub(super) fn ask(&mut self, request: &[u8]) -> io::Result<Reply> {
        let mut stream = match self.stream.take() {
            Some((stream, used)) if used.elapsed() < IDLE => stream,
            _ => open(self.address)?,
        };
        // A server that refuses may answer before it has everything.
        let sent = stream.write_all(request);
        let reply = match read_reply(&mut stream, &mut self.buffer)? {
            Some(reply) => reply,
            None => return Err(sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        };
        if sent.is_ok() && reply.header("connection") != Some("close") {
            self.stream = Some((stream, Instant::now()));
        }
        Ok(reply)
    }
}

/// A connection with a limit on every wait.
pub(super) fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads one answer; `None` where the connection ended before it began.
pub(super) fn read_reply(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Reply>> {
    buffer.clear();
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if more(stream, buffer)? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let (first, head) = head.split_once("\r\n").unwrap_or_default();
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("no answer: `{first}`"));
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(invalid)?;
    let mut reply = Reply { status, head: head.to_owned(), body: Vec::new() };
    let length: usize = reply.header("content-length").map_or(Ok(0), str::parse).map_err(|_| invalid())?;
    while buffer.len() < end + length {
        if more(stream, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    reply.body = buffer[end..end + length].to_vec();
    Ok(Some(reply))
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    if buffer.len() > MAX_ANSWER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer without end"));
    }
    let mut piece = [0; 32 << 10];
    let count = stream.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..count]);
    Ok(count)
}

/// A request with these headers and this body.
pub(super) fn request(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let rows: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{rows}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// What stands between the parts of a form.
pub(super) const BOUNDARY: &str = "----part-of-a-benchmark";

/// The content type of [`form`].
pub(super) fn form_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// A form of files, each named `file`.
pub(super) fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in files {
        let head = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// Asks `requests` in turn from `clients` connections until `count` are answered with 200.
pub(super) fn ask_all(url: &str, requests: &[Vec<u8>], clients: usize, count: usize) -> Result<()> {
    ensure!(!requests.is_empty(), "nothing to ask");
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut wire = Wire::new(url)?;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return Ok(());
            }
            let reply = wire.ask(&requests[i % requests.len()]).context("no answer")?;
            let text = String::from_utf8_lossy(&reply.body);
            ensure!(reply.status == 200, "answered {}: {}", reply.status, text.trim());
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers each connection with the next of these texts.
    fn server(answers: Vec<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut some = [0; 1000];
                let _ = stream.read(&mut some).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }

    #[test]
    fn answers_are_read_whole_and_broken_ones_are_errors() {
        let full =
            "HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        let url = server(vec![full, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", "SSH-2.0\r\n\r\n", ""]);
        let mut wire = Wire::new(&url).unwrap();
        let request = request("/", &[], b"");
        let reply = wire.ask(&request).unwrap();
        assert_eq!((reply.status, reply.header("retry-after"), &*reply.body), (429, Some("7"), &b"hi"[..]));
        assert_eq!(wire.ask(&request).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(wire.ask(&request).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(wire.ask(&request).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_request_names_its_length() {
        let text = String::from_utf8(request("/x", &[("a", "b")], b"hi")).unwrap();
        assert!(text.starts_with("POST /x HTTP/1.1\r\n") && text.contains("a: b\r\n"), "{text}");
        assert!(text.ends_with("content-length: 2\r\n\r\nhi"), "{text}");
    }
}
