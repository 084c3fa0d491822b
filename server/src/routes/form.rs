//! Forms (`multipart/form-data`): the files in them, and the fields beside the files.

use std::convert::Infallible;

use axum::http::header;
use bytes::Bytes;
use futures_util::stream;
use multer::{Field, Multipart};
use occlude_preprocess::{DecodeError, Limits, dimensions};

use super::bounds::too_many;
use super::names;
use crate::error::{ApiError, Kind};
use crate::pictures::encoding::Upload;
use crate::serving::parameters::Parameters;

/// What a client sends besides options in the address.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) uploads: Vec<Upload>,
    /// Of a form, what is no file.
    pub(super) fields: Vec<(String, Bytes)>,
}

/// What a part of a form is.
enum Part {
    File {
        name: Option<String>,
        bytes: Bytes,
    },
    /// What browsers send for an input in which no file was chosen.
    NoFile,
    Field {
        name: String,
        value: Bytes,
    },
}

/// The parts of a form; at least one of them is a file.
pub(super) async fn read(bytes: Bytes, boundary: &str, limit: usize) -> Result<Sent, ApiError> {
    let body = stream::iter([Ok::<_, Infallible>(bytes)]);
    let mut form = Multipart::new(body, boundary);
    let (mut sent, mut unchosen) = (Sent::default(), false);
    while let Some(field) = form.next_field().await.map_err(|e| broken(&e))? {
        match part(field).await? {
            Part::File { .. } if sent.uploads.len() == limit => return Err(too_many(limit)),
            Part::File { name, bytes } => {
                sent.uploads.push(Upload { place: sent.uploads.len(), name, bytes, url: None });
            }
            Part::NoFile => unchosen = true,
            Part::Field { name, value } => sent.fields.push((name, value)),
        }
    }
    if sent.uploads.is_empty() { Err(fileless(unchosen, &sent.fields)) } else { Ok(sent) }
}

fn broken(error: &multer::Error) -> ApiError {
    ApiError::new(Kind::BadRequest, format!("invalid multipart body: {error}"))
}

fn fileless(unchosen: bool, fields: &[(String, Bytes)]) -> ApiError {
    let message = if unchosen {
        "no file was chosen: the form's only file has neither a name nor any bytes".to_owned()
    } else if fields.is_empty() {
        "the form has no file".to_owned()
    } else {
        let names: Vec<_> = fields.iter().take(8).map(|(name, _)| format!("`{name}`")).collect();
        format!("the form has no file, only fields: {}", names.join(", "))
    };
    ApiError::new(Kind::InvalidRequest, message)
        .hint("send one or several, e.g. curl -F file=@a.jpg -F file=@b.jpg")
}

/// A part is a file where it has a file's name (also an empty one), a picture's or no particular type, or a picture's
/// bytes; else it is a field.
async fn part(field: Field<'_>) -> Result<Part, ApiError> {
    let of = |name| field.headers().get(name).map(|v| Parameters::parse(v.as_bytes())).unwrap_or_default();
    let (disposition, kind) = (of(header::CONTENT_DISPOSITION), of(header::CONTENT_TYPE).essence);
    let bytes = field.bytes().await.map_err(|e| broken(&e))?;
    let claims = ["filename", "filename*"].iter().any(|n| disposition.get(n).is_some());
    let name = names::of_file(&disposition);
    if claims && name.is_none() && bytes.is_empty() {
        return Ok(Part::NoFile);
    }
    let binary = ["application/octet-stream", "binary/octet-stream"].contains(&kind.as_str());
    if claims || kind.starts_with("image/") || binary || is_picture(&bytes) {
        return Ok(Part::File { name, bytes });
    }
    let name = disposition.get("name").map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    Ok(Part::Field { name, value: bytes })
}

/// Whether bytes begin as a picture does, also one that is broken or of a format that is not read.
fn is_picture(bytes: &[u8]) -> bool {
    !matches!(
        dimensions(bytes, &Limits::default()),
        Err(DecodeError::Empty | DecodeError::UnknownFormat { .. })
    )
}
