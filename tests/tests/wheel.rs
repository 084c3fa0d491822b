//! The wheel, installed as a user would install it: into a fresh environment, in a folder whose name has spaces.

use occlude_tests::run::Said;
use occlude_tests::venv::Venv;
use occlude_tests::{pictures, run};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use xtask::server::{Server, free_port};
use xtask::{paths, sh};

/// Whether nobody asked for these tests, which build the tools and several environments.
#[track_caller]
fn unasked() -> bool {
    let unasked = std::env::var_os("OCCLUDE_REHEARSE").is_none();
    if unasked {
        occlude_skip::test("rehearsal", "`OCCLUDE_REHEARSE=1` runs it; it takes many minutes");
    }
    unasked
}

/// The folder of everything here, and the wheel.
fn place() -> &'static (PathBuf, PathBuf) {
    static PLACE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = run::scratch("wheel").join("a folder with spaces");
        let wheel = xtask::wheel::build(&folder.join("dist")).unwrap_or_else(|error| panic!("{error:#}"));
        (folder, wheel)
    })
}

fn fresh(name: &str) -> Venv {
    let (folder, wheel) = place();
    Venv::new(&folder.join(name), wheel)
}

/// One that sees torch, ONNX Runtime and NumPy of the project's environment.
fn full() -> &'static Venv {
    static FULL: OnceLock<Venv> = OnceLock::new();
    FULL.get_or_init(|| {
        let venv = fresh("full");
        venv.sees_the_projects_packages();
        venv
    })
}

/// One without torch and ONNX Runtime.
fn bare() -> &'static Venv {
    static BARE: OnceLock<Venv> = OnceLock::new();
    BARE.get_or_init(|| fresh("bare"))
}

/// The libtorch that the tests run with.
fn libtorch() -> PathBuf {
    let default = paths::libtorch();
    let path = paths::external("LIBTORCH", &default).unwrap_or(default);
    path.canonicalize().unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
}

/// The wheel's files, unpacked.
fn unpacked() -> PathBuf {
    let (folder, wheel) = place();
    let to = folder.join("unpacked");
    sh::capture(Command::new(paths::python()).args(["-m", "zipfile", "-e"]).arg(wheel).arg(&to)).unwrap();
    to
}

#[test]
fn the_tag_is_the_newest_glibc_that_a_program_names() {
    if unasked() {
        return;
    }
    let (_, wheel) = place();
    let name = wheel.file_name().unwrap().to_string_lossy().into_owned();
    let tag = name.split("-py3-none-manylinux_2_").nth(1).and_then(|rest| rest.strip_suffix("_x86_64.whl"));
    let tag: u32 = tag.unwrap_or_else(|| panic!("{name}")).parse().unwrap();
    let root = unpacked();
    let mut newest = (0, 0);
    for tool in paths::TOOLS {
        let bytes = fs::read(root.join("occlude/bin").join(tool)).unwrap();
        newest.0 = newest.0.max(newest_symbol(&bytes, b"GLIBC_2."));
        newest.1 = newest.1.max(newest_symbol(&bytes, b"GLIBCXX_3.4."));
    }
    assert!(newest.0 >= 17 && newest.0 <= tag, "glibc 2.{}: {name}", newest.0);
    // GCC 12's libstdc++, the first with GLIBCXX_3.4.30, is that of distributions with glibc 2.35.
    assert!(newest.1 < 30 || tag >= 35, "GLIBCXX_3.4.{}: {name}", newest.1);
    assert!(tag == newest.0 || newest.1 > 19, "{name} asks for more than glibc 2.{}", newest.0);
}

/// The largest N of `prefix` followed by N and a zero, anywhere in a file.
fn newest_symbol(bytes: &[u8], prefix: &[u8]) -> u32 {
    let number = |at: usize| {
        let rest = bytes.get(at + prefix.len()..)?;
        let digits: Vec<u8> = rest.iter().copied().take_while(u8::is_ascii_digit).take(4).collect();
        std::str::from_utf8(&digits).ok()?.parse::<u32>().ok()
    };
    let places = bytes.windows(prefix.len()).enumerate().filter(|(_, window)| *window == prefix);
    places.filter_map(|(at, _)| number(at)).max().unwrap_or(0)
}

