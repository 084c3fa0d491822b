//! One message in a body, as gRPC has it: a byte that says whether it is compressed, four of its length, itself.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

use crate::error::{ApiError, GRPC_STATUS, Kind};
use crate::routes::bounds::too_large;
use crate::routes::coding::Coding;
use crate::serving::state::AppState;

/// Bytes in front of a message.
const PREFIX: usize = 5;

/// Most bytes of a message that only asks about something.
const SMALL: usize = 64 << 10;

/// How messages may be compressed.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// A message that only asks about something.
pub(super) struct Small<M>(pub(super) M);

impl<M: prost::Message + Default> FromRequest<AppState> for Small<M> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        check(&head.headers)?;
        let time = state.limits().read_timeout.time();
        let read = tokio::time::timeout(time, Limited::new(body, SMALL).collect()).await;
        let late = |_| ApiError::new(Kind::ReadTimeout, "the message arrived too slowly");
        let bytes = read.map_err(late)?.map_err(|error| match error.is::<LengthLimitError>() {
            true => too_large(SMALL),
            false => ApiError::new(Kind::BadRequest, format!("the message was interrupted: {error}")),
        })?;
        let (message, coding) = unframed(&head.headers, bytes.to_bytes())?;
        let message = coding.map_or(Ok(message.clone()), |coding| coding.decode(&message, SMALL))?;
        read_message(message).map(Self)
    }
}

/// A message for an answer.
pub(super) struct Reply<M>(pub(super) M);

impl<M: prost::Message> IntoResponse for Reply<M> {
    fn into_response(self) -> Response {
        framed(&self.0).into_response()
    }
}

/// The body of an answer.
pub(super) struct Framed(Bytes);

/// A message with what stands in front of it.
pub(super) fn framed(message: &impl prost::Message) -> Framed {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    // Answers hold what the model gave for the pictures of one request: far from 4 GiB.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put(message.encode_to_vec().as_slice());
    Framed(bytes.freeze())
}

impl IntoResponse for Framed {
    fn into_response(self) -> Response {
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
        let body = Full::new(self.0).with_trailers(std::future::ready(Some(Ok(trailers))));
        ([(header::CONTENT_TYPE, "application/grpc")], Body::new(body)).into_response()
    }
}

/// Refuses what does not say that it is gRPC, before a byte is read.
pub(super) fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or_default());
    match kind {
        "application/grpc" | "application/grpc+proto" => Ok(()),
        other => {
            let error =
                ApiError::new(Kind::UnsupportedMediaType, format!("content type `{other}` is not supported"));
            Err(error.hint("send `application/grpc` to this port; HTTP has its own"))
        }
    }
}

/// The message of a body that has exactly one, and how it is compressed.
pub(super) fn unframed(headers: &HeaderMap, mut body: Bytes) -> Result<(Bytes, Option<Coding>), ApiError> {
    let bad =
        |what: String| ApiError::new(Kind::BadRequest, format!("the body is not one gRPC message: {what}"));
    if body.len() < PREFIX {
        return Err(bad(format!("{} bytes", body.len())));
    }
    let (compressed, length) = (body.get_u8(), body.get_u32());
    if u32::try_from(body.len()) != Ok(length) {
        return Err(bad(format!("{length} bytes announced, {} sent", body.len())));
    }
    let name = headers.get(&ENCODING).map_or("", |v| v.to_str().unwrap_or("?"));
    let coding = match compressed {
        0 => None,
        1 => Coding::named(&[name])?,
        other => return Err(bad(format!("it begins with {other}, neither 0 nor 1"))),
    };
    if compressed == 1 && coding.is_none() {
        return Err(bad("it is compressed, but `grpc-encoding` does not say how".to_owned()));
    }
    Ok((body, coding))
}

/// What a message says.
pub(super) fn read_message<M: prost::Message + Default>(bytes: Bytes) -> Result<M, ApiError> {
    M::decode(bytes).map_err(|e| ApiError::new(Kind::BadRequest, format!("the message cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use super::super::message::Flag;
    use super::*;

    fn of(encoding: Option<&'static str>, body: &[u8]) -> Result<(Vec<u8>, Option<Coding>), String> {
        let headers = encoding.map(|e| (ENCODING, HeaderValue::from_static(e))).into_iter().collect();
        let read = unframed(&headers, Bytes::copy_from_slice(body));
        read.map(|(message, coding)| (message.to_vec(), coding)).map_err(|e| e.message)
    }

    #[test]
    fn one_message_is_read_and_written() {
        let Framed(bytes) = framed(&Flag { is: true });
        assert_eq!(bytes.as_ref(), [0, 0, 0, 0, 2, 8, 1]);
        let (message, coding) = of(None, &bytes).unwrap();
        assert_eq!((read_message::<Flag>(message.into()).unwrap(), coding), (Flag { is: true }, None));
        assert_eq!(of(None, &[0; 5]), Ok((Vec::new(), None)));
        assert_eq!(of(Some("gzip"), &[1, 0, 0, 0, 0]), Ok((Vec::new(), Some(Coding::Gzip))));
        assert_eq!(of(Some("gzip"), &[0; 5]), Ok((Vec::new(), None)), "its flag decides");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (body, told) in [
            (&[][..], "0 bytes"),
            (&[0, 0, 0, 0], "4 bytes"),
            (&[0, 0, 0, 0, 2, 1], "2 bytes announced, 1 sent"),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "0 bytes announced, 5 sent"),
            (&[0, 255, 255, 255, 255], "4294967295 bytes announced"),
            (&[7, 0, 0, 0, 0], "begins with 7"),
            (&[1, 0, 0, 0, 0], "does not say how"),
        ] {
            let error = of(None, body).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert!(of(Some("snappy"), &[1, 0, 0, 0, 0]).unwrap_err().contains("`snappy` is not supported"));
        assert!(
            read_message::<Flag>(Bytes::from_static(&[8])).unwrap_err().message.contains("cannot be read")
        );
        for kind in ["", "application/json", "application/grpc-web"] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(check(&headers).unwrap_err().kind, Kind::UnsupportedMediaType, "{kind}");
        }
    }
}
