//! Rolling updates; and what `deploy/` gives to operators, beside a running server and the tools that read it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::{Running, pictures};
use crate::common::fixture;

const PROGRAM: &str = env!("CARGO_BIN_EXE_occlude-serve");

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Runs a script of the Python environment in `deploy/`; it ends well, or the test fails with what it said.
fn judge(script: &str, arguments: &[&str]) {
    let python = std::env::var("OCCLUDE_PYTHON").expect("`OCCLUDE_PYTHON`: run `cargo xtask setup`");
    let output =
        Command::new(python).args(["-c", script]).args(arguments).current_dir(deploy()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// A server with all that metrics tell of, and its address; it keeps its data in the folder.
fn everything(folder: &Path) -> (Running, String) {
    let (gallery, data) = (folder.join("gallery"), folder.join("data"));
    pictures(&gallery);
    let folders = ["--gallery", gallery.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let more = ["--cache-bytes", "1MiB", "--grpc-port", "0", "--provider", "cpu"];
    let server = Running::start(&[&folders[..], &more[..]].concat());
    server.wait_for("INFO ready");
    let address = format!("http://{}", server.address);
    (server, address)
}

#[test]
fn a_rolling_update_fails_no_request() {
    let model = fixture("tiny.onnx");
    judge(include_str!("operated/rolling.py"), &[PROGRAM, model.to_str().unwrap()]);
}

#[test]
fn dashboard_and_alerts_ask_for_what_the_server_tells() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, address) = everything(dir.path());
    judge(&[include_str!("operated/deployed.py"), include_str!("operated/names.py")].concat(), &[&address]);
}

#[test]
fn prometheus_answers_every_query() {
    for tool in ["promtool", "prometheus"] {
        if Command::new(tool).arg("--version").output().is_err() {
            occlude_skip::test("Prometheus", "install it, e.g. `apt install prometheus`");
            return;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (_server, address) = everything(dir.path());
    let script = [include_str!("operated/deployed.py"), include_str!("operated/prometheus.py")].concat();
    judge(&script, &[&address, dir.path().to_str().unwrap()]);
}

#[test]
fn manifests_fit_kubernetes_and_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, address) = everything(dir.path());
    judge(include_str!("operated/manifests.py"), &[&address, PROGRAM]);
}
