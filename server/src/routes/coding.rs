//! Bodies that are compressed (`Content-Encoding`), unpacked within the bound of bodies that are not.

use std::io::{self, ErrorKind, Read};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

use super::bounds::too_large;
use crate::error::{ApiError, Kind};

/// Bytes by which an unpacked body grows.
const PIECE: usize = 1 << 16;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    /// What the headers say; none for bodies as they are.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let text = lines.map(|v| String::from_utf8_lossy(v.as_bytes())).collect::<Vec<_>>().join(",");
        let names: Vec<String> = text.split(',').map(|n| n.trim().to_ascii_lowercase()).collect();
        Self::named(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What names of codings say, in the order in which they were applied.
    pub(super) fn named(names: &[&str]) -> Result<Option<Self>, ApiError> {
        let names: Vec<&str> = names.iter().copied().filter(|n| !["", "identity"].contains(n)).collect();
        match names.as_slice() {
            [] => Ok(None),
            ["gzip" | "x-gzip"] => Ok(Some(Self::Gzip)),
            ["deflate"] => Ok(Some(Self::Deflate)),
            other => {
                let message = format!("content encoding `{}` is not supported", other.join(", "));
                let error = ApiError::new(Kind::UnsupportedMediaType, message);
                Err(error.hint("send the body as it is, or compressed once: `gzip` or `deflate`"))
            }
        }
    }

    /// The body as it was, of `limit` bytes at most: what is larger is not unpacked to its end.
    pub(super) fn decode(self, body: &Bytes, limit: usize) -> Result<Bytes, ApiError> {
        let mut whole = Vec::new();
        let read = match self {
            // One byte more tells what is too large.
            Self::Gzip => {
                MultiGzDecoder::new(body.as_ref()).take(limit as u64 + 1).read_to_end(&mut whole).map(drop)
            }
            Self::Deflate => inflate(body, limit, &mut whole),
        };
        read.map_err(|e| {
            let why = match e.kind() {
                ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
                _ => e.to_string(),
            };
            let name = if self == Self::Gzip { "gzip" } else { "deflate" };
            ApiError::new(
                Kind::BadRequest,
                format!("the body does not match its content encoding `{name}`: {why}"),
            )
        })?;
        if whole.len() > limit { Err(too_large(limit)) } else { Ok(whole.into()) }
    }
}

/// Unpacks one stream, until it ends or there are more bytes than `limit`. A stream that is cut
/// off, or that something follows, is an error.
fn inflate(body: &[u8], limit: usize, whole: &mut Vec<u8>) -> io::Result<()> {
    let mut engine = Decompress::new(is_zlib(body));
    let mut rest = body;
    while whole.len() <= limit {
        whole.reserve(PIECE);
        let (taken, made) = (engine.total_in(), whole.len());
        let status = engine.decompress_vec(rest, whole, FlushDecompress::None).map_err(io::Error::other)?;
        let taken = usize::try_from(engine.total_in() - taken).unwrap_or(usize::MAX);
        rest = rest.get(taken..).unwrap_or_default();
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(()),
            Status::StreamEnd => return Err(io::Error::other(format!("{} bytes follow it", rest.len()))),
            _ if taken == 0 && whole.len() == made => return Err(ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Whether there is a zlib header (RFC 1950, 2.2), which the coding `deflate` should have (RFC 9110, 8.4.1.2); some
/// clients leave it out.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [a, b, ..] if a & 0x0f == 8 && (u16::from(*a) << 8 | u16::from(*b)).is_multiple_of(31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use flate2::Compression;
    use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};

    fn coding(values: &[&'static str]) -> Result<Option<Coding>, Kind> {
        let line = |v: &&'static str| (header::CONTENT_ENCODING, HeaderValue::from_static(v));
        Coding::of(&values.iter().map(line).collect()).map_err(|e| e.kind)
    }

    #[test]
    fn codings_are_named_in_any_case() {
        assert_eq!(coding(&[]), Ok(None));
        assert_eq!((coding(&["identity"]), coding(&[""])), (Ok(None), Ok(None)));
        assert_eq!(
            (coding(&["GZIP"]), coding(&["x-gzip"])),
            (Ok(Some(Coding::Gzip)), Ok(Some(Coding::Gzip)))
        );
        assert_eq!(coding(&["identity, Deflate"]), Ok(Some(Coding::Deflate)));
        for other in [&["br"][..], &["zstd"], &["gzip, gzip"], &["gzip", "deflate"]] {
            assert_eq!(coding(other), Err(Kind::UnsupportedMediaType), "{other:?}");
        }
    }

    fn read(mut reader: impl Read) -> Bytes {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes.into()
    }

    #[test]
    fn bodies_come_back_within_their_bound() {
        let text = b"occlude ".repeat(1000);
        let best = Compression::best();
        let gzip = read(GzEncoder::new(text.as_slice(), best));
        let zlib = read(ZlibEncoder::new(text.as_slice(), best));
        let raw = read(DeflateEncoder::new(text.as_slice(), best));
        for (coding, body) in [(Coding::Gzip, &gzip), (Coding::Deflate, &zlib), (Coding::Deflate, &raw)] {
            assert_eq!(coding.decode(body, 8000).unwrap(), text);
            assert_eq!(coding.decode(body, 7999).unwrap_err().kind, Kind::BodyTooLarge, "a bomb");
            let cut = coding.decode(&body.slice(..body.len() - 9), 8000);
            assert_eq!(cut.unwrap_err().kind, Kind::BadRequest, "{coding:?}");
        }
        let twice = Bytes::from([gzip.as_ref(), gzip.as_ref()].concat());
        assert_eq!(Coding::Gzip.decode(&twice, 16_000).unwrap().len(), 16_000, "members follow each other");
        for coding in [Coding::Gzip, Coding::Deflate] {
            let after = [if coding == Coding::Gzip { gzip.as_ref() } else { &zlib }, b"more"].concat();
            for nonsense in [b"hello".as_slice(), &after] {
                let refused = coding.decode(&Bytes::copy_from_slice(nonsense), 16_000).unwrap_err();
                assert_eq!(refused.kind, Kind::BadRequest, "{nonsense:?}");
            }
        }
    }
}
