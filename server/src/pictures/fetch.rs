//! Fetching pictures from web addresses, for servers that were told to.
//!
//! A server that fetches what strangers name is a door into the network behind it. So an address is looked up once,
//! every address that is not public is refused, and the connection goes to the very address that was looked at;
//! redirects pass through the same gate. No proxy of the environment is used, because it would look names up by itself.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::error::{ApiError, Kind};

/// Fetches at once, of all requests together.
const SLOTS: usize = 8;
const REDIRECTS: u32 = 3;
/// Bytes that are read at once.
const PIECE: u64 = 1 << 16;
/// Longest address that is looked at, in bytes.
const MAX_URL: usize = 2048;

/// Which web addresses may be fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Only these hosts, whatever their addresses are; where there are none, every host with a public address.
    pub named: Vec<String>,
}

/// Fetches pictures.
pub struct Fetcher {
    agent: ureq::Agent,
    slots: Arc<Semaphore>,
    /// Bytes of one picture.
    limit: usize,
}

impl Fetcher {
    /// One that gives up on a picture after `time` or `limit` bytes.
    pub fn new(hosts: Hosts, time: Duration, limit: usize) -> Self {
        let config = Config::builder()
            .proxy(None)
            .max_redirects(REDIRECTS)
            .max_idle_connections(0)
            .timeout_global(Some(time))
            .user_agent(concat!("occlude-serve/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = ureq::Agent::with_parts(
            config,
            DefaultConnector::default(),
            Gate { hosts, dns: DefaultResolver::default() },
        );
        Self { agent, slots: Arc::new(Semaphore::new(SLOTS)), limit }
    }

    /// The bytes at an address. `room` hears of each piece before another is read, and refuses it where there is none.
    pub(crate) async fn get(
        &self,
        url: &str,
        room: impl Fn(usize) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<Vec<u8>, ApiError> {
        let short: String = url.chars().take(100).collect();
        if url.len() > MAX_URL {
            return Err(ApiError::new(
                Kind::UrlRefused,
                format!("`{short}...` is longer than {MAX_URL} bytes"),
            ));
        }
        // The semaphore is never closed.
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let (agent, url, limit) = (self.agent.clone(), url.to_owned(), self.limit);
        let got = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let mut body = agent.get(&url).call().map_err(|e| failure(&short, limit, e))?.into_body();
            read(body.as_reader(), limit, room, |e| failure(&short, limit, e))
        });
        let crashed = |_| ApiError::new(Kind::Internal, "fetching a picture was aborted");
        got.await.map_err(crashed)?
    }
}

fn read(
    mut body: impl Read,
    limit: usize,
    room: impl Fn(usize) -> Result<(), ApiError>,
    failed: impl Fn(ureq::Error) -> ApiError,
) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    loop {
        let more = body.by_ref().take(PIECE).read_to_end(&mut bytes).map_err(|e| failed(e.into()))?;
        if more == 0 {
            return Ok(bytes);
        }
        if bytes.len() > limit {
            return Err(failed(ureq::Error::BodyExceedsLimit(limit as u64)));
        }
        room(more)?;
    }
}

fn failure(url: &str, limit: usize, error: ureq::Error) -> ApiError {
    match error {
        ureq::Error::Io(e) if e.kind() == ErrorKind::PermissionDenied => {
            ApiError::new(Kind::UrlRefused, format!("`{url}`: {e}"))
                .hint("send the picture itself, as base64 or as a body")
        }
        ureq::Error::BodyExceedsLimit(_) => {
            let message = format!("`{url}` is larger than {limit} bytes");
            ApiError::new(Kind::BodyTooLarge, message).hint("send a smaller picture")
        }
        error => ApiError::new(Kind::UrlFailed, format!("cannot fetch `{url}`: {error}"))
            .hint("send the picture itself, as base64 or as a body"),
    }
}

/// Looks names up, and lets through what may be connected to.
#[derive(Debug)]
struct Gate {
    hosts: Hosts,
    dns: DefaultResolver,
}

impl Resolver for Gate {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let named = self.hosts.named.iter().any(|h| h.eq_ignore_ascii_case(host));
        if !self.hosts.named.is_empty() && !named {
            return Err(refused(&format!("pictures may not be fetched from the host `{host}`")));
        }
        let found = self.dns.resolve(uri, config, timeout)?;
        if !named && let Some(address) = found.iter().find(|a| !is_public(a.ip())) {
            return Err(refused(&format!("{} is not a public address", address.ip())));
        }
        Ok(found)
    }
}

fn refused(why: &str) -> ureq::Error {
    ureq::Error::Io(std::io::Error::new(ErrorKind::PermissionDenied, why.to_owned()))
}

