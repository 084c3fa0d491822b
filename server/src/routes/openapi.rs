//! The document at `/openapi.json`: OpenAPI 3.1, derived from the handlers and the types that they answer with.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use occlude_preprocess::Format;
use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};

use super::{body, collections, docs, errors, gallery, images, kserve, openai, ops, page, search};
use crate::error::{Body, FlatBody, Kind, Shape};
use crate::serving::gate::OPEN;
use crate::serving::state::AppState;

/// A picture of four pixels, for the examples: base64 of a PNG.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mM4IScnd0KOJYxh1SoGBgAc0gO3A0xgeAAAAABJRU5ErkJggg==";

/// The media type of a body that says nothing of its format.
const BYTES: &str = "application/octet-stream";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "occlude-serve",
        description = "Embeddings and saliency of pictures. Every response carries the id of its request in \
                       `x-request-id`; all errors have the same shape, and their `code` is part of the API. Anything \
                       that is not HTTP, or has a head that is too large, gets a 400 or 431 without a body or that \
                       header."
    ),
    paths(
        images::embed,
        images::saliency,
        images::analyze,
        search::search,
        search::thumbnail,
        gallery::list,
        gallery::near,
        collections::list,
        collections::create,
        collections::show,
        collections::remove,
        collections::upsert,
        collections::delete,
        collections::scroll,
        collections::count,
        collections::search,
        openai::embeddings,
        openai::models,
        openai::model,
        kserve::server,
        kserve::live,
        kserve::ready,
        kserve::model,
        kserve::model_ready,
        kserve::config::config,
        kserve::infer,
        kserve::repository::index,
        kserve::repository::load,
        kserve::repository::unload,
        kserve::statistics::of_one,
        kserve::statistics::of_all,
        page::index,
        openapi,
        docs::redirect,
        docs::index,
        ops::healthz,
        ops::readyz,
        ops::metrics
    ),
    components(schemas(body::Json, Body<'_>, FlatBody<'_>)),
    tags(
        (name = "pictures", description = "Pictures in, what the model says about them out"),
        (name = "gallery", description = "Pictures of the indexed folder"),
        (name = "collections", description = "Vectors that are kept: added, filtered, searched"),
        (name = "openai", description = "OpenAI's API, with pictures for text"),
        (name = "inference", description = "The Open Inference Protocol (KServe version 2)"),
        (name = "server", description = "Pages, health and counters")
    )
)]
struct Api;

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "server", responses(
    (status = 200, body = serde_json::Value, content_type = "application/json"),
))]
pub(super) async fn openapi(State(state): State<AppState>) -> Response {
    let model = state.models().first().map_or_else(|| "model".to_owned(), |m| m.info.name.clone());
    Json(document(&Facts { keys: state.keys().required(), model })).into_response()
}

/// What of the running server is in the document.
struct Facts {
    /// Whether requests need a key.
    keys: bool,
    /// Name of the first model.
    model: String,
}

/// The document of this server.
fn document(facts: &Facts) -> Value {
    static DERIVED: LazyLock<Value> =
        LazyLock::new(|| serde_json::to_value(Api::openapi()).unwrap_or_default());
    let mut document = DERIVED.clone();
    // Relative to the document: a proxy may put the server below a path of its own.
    set(&mut document, "servers", json!([{"url": "."}]));
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    if let Some(paths) = paths {
        add_versions(paths);
        for (path, item) in paths.iter_mut() {
            for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
                complete(path, operation, &facts.model);
            }
        }
    }
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        add_components(components);
    }
    if let Some(info) = document.get_mut("info") {
        let about =
            format!("{} Files of these formats are read: {}.", text(info, "description"), Format::LISTED);
        set(info, "description", json!(about));
    }
    if facts.keys {
        set(&mut document, "security", json!([{"bearer": []}, {"key": []}]));
    }
    document
}

/// Every route with every status that its answers may have.
pub(crate) fn answers() -> Vec<(String, String)> {
    let document = document(&Facts { keys: false, model: String::new() });
    let mut found = vec![("other".to_owned(), Kind::NotFound.status().0.as_u16().to_string())];
    let paths = document.get("paths").and_then(Value::as_object);
    for (path, operations) in paths.into_iter().flatten() {
        for operation in operations.as_object().into_iter().flat_map(Map::values) {
            let statuses = operation.get("responses").and_then(Value::as_object);
            found.extend(statuses.into_iter().flat_map(Map::keys).map(|s| (path.clone(), s.clone())));
        }
    }
    found
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The routes of the inference protocol that name a version as well.
fn add_versions(paths: &mut Map<String, Value>) {
    const MODEL: &str = "/v2/models/{model}";
    let plain: Vec<(String, Value)> = paths
        .iter()
        .filter_map(|(path, item)| Some((path.strip_prefix(MODEL)?.to_owned(), item.clone())))
        .collect();
    for (rest, mut item) in plain {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let id = format!("{}_version", text(operation, "operationId"));
            set(operation, "operationId", json!(id));
            let version = json!({
                "name": "version", "in": "path", "required": true,
                "description": "Version of the model; there is only `1`",
                "schema": {"type": "string"}, "example": "1",
            });
            if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
                parameters.push(version);
            }
        }
        paths.insert(format!("{MODEL}/versions/{{version}}{rest}"), item);
    }
}

