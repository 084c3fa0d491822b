//! The messages are the protocol's: Triton's own client reads what is written here.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};

use super::message::*;

/// Reads lines of a message's name, its bytes in hexadecimal and what they should say; complains of every difference.
const JUDGE: &str = r#"
import json, sys
from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet
from tritonclient.grpc import service_pb2

def unknown(message):
    found = len(UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type:
            several = value.values() if hasattr(value, "values") else value if hasattr(value, "append") else [value]
            found += sum(unknown(v) for v in several if hasattr(v, "ListFields"))
    return found

for line in sys.stdin:
    name, code, said = line.rstrip("\n").split("\t")
    message = getattr(service_pb2, name).FromString(bytes.fromhex(code))
    assert not unknown(message), (name, message)
    read = MessageToDict(message, preserving_proto_field_name=True)
    assert read == json.loads(said), (name, read, said)
    print(name)
"#;

fn row(name: &str, message: &impl Message, said: &Value) -> String {
    let code: String = message.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect();
    format!("{name}\t{code}\t{said}\n")
}

fn parameters(choice: Choice) -> HashMap<String, InferParameter> {
    HashMap::from([("p".to_owned(), InferParameter { choice: Some(choice) })])
}

fn request() -> ModelInferRequest {
    let contents = InferTensorContents {
        uint_contents: vec![4, 300],
        fp32_contents: vec![0.5],
        bytes_contents: vec![Bytes::from_static(b"hi")],
    };
    let input = InferInputTensor {
        name: "files".to_owned(),
        datatype: "BYTES".to_owned(),
        shape: vec![1, -1],
        parameters: parameters(Choice::Text("base64".to_owned())),
        contents: Some(contents),
    };
    let output =
        |choice| InferRequestedOutputTensor { name: "embedding".to_owned(), parameters: parameters(choice) };
    ModelInferRequest {
        model_name: "m".to_owned(),
        model_version: "1".to_owned(),
        id: "7".to_owned(),
        inputs: vec![input],
        outputs: vec![output(Choice::Int64(3)), output(Choice::Bool(true))],
        raw_input_contents: vec![Bytes::from_static(b"raw")],
    }
}

fn said_request() -> Value {
    json!({
        "model_name": "m", "model_version": "1", "id": "7",
        "inputs": [{
            "name": "files", "datatype": "BYTES", "shape": ["1", "-1"],
            "parameters": {"p": {"string_param": "base64"}},
            "contents": {"uint_contents": [4, 300], "fp32_contents": [0.5], "bytes_contents": ["aGk="]},
        }],
        "outputs": [
            {"name": "embedding", "parameters": {"p": {"int64_param": "3"}}},
            {"name": "embedding", "parameters": {"p": {"bool_param": true}}},
        ],
        "raw_input_contents": ["cmF3"],
    })
}

fn rows() -> Vec<String> {
    let (m, v) = ("m".to_owned(), "1".to_owned());
    let tensor = || TensorMetadata { name: "x".to_owned(), datatype: "FP32".to_owned(), shape: vec![-1, 3] };
    let said_tensor = json!({"name": "x", "datatype": "FP32", "shape": ["-1", "3"]});
    let server =
        ServerMetadataResponse { name: m.clone(), version: v.clone(), extensions: vec!["e".to_owned()] };
    let about = ModelMetadataResponse {
        name: m.clone(),
        versions: vec![v.clone()],
        platform: "p".to_owned(),
        inputs: vec![tensor()],
        outputs: vec![tensor()],
    };
    let said_about = json!({
        "name": "m", "versions": ["1"], "platform": "p", "inputs": [said_tensor], "outputs": [said_tensor],
    });
    let output = InferOutputTensor { name: "x".to_owned(), datatype: "FP32".to_owned(), shape: vec![-1, 3] };
    let answer = ModelInferResponse {
        model_name: m.clone(),
        model_version: v.clone(),
        id: "7".to_owned(),
        outputs: vec![output],
        raw_output_contents: vec![Bytes::from_static(b"raw")],
    };
    let said_answer = json!({
        "model_name": "m", "model_version": "1", "id": "7", "outputs": [said_tensor], "raw_output_contents": ["cmF3"],
    });
    let model = ModelRequest { name: m, version: v };
    let said_model = json!({"name": "m", "version": "1"});
    let mut rows = operating();
    rows.push(configured());
    rows.extend([
        row("ServerLiveRequest", &Empty {}, &json!({})),
        row("ServerLiveResponse", &Flag { is: true }, &json!({"live": true})),
        row("ServerReadyResponse", &Flag { is: true }, &json!({"ready": true})),
        row("ModelReadyResponse", &Flag { is: true }, &json!({"ready": true})),
        row("ModelReadyRequest", &model, &said_model),
        row("ModelMetadataRequest", &model, &said_model),
        row("ServerMetadataResponse", &server, &json!({"name": "m", "version": "1", "extensions": ["e"]})),
        row("ModelMetadataResponse", &about, &said_about),
        row("ModelInferRequest", &request(), &said_request()),
        row("ModelInferResponse", &answer, &said_answer),
    ]);
    rows
}

/// Of the call about a model's configuration.
fn configured() -> String {
    let text = |t: &str| t.to_owned();
    let input = ConfiguredInput { name: text("x"), data_type: 2, dims: vec![32, 3], optional: true };
    let output = ConfiguredOutput { name: text("y"), data_type: 11, dims: vec![-1] };
    let batching = DynamicBatching { preferred_batch_size: vec![8], max_queue_delay_microseconds: 4000 };
    let config = ModelConfig {
        name: text("m"),
        platform: text("p"),
        max_batch_size: 32,
        input: vec![input],
        output: vec![output],
        dynamic_batching: Some(batching),
        backend: text("b"),
    };
    let said = json!({"config": {
        "name": "m", "platform": "p", "backend": "b", "max_batch_size": 32,
        "input": [{"name": "x", "data_type": "TYPE_UINT8", "dims": ["32", "3"], "optional": true}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["-1"]}],
        "dynamic_batching": {"preferred_batch_size": [8], "max_queue_delay_microseconds": "4000"},
    }});
    row("ModelConfigResponse", &ModelConfigResponse { config: Some(config) }, &said)
}

