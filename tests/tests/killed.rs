//! A run that is killed again and again, at any moment, ends with the same bits as one that was left alone.
//!
//! `OCCLUDE_KILLS` says how often; few by default, because every one starts a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use occlude_checkpoint::Checkpoint;
use occlude_tests::{pictures, run};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;

const EPOCHS: [&str; 2] = ["--epochs", "3"];
const RESUMED: [&str; 3] = ["--epochs", "3", "--resume"];

/// A method of each kind of state: a queue, a network that follows, averaged statistics, a queue of aligned embeddings, a centre, one
/// of patches with a token, and targets that another network, `@/teacher`, said.
const METHODS: [&str; 7] = [
    "--arch resnet18 --recipe saliency-moco --saliency-stage 4 --bn-splits 2 --queue 20",
    "--arch resnet18 --recipe byol --hidden 64 --predictor-hidden 64 --warmup-epochs 0 --views 1,1,2x32 --masks true --saliency-stage 4",
    "--arch resnet18 --recipe lewel-b-eman --hidden 64 --predictor-hidden 64 --warmup-epochs 0",
    "--arch resnet18 --recipe lewel-m --hidden 64 --bn-splits 2 --queue 20 --masks true --saliency-stage 4",
    "--arch vit_64x2x2_patch8_32 --recipe dino --hidden 64 --prototypes 64 --warmup-epochs 0 --views 1,1,2x32",
    "--arch vit_64x2x2_patch8_32 --recipe ibot-attmask --hidden 64 --prototypes 64 --warmup-epochs 0 --views 1,1,2x32",
    "--arch resnet18 --recipe distill --hidden 64 --warmup-epochs 0 --masks true --saliency-stage 4 --teacher @/teacher/checkpoint_0002.safetensors",
];

fn start(folder: &Path, out: &Path, more: &[&str]) -> Child {
    start_method(METHODS[0], folder, out, more)
}

