//! TensorBoard itself reads what was written, where it is installed beside the Python that `OCCLUDE_PYTHON` names.

use std::process::Command;

use occlude_report::events::Writer;

/// The smallest PNG file: one grey pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\x0aIDATx\x9cch\0\0\0\x82\0\x81\x77\xcd\x72\xb6\0\0\0\0IEND\xaeB`\x82";

#[test]
fn tensorboard_reads_the_files() {
    let Some(python) = std::env::var_os("OCCLUDE_PYTHON") else {
        occlude_skip::test("TensorBoard", "`OCCLUDE_PYTHON` is not set: run `cargo xtask setup`");
        return;
    };
    let has = Command::new(&python).args(["-c", "import tensorboard"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        let hint = format!(
            "`{}` cannot import tensorboard: run `cargo xtask setup --all`",
            python.to_string_lossy()
        );
        occlude_skip::test("TensorBoard", &hint);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut first = Writer::create(dir.path()).unwrap();
    for step in [10, 20, 30, 40] {
        first.scalar("train/loss", step, 1.7e9 + step as f64, 50.0 - step as f64);
    }
    first.image("first batch", 0, 1.7e9, PNG, 1, 1);
    first.text("config", 0, 1.7e9, "**bold**");
    first.flush().unwrap();
    drop(first);
    let mut second = Writer::resume(dir.path(), 20).unwrap();
    second.scalar("train/loss", 25, 1.8e9, 0.5);
    second.flush().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_events.py");
    let output = Command::new(&python).arg(script).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