#[test]
fn the_wheel_holds_what_pip_and_people_need() {
    if unasked() {
        return;
    }
    let (_, wheel) = place();
    assert!(fs::metadata(wheel).unwrap().len() < 40 << 20);
    let root = unpacked();
    let info = root.join(format!("occlude-{}.dist-info", env!("CARGO_PKG_VERSION")));
    let metadata = fs::read_to_string(info.join("METADATA")).unwrap();
    let (header, body) = metadata.split_once("\n\n").unwrap();
    assert!(header.contains(&format!("Version: {}\n", env!("CARGO_PKG_VERSION"))), "{header}");
    assert!(header.contains("Requires-Dist: torch==2.11.*; extra == 'train'"), "{header}");
    assert_eq!(body, fs::read_to_string(paths::root().join("README.md")).unwrap());
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert!(info.join("licenses").join(licence).is_file(), "{licence}");
    }
    let record = fs::read_to_string(info.join("RECORD")).unwrap();
    assert!(
        paths::TOOLS.iter().all(|tool| record.contains(&format!("occlude/bin/{tool},sha256="))),
        "{record}"
    );
}

#[test]
fn no_folder_of_the_building_machine_is_searched_for_libraries() {
    if unasked() {
        return;
    }
    let root = unpacked();
    for tool in paths::TOOLS {
        let program = root.join("occlude/bin").join(tool);
        let text = sh::capture(Command::new("readelf").arg("-dW").arg(&program)).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("PATH)")).collect();
        assert!(rows.iter().all(|row| row.ends_with("[$ORIGIN/../lib]")), "{tool}: {rows:?}");
    }
}

#[test]
fn from_pictures_to_an_answer_of_the_server() {
    if unasked() {
        return;
    }
    let venv = full();
    let cwd = venv.cwd();
    pictures::tree(&cwd.join("train"), 12, 1);
    venv.words(
        "occlude-train",
        "pretrain train --out run --recipe saliency-moco-small --arch resnet18 --image-size 32 --batch-size 12 \
         --device cpu --precision fp32 --workers 1 --epochs 1",
    )
    .ok();
    venv.words("occlude-train", "knn run/checkpoint_0000.safetensors train train --device cpu").ok();
    venv.words("occlude-export", "onnx run/checkpoint_0000.safetensors encoder.onnx --input uint8").ok();
    let verify =
        venv.words("occlude-export", "verify encoder.onnx run/checkpoint_0000.safetensors train").ok();
    assert!(!verify.stdout.is_empty(), "{}", verify.stderr);
    venv.words("occlude-detectron", "convert run/checkpoint_0000.safetensors encoder.pkl").ok();
    assert!(cwd.join("encoder.pkl").is_file());

    let port = free_port().unwrap();
    let mut command = venv.command("occlude-serve");
    command.args(["--model", "encoder.onnx", "--provider", "cpu", "--port", &port.to_string()]);
    let server = Server::launch(command, port, &cwd.join("server.log")).unwrap();
    // The process that was started is the server itself, not a Python that waits for it.
    let name = fs::read_to_string(format!("/proc/{}/comm", server.id())).unwrap();
    assert_eq!(name.trim(), "occlude-serve");
    let picture = fs::read(cwd.join("train/disc/000.png")).unwrap();
    let answer = server.client().post("/v1/embed", &picture).unwrap();
    assert_eq!(answer["embedding"].as_array().map(Vec::len), Some(512), "{answer}");
    server.stop().unwrap();
}

#[test]
fn selftest_passes() {
    if unasked() {
        return;
    }
    full().words("occlude-train", "selftest --device cpu").ok();
}

#[test]
fn doctor_finds_everything() {
    if unasked() {
        return;
    }
    let said = full().words("python", "-m occlude doctor").ok();
    for what in ["torch", "onnxruntime", "occlude-train doctor", "occlude-serve", "libtorch       2.11"] {
        assert!(said.stdout.contains(what), "no `{what}`:\n{}", said.stdout);
    }
    assert!(!said.stdout.contains("MISSING"), "{}", said.stdout);
}

