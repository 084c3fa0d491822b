use super::*;
use serde_json::json;

fn result() -> Value {
    let step = |stage: &str, figures: Value| json!({"stage": stage, "status": "ok", "reason": null, "seconds": 12.34, "card_mib": 2048, "figures": figures});
    let run = |seed: u64, top1: f64| {
        let knn = |features: &str, top1: f64| json!({"features": features, "k": 10, "top1": top1});
        let mut rows = vec![knn("checkpoint", top1)];
        rows.extend((seed == 0).then(|| knn("untrained", 0.2)));
        step(
            "accuracy",
            json!({"row": "hp", "about": "saliency masks, high-pass", "data": "caltech", "size": 64, "epochs": 100,
                   "seed": seed, "knn": rows, "linear": {"top1": 0.5}}),
        )
    };
    json!({
        "format": 1, "tiny": false, "kit": {"commit": "abc"},
        "machine": {"card": "NVIDIA H100 80GB HBM3", "driver": "580.1", "torch": "2.11.0+cu130", "cores": 16},
        "steps": {
            "rates": step("throughput", json!({"precision": "bfloat16", "tflops": 700.4, "tf32_tflops": null,
                "copy_gb_per_s": 3000.0, "floor": {"moco-v2": 5000.0}})),
            "moco-v2 synthetic": step("throughput", json!({"images_per_second": 2500.4, "wait_share": 0.012,
                "peak_memory_bytes": 21474836480u64, "phases": [{"name": "key", "milliseconds": 20.5}],
                "operators_per_step": 800, "host_reads_per_step": 0})),
            "best moco-v2 synthetic": {"stage": "throughput", "status": "failed", "seconds": 1.0,
                "reason": "exit code 1: out | of\nmemory", "figures": {"images_per_second": 9999.0}},
            "serve fp16": step("serve", json!({"1 clients": {"images_per_second": 200.0, "p50_ms": 4.9, "p99_ms": 6.1}})),
            "alone fp16": step("serve", json!({"batch 32": 4000.2, "images_per_second": 4000.2})),
            "caltech, seed 0": run(0, 0.40), "caltech, seed 1": run(1, 0.42),
            "caltech, seed 2": {"stage": "accuracy", "status": "skipped", "reason": "no time is left", "figures": {}},
            "caltech, seed 3": {"stage": "accuracy", "status": "skipped", "reason": "no time is left", "figures": {}},
        },
        "goals": [
            {"goal": "beside the floor", "at_least": 0.7, "ratio": 0.5, "met": false, "missing": null},
            {"goal": "beside the best", "at_least": 1.2, "ratio": null, "met": null, "missing": "`best` was not run"},
        ],
    })
}

fn section(result: &Value) -> String {
    Found::parse(&result.to_string()).expect("a result").section()
}

#[test]
fn figures_stand_where_they_were_measured_and_nowhere_else() {
    let text = section(&result());
    for row in [
        "## On one NVIDIA H100 80GB HBM3",
        "driver 580.1",
        "torch 2.11.0+cu130, CUDA unknown",
        "| moco-v2 synthetic | 2500 | 1.2 | 20.0 |  |",
        "| product, bfloat16, TFLOP/s | 700 |",
        "| floor of a step of moco-v2, images/s | 5000 |",
        "| key, ms | 20.50 |",
        "| reads by the host a step | 0.0 |",
        "| fp16, 1 client | 200 | 4.9 | 6.1 |",
        "| fp16, ONNX Runtime alone, batch 32 | 4000 |",
        "| beside the floor | 0.7 | 0.50 | not met |",
        "| beside the best | 1.2 |  | not measured: `best` was not run |",
        "| caltech at 64 px, 100 epochs | saliency masks, high-pass | 41.0 ±1.0 |  | 50.0 ±0.0 | 2 |",
        "| caltech at 64 px, 100 epochs | saliency masks, high-pass: untrained encoder | 20.0 |  |  | 1 |",
        "- the stage `check` was not run",
        "- runs of the accuracy table: 2 skipped, no time is left",
        "- best moco-v2 synthetic: failed, exit code 1: out / of memory",
    ] {
        assert!(text.contains(row), "no `{row}` in\n{text}");
    }
    // neither a failed step's figures nor rows without a figure
    assert!(!text.contains("9999") && !text.contains("TF32") && !text.contains("saliency-moco,"), "{text}");
}

#[test]
fn a_rehearsal_has_no_speeds() {
    let mut result = result();
    result["tiny"] = json!(true);
    result["machine"]["card"] = Value::Null;
    let text = section(&result);
    assert!(text.starts_with("## Rehearsal of the GPU kit on a CPU"), "{text}");
    assert!(!text.contains("2500") && !text.contains("4000") && text.contains("12.3"), "{text}");
}

#[test]
fn another_format_is_refused() {
    let message = |text: &str| format!("{:#}", Found::parse(text).err().expect("refused"));
    assert!(message("{").contains("not JSON"));
    assert!(message("[]").contains("format null, expected 1"));
    assert!(message(r#"{"format": 2}"#).contains("hint: "));
    assert!(message(r#"{"format": 1, "steps": []}"#).contains("`steps`"));
    assert!(message(r#"{"format": 1, "steps": {}}"#).contains("`tiny`"));
    let bare = json!({"format": 1, "steps": {"a": null, "rates": {"status": "ok"}}, "tiny": false});
    assert!(section(&bare).contains("the stage `serve` was not run"));
}

#[test]
fn a_section_takes_the_place_of_its_like() {
    let document = "# Figures\n\ntext\n\n## On one A\n\nold\n\n### part\n\nold\n\n## Other\n\nkept\n";
    let changed = replace(document, "## On one A", "## On one A\n\nnew\n");
    assert_eq!(changed, "# Figures\n\ntext\n\n## On one A\n\nnew\n\n## Other\n\nkept\n");
    assert_eq!(replace(&changed, "## On one A", "## On one A\n\nnew\n"), changed);
    let added = replace(document, "## On one B", "## On one B\n\nnew\n");
    assert!(added.starts_with(document.trim_end()) && added.ends_with("kept\n\n## On one B\n\nnew\n"));
}
