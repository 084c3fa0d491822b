//! The host to listen on, as an address or a name.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// An address, or what may be a name; brackets around an address of IPv6 are not part of it.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let odd = |c: char| c.is_whitespace() || "/:[]@".contains(c);
    if bare.parse::<IpAddr>().is_ok() || (!bare.is_empty() && !bare.contains(odd)) {
        return Ok(bare.to_owned());
    }
    Err("expected an address or a name, like `0.0.0.0`, `::1` or `localhost`; the port is a separate setting"
        .to_owned())
}

/// As it stands before a port.
pub(crate) fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The address to listen on: of a name the first of IPv4, else the first. Asks the system about names.
pub(crate) fn resolve(host: &str, port: u16) -> std::io::Result<SocketAddr> {
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let first = found.iter().find(|a| a.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| std::io::Error::other("the name does not resolve to an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("::", "::"),
            (" localhost ", "localhost"),
            ("a-b.example", "a-b.example"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected));
        }
        for text in ["", "http://x", "localhost:8080", "a b", "[x", "::zz"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(resolve("localhost", 80).unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(resolve("::1", 80).unwrap().to_string(), "[::1]:80");
        assert_eq!(
            (with_port("::1", 5), with_port("localhost", 5)),
            ("[::1]:5".to_owned(), "localhost:5".to_owned())
        );
    }
}