#[test]
fn without_torch_the_trainer_says_what_to_install_and_the_others_run() {
    if unasked() {
        return;
    }
    let said = bare().words("occlude-train", "doctor");
    assert_eq!((said.code, said.stdout.as_str()), (1, ""));
    assert!(said.stderr.starts_with("error: occlude-train: torch 2.11 is needed"), "{}", said.stderr);
    assert!(said.stderr.contains("-m pip install torch==2.11.0`"), "{}", said.stderr);
    for tool in &paths::TOOLS[1..] {
        assert!(bare().words(tool, "--version").ok().stdout.starts_with(tool));
    }
    let doctor = bare().words("python", "-m occlude doctor").ok().stdout;
    assert!(
        doctor.contains("hint:") && doctor.contains("not installed") && !doctor.contains("MISSING"),
        "{doctor}"
    );
}

#[test]
fn python_m_occlude_says_what_there_is() {
    if unasked() {
        return;
    }
    let said = bare().words("python", "-m occlude").ok();
    assert!(paths::TOOLS.iter().all(|tool| said.stdout.contains(tool)), "{}", said.stdout);
    assert!(bare().words("python", "-m occlude serve --version").ok().stdout.starts_with("occlude-serve"));
    let wrong = bare().words("python", "-m occlude dance");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""));
    assert!(wrong.stderr.contains("`dance`"), "{}", wrong.stderr);
}

/// A package `torch` of a version, without content.
fn fake_torch(packages: &Path, version: &str) {
    let info = packages.join(format!("torch-{version}.dist-info"));
    fs::create_dir_all(packages.join("torch/lib")).unwrap();
    fs::create_dir_all(&info).unwrap();
    fs::write(packages.join("torch/__init__.py"), "raise SystemExit('torch was imported')\n").unwrap();
    fs::write(packages.join("torch/version.py"), format!("__version__ = '{version}'\n")).unwrap();
    fs::write(packages.join("torch/lib/libtorch.so"), "").unwrap();
    fs::write(info.join("METADATA"), format!("Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"))
        .unwrap();
}

#[test]
fn a_torch_of_another_release_is_named() {
    if unasked() {
        return;
    }
    let venv = fresh("old torch");
    for version in ["2.3.1+cpu", "2.1.10", "2.110.0", "3.11.0"] {
        fake_torch(&venv.packages(), version);
        let said = venv.words("occlude-train", "doctor");
        assert_eq!((said.code, said.stdout.as_str()), (1, ""));
        assert!(
            said.stderr.contains(&format!(
                "torch 2.11 is needed, and `{}",
                venv.program("").parent().unwrap().parent().unwrap().display()
            )),
            "{}",
            said.stderr
        );
        assert!(said.stderr.contains(&format!("has {version}\nhint: ")), "{}", said.stderr);
    }
    let doctor = venv.words("python", "-m occlude doctor");
    assert_eq!(doctor.code, 1, "{}", doctor.stdout);
    assert!(doctor.stdout.contains("MISSING  torch"), "{}", doctor.stdout);
}

#[test]
fn a_folder_of_pictures_called_torch_is_no_package() {
    if unasked() {
        return;
    }
    let venv = bare();
    fs::create_dir_all(venv.cwd().join("torch/class")).unwrap();
    let said = venv.words("python", "-m occlude train doctor");
    assert!(said.stderr.contains("has none"), "{}", said.stderr);
}

#[test]
fn libtorch_of_the_users_choice_is_taken_or_refused_by_name() {
    if unasked() {
        return;
    }
    let ours = libtorch();
    let venv = bare();
    Said::of(venv.command("occlude-train").arg("doctor").env("LIBTORCH", &ours)).ok();
    let said = Said::of(venv.command("occlude-train").arg("doctor").env("LIBTORCH", "/nowhere"));
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.contains("`LIBTORCH` names `/nowhere`, which holds no `lib/libtorch.so`"),
        "{}",
        said.stderr
    );
    let old = venv.cwd().join("old libtorch");
    fs::create_dir_all(old.join("lib")).unwrap();
    fs::write(old.join("lib/libtorch.so"), "").unwrap();
    fs::write(old.join("build-version"), "2.4.0+cu121\n").unwrap();
    let said = Said::of(venv.command("occlude-train").arg("doctor").env("LIBTORCH", &old));
    assert!(said.stderr.contains("2.4.0+cu121") && said.stderr.contains("`LIBTORCH`"), "{}", said.stderr);
}