/// What all operations have, by their path.
fn complete(path: &str, operation: &mut Value, model: &str) {
    if OPEN.contains(&path) {
        set(operation, "security", json!([]));
    }
    let tag = operation.pointer("/tags/0").and_then(Value::as_str).unwrap_or_default().to_owned();
    if tag == "pictures" {
        set(operation, "requestBody", packings());
    }
    name_formats(operation);
    let example = match path {
        "/v1/embeddings" => Some(json!({"model": model, "input": PICTURE})),
        p if p.ends_with("/infer") => Some(json!({"inputs": [
            {"name": "files", "datatype": "BYTES", "shape": [1], "data": [PICTURE]},
        ]})),
        _ => None,
    };
    if let Some(example) = example
        && let Some(content) = operation.pointer_mut("/requestBody/content/application~1json")
    {
        set(content, "example", example);
    }
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        if text(parameter, "name") == "model" {
            set(parameter, "example", json!(model));
        }
    }
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
    for (status, response) in responses.into_iter().flatten() {
        let headers = response.as_object_mut().map(|r| r.entry("headers").or_insert_with(|| json!({})));
        let Some(headers) = headers.and_then(Value::as_object_mut) else { continue };
        let mut refer = |name: &str| {
            headers.insert(name.to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
        };
        refer("x-request-id");
        if status == "200" && tag == "pictures" {
            refer("x-occlude-model");
            refer("x-occlude-fingerprint");
            refer("x-occlude-identity");
        }
    }
}

/// Where an operation takes bytes as they are, they may be announced as each format that is read.
fn name_formats(operation: &mut Value) {
    let Some(body) = operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(file) = body.get(BYTES).cloned() else { return };
    for format in Format::ALL {
        body.insert(format.media_type().to_owned(), file.clone());
    }
}

/// The ways to send pictures.
fn packings() -> Value {
    let mut content = Map::new();
    content.insert(BYTES.to_owned(), json!({"schema": {"type": "string", "format": "binary"}}));
    let form = json!({"schema": {
        "type": "object",
        "description": "Files; the names of the fields do not matter.",
        "properties": {"file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
        "required": ["file"],
    }});
    content.insert("multipart/form-data".to_owned(), form);
    let schema = json!({"$ref": format!("#/components/schemas/{}", body::Json::name())});
    content.insert("application/json".to_owned(), json!({"schema": schema, "example": {"image": PICTURE}}));
    json!({"required": true, "description": "A file as it is, a form, or JSON.", "content": content})
}

fn add_components(components: &mut Map<String, Value>) {
    let word = |about: &str| json!({"description": about, "schema": {"type": "string"}});
    components.insert(
        "headers".to_owned(),
        json!({
            "x-request-id": word("Id of the request: the client's own, if it sent a plain one"),
            "x-occlude-model": word("Name of the model that answered"),
            "x-occlude-fingerprint": word("Hash over its weights and preprocessing"),
            "x-occlude-identity": word("Hash over all that changes its numbers"),
        }),
    );
    components.insert(
        "securitySchemes".to_owned(),
        json!({
            "bearer": {"type": "http", "scheme": "bearer", "description": "A key from `occlude-serve key`"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key"},
        }),
    );
    // What every path and no operation in particular can answer.
    let anywhere = |kind| serde_json::to_value(errors::response(&[kind], Shape::Nested)).unwrap_or_default();
    components.insert(
        "responses".to_owned(),
        json!({
            "NotFound": anywhere(Kind::NotFound), "MethodNotAllowed": anywhere(Kind::MethodNotAllowed),
        }),
    );
    let codes: Vec<_> = Kind::ALL.iter().map(|k| k.status().1).collect();
    let Some(schemas) = components.get_mut("schemas") else { return };
    for pointer in ["/ErrorDetail/properties/code", "/InferenceError/properties/code"] {
        if let Some(code) = schemas.pointer_mut(pointer) {
            set(code, "enum", json!(codes));
        }
    }
    if let Some(pictures) = schemas.pointer_mut(&format!("/{}", body::Json::name())) {
        let nothing = json!({"type": "null"});
        let either = json!([
            {"required": ["image"], "properties": {"image": {"not": nothing}, "images": nothing}},
            {"required": ["images"], "properties": {"images": {"not": nothing}, "image": nothing}},
        ]);
        set(pictures, "oneOf", either);
    }
}