fn start_method(method: &str, folder: &Path, out: &Path, more: &[&str]) -> Child {
    // every step is saved, so that many of the signals arrive while a checkpoint is written
    let flags = "--image-size 32 --batch-size 6 --lr 0.01 --save-minutes 0 --log-every 1 --device cpu \
                 --precision fp32 --threads 1 --workers 2 --on-collapse warn";
    let mut command = Command::new(run::tool("occlude-train"));
    command.arg("pretrain").arg(folder.join("train")).arg("--out").arg(out);
    command
        .args(method.replace('@', &folder.display().to_string()).split_whitespace())
        .args(flags.split_whitespace())
        .args(more)
        .env("OCCLUDE_CACHE", folder.join("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.stderr(fs::OpenOptions::new().create(true).append(true).open(out.with_extension("log")).unwrap());
    command.spawn().unwrap()
}

fn signal(child: &Child, number: i32) {
    let pid = child.id().to_string();
    Command::new("kill").args([&format!("-{number}"), &pid]).stderr(Stdio::null()).status().unwrap();
}

fn last(out: &Path) -> PathBuf {
    out.join(fs::read_to_string(out.join("last")).unwrap().trim())
}

fn tensors(out: &Path) -> Vec<(String, Vec<u8>)> {
    let checkpoint = Checkpoint::open(last(out)).unwrap();
    checkpoint.tensors().map(|t| (t.name.to_owned(), t.to_bytes().unwrap().into_owned())).collect()
}

/// A whole number below `bound`, another one for every `i` and process.
fn draw(i: u32, bound: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(i);
    hasher.finish() % bound
}

#[test]
fn a_run_killed_at_random_moments_ends_bit_equal() {
    let kills: u32 = std::env::var("OCCLUDE_KILLS").map_or(6, |n| n.parse().expect("a number"));
    let folder = run::scratch("killed");
    pictures::tree(&folder.join("train"), 6, 1);
    let teacher = folder.join("teacher");
    assert!(start(&folder, &teacher, &EPOCHS).wait().unwrap().success(), "{}", log(&teacher));
    for (i, method) in METHODS.into_iter().enumerate() {
        let folder = folder.join(i.to_string());
        fs::create_dir_all(&folder).unwrap();
        // fewer of those whose only difference is what their state holds
        kill(method, &folder, if i == 0 { kills } else { kills.div_ceil(3) });
    }
}

fn kill(method: &str, folder: &Path, kills: u32) {
    let start = |folder: &Path, out: &Path, more: &[&str]| {
        start_method(method, folder.parent().unwrap_or(folder), out, more)
    };
    let whole = folder.join("whole");
    let began = std::time::Instant::now();
    assert!(start(folder, &whole, &EPOCHS).wait().unwrap().success(), "{}", log(&whole));
    let mut length = began.elapsed().as_millis() as u64;
    let expected = tensors(&whole);

    let (mut killed, mut runs, mut codes) = (0, 0, Vec::new());
    let mut out = folder.join("run-0");
    while killed < kills {
        let resumes = out.join("last").exists();
        let began = std::time::Instant::now();
        let mut child = start(folder, &out, if resumes { &RESUMED } else { &EPOCHS });
        // a resumed run has a part of the work left; most signals should meet it at work
        std::thread::sleep(Duration::from_millis(draw(killed, length * 3 / 4)));
        let number = if killed.is_multiple_of(3) { SIGTERM } else { SIGKILL };
        if child.try_wait().unwrap().is_none() {
            signal(&child, number);
            killed += 1;
        }
        let status = child.wait().unwrap();
        codes.push(status.code());
        // another load of the machine, another length
        length = if status.success() {
            length.min(began.elapsed().as_millis() as u64)
        } else {
            length + length / 8
        };
        match status.code() {
            Some(0) => {
                let same = tensors(&out) == expected;
                assert!(same, "run {runs} after {killed} signals differs; its log: {}.log", out.display());
                fs::remove_dir_all(&out).unwrap();
                runs += 1;
                out = folder.join(format!("run-{runs}"));
            }
            // killed, stopped after a checkpoint, or caught before it could listen
            None | Some(143) => {}
            Some(code) => panic!("exit code {code}; the log: {}", log(&out)),
        }
    }
    let status = start(folder, &out, if out.join("last").exists() { &RESUMED } else { &EPOCHS }).wait();
    assert!(status.unwrap().success(), "{}", log(&out));
    assert!(tensors(&out) == expected, "the last run differs");
    println!("{method}: {killed} signals over {} runs, exit codes {codes:?}", runs + 1);
}

fn log(out: &Path) -> String {
    fs::read_to_string(out.with_extension("log")).unwrap_or_default()
}

#[test]
fn a_signal_saves_and_leaves_with_its_code() {
    let folder = run::scratch("signalled");
    pictures::tree(&folder.join("train"), 6, 1);
    for number in [SIGTERM, SIGUSR1] {
        let out = folder.join(format!("run-{number}"));
        let mut child = start(&folder, &out, &["--epochs", "5000"]);
        // its first metrics say that it is at work
        while fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default().is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "{}", log(&out));
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&child, number);
        assert_eq!(child.wait().unwrap().code(), Some(128 + number));
        assert!(log(&out).contains("--resume"), "{}", log(&out));
        assert!(Checkpoint::open(last(&out)).is_ok());
    }
}

/// A full disk: a file system of a few megabytes stands in for it, where the system lets one be made.
#[test]
fn a_full_disk_leaves_the_last_good_checkpoint() {
    let folder = run::scratch("full");
    pictures::tree(&folder.join("train"), 6, 1);
    let out = folder.join("run");
    // a limit on the size of files is met as a full disk is: a write fails in the middle
    let tool = run::tool("occlude-train");
    let line = format!(
        "trap '' XFSZ; ulimit -f 1024; exec {} pretrain {} --out {} --recipe saliency-moco-small --image-size 32 --batch-size 6 --epochs 1 --warmup-epochs 0 --device cpu --resume {}",
        tool.display(),
        folder.join("train").display(),
        out.display(),
        out.display()
    );
    let flags = "--recipe saliency-moco-small --image-size 32 --batch-size 6 --epochs 1 --warmup-epochs 0 --device cpu --stop-after 1";
    let mut command = Command::new(&tool);
    command.arg("pretrain").arg(folder.join("train")).arg("--out").arg(&out).args(flags.split_whitespace());
    assert!(command.stderr(Stdio::null()).status().unwrap().success());
    let before = fs::read(last(&out)).unwrap();
    let said = Command::new("sh").args(["-c", &line]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot save") && text.contains("last good checkpoint"), "{text}");
    assert!(fs::read(last(&out)).unwrap() == before, "the last good checkpoint is untouched");
}