#[test]
fn a_torch_without_cuda_is_enough_for_the_cpu() {
    if unasked() {
        return;
    }
    let venv = fresh("torch without cuda");
    let ours = libtorch();
    let packages = venv.packages();
    fs::create_dir_all(packages.join("torch/lib")).unwrap();
    for file in ["__init__.py", "version.py"] {
        fs::copy(ours.join(file), packages.join("torch").join(file)).unwrap();
    }
    for entry in fs::read_dir(ours.join("lib")).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().contains("cuda") {
            symlink(entry.path(), packages.join("torch/lib").join(entry.file_name())).unwrap();
        }
    }
    // Where its other libraries are, seen from there.
    symlink(ours.parent().unwrap().join("nvidia"), packages.join("nvidia")).unwrap();
    let said = venv.words("occlude-train", "doctor");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains("linked: false, usable: false"), "{}", said.stdout);
}

/// The launcher with shell scripts for programs.
struct Scripts(PathBuf);

impl Scripts {
    fn new(name: &str, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let home = run::scratch(name).join("occlude");
        fs::create_dir_all(home.join("bin")).unwrap();
        for file in ["__init__.py", "__main__.py", "launch.py"] {
            fs::copy(paths::root().join("packaging/python/occlude").join(file), home.join(file)).unwrap();
        }
        let program = home.join("bin/occlude-serve");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self(home.parent().unwrap().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(paths::python());
        for variable in ["LIBTORCH", "ORT_DYLIB_PATH", "OCCLUDE_PYTHON"] {
            command.env_remove(variable);
        }
        command.args(["-m", "occlude", "serve"]).env("PYTHONPATH", &self.0).current_dir("/");
        command
    }
}

#[test]
fn arguments_input_and_exit_status_pass_through() {
    if unasked() {
        return;
    }
    let scripts = Scripts::new("wheel-status", "printf '%s|' \"$@\"; cat; exit 37");
    let mut command = scripts.command();
    command.args(["a b", "", "--c=*"]).stdin(fs::File::open(paths::root().join("rustfmt.toml")).unwrap());
    let said = Said::of(&mut command);
    assert_eq!(said.code, 37);
    let input = fs::read_to_string(paths::root().join("rustfmt.toml")).unwrap();
    assert_eq!(said.stdout, format!("a b||--c=*|{input}"));
}

#[test]
fn signals_are_not_left_ignored() {
    if unasked() {
        return;
    }
    let scripts = Scripts::new("wheel-signals", "grep SigIgn /proc/self/status");
    let of = |command: &mut Command| Said::of(command).ok().stdout;
    let bare = of(Command::new("grep").args(["SigIgn", "/proc/self/status"]));
    assert_eq!(of(&mut scripts.command()), bare);
}

#[test]
fn the_users_variables_win_and_empty_ones_count_as_unset() {
    if unasked() {
        return;
    }
    let scripts = Scripts::new("wheel-variables", "echo \"$ORT_DYLIB_PATH|$OCCLUDE_PYTHON\"");
    let said = Said::of(scripts.command().env("ORT_DYLIB_PATH", "/a b.so").env("OCCLUDE_PYTHON", "/p")).ok();
    assert_eq!(said.stdout, "/a b.so|/p\n");
    let said = Said::of(scripts.command().env("ORT_DYLIB_PATH", "").env("OCCLUDE_PYTHON", "")).ok();
    let (library, python) = said.stdout.trim().split_once('|').unwrap();
    assert!(library.contains("/onnxruntime/capi/libonnxruntime.so"), "{library}");
    assert_eq!(Path::new(python), paths::python(), "the environment's own");
}

#[test]
fn a_program_that_is_gone_is_named() {
    if unasked() {
        return;
    }
    let scripts = Scripts::new("wheel-gone", "");
    fs::remove_file(scripts.0.join("occlude/bin/occlude-serve")).unwrap();
    let said = Said::of(&mut scripts.command());
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.contains("occlude/bin/occlude-serve") && said.stderr.contains("hint:"),
        "{}",
        said.stderr
    );
}