/// Whether an address is one of the public internet's (IANA's special-purpose registries; RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => is_public_v4(a),
        IpAddr::V6(a) => is_public_v6(a),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        // Shared by carriers, protocol assignments, 6to4 relays, benchmarks, reserved.
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let inner = |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    // An IPv4 address in IPv6's clothes is judged by what it is: mapped, NAT64, 6to4.
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        [0x2002, high, low, ..] => inner(high, low),
        // Teredo, benchmarks, ORCHID and other protocol assignments; documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Global unicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        #[rustfmt::skip]
        let inside = [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "0.0.0.0",
            "100.64.0.1", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.9", "224.0.0.1",
            "240.0.0.1", "255.255.255.255", "192.88.99.1", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1",
            "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "2001::1", "2001:db8::1",
            "3fff::1", "::127.0.0.1", "64:ff9b:1::1", "100::1",
        ];
        for address in inside {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        #[rustfmt::skip]
        let outside = [
            "1.1.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "223.255.255.255", "::ffff:8.8.8.8",
            "64:ff9b::808:808", "2002:808:808::", "2606:4700::1111", "2001:4860::8888",
        ];
        for address in outside {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    /// Answers each connection with the next of `answers`; gives its port.
    fn answering(answers: Vec<String>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0u8; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    fn body(text: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len())
    }

    fn anything(_: usize) -> Result<(), ApiError> {
        Ok(())
    }

    #[tokio::test]
    async fn pieces_are_counted_as_they_come() {
        let named = Fetcher::new(
            Hosts { named: vec!["127.0.0.1".to_owned()] },
            Duration::from_secs(10),
            usize::MAX >> 1,
        );
        // Without an end: nobody reads further than there is room.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sender = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0u8; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").unwrap();
            while stream.write_all(&[7; 4096]).is_ok() {}
        });
        let pieces = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&pieces);
        let room = move |bytes: usize| {
            let mut heard = heard.lock().unwrap();
            heard.push(bytes as u64);
            if heard.len() < 2 { Ok(()) } else { Err(ApiError::new(Kind::Overloaded, "full")) }
        };
        let refused = named.get(&format!("http://127.0.0.1:{port}/"), room).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Overloaded);
        assert_eq!(*pieces.lock().unwrap(), [PIECE; 2]);
        sender.join().unwrap();
    }

    fn fetcher(named: &[&str]) -> Fetcher {
        let named = named.iter().map(ToString::to_string).collect();
        Fetcher::new(Hosts { named }, Duration::from_secs(2), 10)
    }

    #[tokio::test]
    async fn hosts_behind_the_server_are_refused_unless_named() {
        let port = answering(vec![body("picture")]);
        let url = format!("http://127.0.0.1:{port}/a.png");
        let kind = |f: Fetcher, url: String| async move { f.get(&url, anything).await.map_err(|e| e.kind) };
        assert_eq!(kind(fetcher(&[]), url.clone()).await, Err(Kind::UrlRefused));
        assert_eq!(kind(fetcher(&[]), format!("http://localhost:{port}/")).await, Err(Kind::UrlRefused));
        assert_eq!(
            kind(fetcher(&[]), format!("http://[::ffff:127.0.0.1]:{port}/")).await,
            Err(Kind::UrlRefused)
        );
        assert_eq!(kind(fetcher(&["example.org"]), url.clone()).await, Err(Kind::UrlRefused));
        assert_eq!(kind(fetcher(&["127.0.0.1"]), url).await, Ok(b"picture".to_vec()));
        assert_eq!(kind(fetcher(&[]), "file:///etc/passwd".to_owned()).await, Err(Kind::UrlFailed));
        assert_eq!(kind(fetcher(&[]), format!("http://x/{}", "y".repeat(3000))).await, Err(Kind::UrlRefused));
    }

    #[tokio::test]
    async fn redirects_pass_the_same_gate() {
        let to = |url: &str| {
            format!("HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        };
        let named = fetcher(&["127.0.0.1"]);
        let port = answering(vec![to("http://localhost:1/")]);
        let refused = named.get(&format!("http://127.0.0.1:{port}/"), anything).await.unwrap_err();
        assert_eq!(refused.kind, Kind::UrlRefused, "{refused}");
        let port = answering(vec![to("/b"), body("there")]);
        assert_eq!(named.get(&format!("http://127.0.0.1:{port}/"), anything).await.unwrap(), b"there");
        let port = answering(vec![to("/a"); 9]);
        let round = named.get(&format!("http://127.0.0.1:{port}/"), anything).await;
        assert_eq!(round.unwrap_err().kind, Kind::UrlFailed);
    }

    #[tokio::test]
    async fn size_time_and_status_are_bounded() {
        let named = fetcher(&["127.0.0.1"]);
        let get = async |port: u16| {
            named.get(&format!("http://127.0.0.1:{port}/"), anything).await.err().map(|e| e.kind)
        };
        assert_eq!(get(answering(vec![body("0123456789")])).await, None);
        assert_eq!(get(answering(vec![body("0123456789a")])).await, Some(Kind::BodyTooLarge));
        let endless = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "x".repeat(100_000));
        assert_eq!(get(answering(vec![endless])).await, Some(Kind::BodyTooLarge), "of no announced length");
        assert_eq!(
            get(answering(vec!["HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_owned()])).await,
            Some(Kind::UrlFailed)
        );
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(get(silent.local_addr().unwrap().port()).await, Some(Kind::UrlFailed));
    }
}
