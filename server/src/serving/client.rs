//! Whose request it is, behind proxies or not; for the log.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};
use ipnet::IpNet;

use super::parameters::{Parameters, split};

/// The other end of the connection that a request came by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The client's address. A proxy that is trusted is believed what it says about who came to it, and so on until somebody
/// comes who is not trusted: what that one says, anybody could have said.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    match (x_forwarded_for(headers), forwarded(headers)) {
        (None, None) => peer,
        (Some(hops), None) | (None, Some(hops)) => last_untrusted(peer, &hops, trusted),
        // A proxy that writes one of the headers passes the other on as the client wrote it.
        (Some(one), Some(other)) => {
            let found = last_untrusted(peer, &one, trusted);
            if found == last_untrusted(peer, &other, trusted) { found } else { peer }
        }
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// Hops from the client's side to ours; none for one that hides itself, or is no address.
fn last_untrusted(peer: IpAddr, hops: &[Option<IpAddr>], trusted: &[IpNet]) -> IpAddr {
    let mut last = peer;
    for hop in hops.iter().rev() {
        let Some(hop) = hop else { break };
        last = *hop;
        if !is_trusted(last, trusted) {
            break;
        }
    }
    last
}

fn x_forwarded_for(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let hop = |text: &[u8]| parse(text.trim_ascii());
    hops(headers, &axum::http::HeaderName::from_static("x-forwarded-for"), hop)
}

/// RFC 7239.
fn forwarded(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    // The parameters of an element stand behind nothing.
    let hop = |element: &[u8]| parse(Parameters::parse(&[b";", element].concat()).get("for")?);
    hops(headers, &header::FORWARDED, hop)
}

fn hops(
    headers: &HeaderMap,
    name: &axum::http::HeaderName,
    hop: impl Fn(&[u8]) -> Option<IpAddr>,
) -> Option<Vec<Option<IpAddr>>> {
    let lines = headers.get_all(name).iter().map(|v| split(v.as_bytes(), b','));
    let elements: Vec<Option<IpAddr>> = lines.flatten().map(hop).collect();
    Some(elements).filter(|e| !e.is_empty())
}

/// An address with a port or without, in brackets or not.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    Some(address?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn of(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8", "::1/128", "2001:db8:1::/48"].map(|n| n.parse().unwrap());
        let pair =
            |(n, v): &(&'static str, &'static str)| (HeaderName::from_static(n), HeaderValue::from_static(v));
        address(peer.parse().unwrap(), &headers.iter().map(pair).collect(), &trusted).to_string()
    }

    const XFF: &str = "x-forwarded-for";

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(of("192.0.2.1", &[(XFF, "198.51.100.7")]), "192.0.2.1", "anybody could say so");
        assert_eq!(of("10.0.0.1", &[(XFF, "198.51.100.7")]), "198.51.100.7");
        assert_eq!(of("::ffff:10.0.0.1", &[(XFF, "198.51.100.7")]), "198.51.100.7");
        assert_eq!(of("::1", &[("forwarded", "for=198.51.100.7;proto=https")]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_last_one_who_is_not_trusted_is_the_client() {
        assert_eq!(of("10.0.0.1", &[(XFF, "6.6.6.6, 198.51.100.7, 10.1.1.1")]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &[(XFF, "6.6.6.6"), (XFF, "198.51.100.7:4711,10.1.1.1")]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &[(XFF, "10.2.2.2, 10.1.1.1")]), "10.2.2.2", "all of them are ours");
        assert_eq!(
            of("10.0.0.1", &[(XFF, "6.6.6.6, unknown, 10.1.1.1")]),
            "10.1.1.1",
            "it goes no further back"
        );
        let quoted = "For=\"[2001:db8::7]:4711\";by=x, for=\"[2001:db8:1::1]\"";
        assert_eq!(of("10.0.0.1", &[("forwarded", quoted)]), "2001:db8::7");
        assert_eq!(of("10.0.0.1", &[("forwarded", "for=_hidden, for=10.1.1.1")]), "10.1.1.1");
        assert_eq!(of("10.0.0.1", &[(XFF, "2001:db8::7")]), "2001:db8::7");
    }

    #[test]
    fn headers_that_disagree_are_not_believed() {
        assert_eq!(of("10.0.0.1", &[(XFF, "198.51.100.7"), ("forwarded", "for=6.6.6.6")]), "10.0.0.1");
        assert_eq!(
            of("10.0.0.1", &[(XFF, "198.51.100.7"), ("forwarded", "for=198.51.100.7")]),
            "198.51.100.7"
        );
    }
}