/// Of the calls about loading, and about what models have done.
fn operating() -> Vec<String> {
    let text = |t: &str| t.to_owned();
    let listed =
        ModelIndex { name: text("m"), version: text("1"), state: text("READY"), reason: text("because") };
    let listed = RepositoryIndexResponse { models: vec![listed] };
    let said_listed =
        json!({"models": [{"name": "m", "version": "1", "state": "READY", "reason": "because"}]});
    let model =
        RepositoryModelRequest { model_name: text("m"), parameters: parameters(Choice::Text(text("c"))) };
    let said_model = json!({"model_name": "m", "parameters": {"p": {"string_param": "c"}}});
    let sum = |count| Some(StatisticDuration { count, ns: 10 * count });
    let said = |count: u64| json!({"count": count.to_string(), "ns": (10 * count).to_string()});
    let done = InferStatistics {
        success: sum(1),
        fail: sum(2),
        queue: sum(3),
        compute_input: sum(4),
        compute_infer: sum(5),
        compute_output: sum(6),
        cache_hit: sum(7),
        cache_miss: sum(8),
    };
    let said_done = json!({
        "success": said(1), "fail": said(2), "queue": said(3), "compute_input": said(4), "compute_infer": said(5),
        "compute_output": said(6), "cache_hit": said(7), "cache_miss": said(8),
    });
    let batch = InferBatchStatistics {
        batch_size: 4,
        compute_input: sum(1),
        compute_infer: sum(2),
        compute_output: sum(3),
    };
    let said_batch = json!({
        "batch_size": "4", "compute_input": said(1), "compute_infer": said(2), "compute_output": said(3),
    });
    let all = ModelStatistics {
        name: text("m"),
        version: text("1"),
        last_inference: 5,
        inference_count: 6,
        execution_count: 7,
        inference_stats: Some(done),
        batch_stats: vec![batch],
    };
    let all = ModelStatisticsResponse { model_stats: vec![all] };
    let said_all = json!({"model_stats": [{
        "name": "m", "version": "1", "last_inference": "5", "inference_count": "6", "execution_count": "7",
        "inference_stats": said_done, "batch_stats": [said_batch],
    }]});
    vec![
        row("RepositoryIndexRequest", &RepositoryIndexRequest { ready: true }, &json!({"ready": true})),
        row("RepositoryIndexResponse", &listed, &said_listed),
        row("RepositoryModelLoadRequest", &model, &said_model),
        row("RepositoryModelUnloadRequest", &model, &said_model),
        row("RepositoryModelLoadResponse", &Empty {}, &json!({})),
        row("RepositoryModelUnloadResponse", &Empty {}, &json!({})),
        row("ModelStatisticsResponse", &all, &said_all),
    ]
}

#[test]
fn every_field_is_the_protocols() {
    use std::io::Write;

    let python = std::env::var("OCCLUDE_PYTHON").expect("`OCCLUDE_PYTHON`: run `cargo xtask setup`");
    let rows = rows();
    let mut judge = Command::new(python);
    judge.args(["-c", JUDGE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut judge = judge.spawn().unwrap();
    judge.stdin.take().unwrap().write_all(rows.concat().as_bytes()).unwrap();
    let told = judge.wait_with_output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    assert_eq!(String::from_utf8_lossy(&told.stdout).lines().count(), rows.len());
}

#[test]
fn messages_come_back_and_unknown_fields_are_skipped() {
    let bytes = request().encode_to_vec();
    assert_eq!(ModelInferRequest::decode(bytes.as_slice()).unwrap(), request());
    // Field 4, parameters of the request, and 99, which nobody knows.
    let more = [bytes.as_slice(), b"\x22\x00", b"\x98\x06\x01"].concat();
    assert_eq!(ModelInferRequest::decode(more.as_slice()).unwrap(), request());
}
