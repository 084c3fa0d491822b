//! Files that would run something if Python loaded them.

use crate::measure::{refused, refused_for};
use crate::wrap::{everywhere, text};

const TARGETS: [(&str, &str); 24] = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("os", "popen"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("__builtin__", "execfile"),
    ("importlib", "import_module"),
    ("runpy", "_run_code"),
    ("pty", "spawn"),
    ("socket", "create_connection"),
    ("urllib.request", "urlopen"),
    ("webbrowser", "open"),
    ("shutil", "rmtree"),
    ("ctypes", "CDLL"),
    ("pickle", "loads"),
    ("marshal", "loads"),
    ("timeit", "timeit"),
    ("torch.hub", "load"),
    ("torch.utils.cpp_extension", "load_inline"),
    ("numpy.testing._private.utils", "runstring"),
];

/// Every way in which a pickle can get hold of a function.
fn programs(module: &str, name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let global = format!("c{module}\n{name}\n").into_bytes();
    let inst = format!("i{module}\n{name}\n").into_bytes();
    let stacked = [text(module), text(name), b"\x93".to_vec()].concat();
    let old = |s: &str| [b"U".as_slice(), &[s.len() as u8], s.as_bytes()].concat();
    let escaped = format!("V{}\nV{name}\n", module.replace('o', "\\u006f"));
    let argument = text("id");
    vec![
        ("REDUCE", [&global, argument.as_slice(), b"\x85R."].concat()),
        ("STACK_GLOBAL", [&stacked, argument.as_slice(), b"\x85R."].concat()),
        ("STACK_GLOBAL, Python 2", [old(module), old(name), b"\x93)R.".to_vec()].concat()),
        ("STACK_GLOBAL, escaped", [escaped.as_bytes(), b"\x93)R."].concat()),
        (
            "STACK_GLOBAL, memo",
            [text(module), b"q\0".to_vec(), text(name), b"q\x010h\0h\x01\x93)R.".to_vec()].concat(),
        ),
        ("INST", [b"(", argument.as_slice(), &inst, b"."].concat()),
        ("OBJ", [b"(", global.as_slice(), &argument, b"o."].concat()),
        ("NEWOBJ", [&global, argument.as_slice(), b"\x85\x81."].concat()),
        ("NEWOBJ_EX", [&global, argument.as_slice(), b"\x85}\x92."].concat()),
        ("BUILD", [b"cargparse\nNamespace\n)R}", text("f").as_slice(), &global, b"sb."].concat()),
        ("unused", [&global, b"0".as_slice(), b"N."].concat()),
        (
            "in a dictionary",
            [b"}", text("state_dict").as_slice(), b"}", &text("w"), &global, b")Rss."].concat(),
        ),
    ]
}

#[test]
fn commands_are_named_in_every_form_and_container() {
    for (module, name) in TARGETS {
        for (form, program) in programs(module, name) {
            for (container, file) in everywhere(&program) {
                let case = format!("{module}.{name} by {form} in {container}");
                let message = refused(&case, &file);
                assert!(message.contains(&format!("`{module}.{name}`")), "{case}: {message}");
                assert!(message.contains("nothing was executed"), "{case}: {message}");
            }
        }
    }
}

#[test]
fn attributes_of_modules_do_not_hide_them() {
    for (container, file) in everywhere(b"ctorch\nserialization.os.system\n(X\x02\0\0\0idtR.") {
        refused_for(container, &file, "serialization.os.system");
    }
}

/// Functions that reach anything step by step are data here: nothing is called, and a file that
/// consists of them holds no tensors.
#[test]
fn steps_towards_a_command_are_listed() {
    let getattr = b"cbuiltins\ngetattr\n(ctorch\nnn\nX\x02\0\0\0ostR.";
    let attrgetter = b"coperator\nattrgetter\n(X\x09\0\0\0os.systemtR.";
    for program in [getattr.as_slice(), attrgetter] {
        for (container, file) in everywhere(program) {
            let message = refused(container, &file);
            assert!(message.contains("no tensors found"), "{message}");
            assert!(
                message.contains("`builtins.getattr`") || message.contains("`operator.attrgetter`"),
                "{message}"
            );
        }
    }
}

/// The four other pickles of a legacy stream are read with the same care.
#[test]
fn every_pickle_of_a_legacy_stream_is_judged() {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".as_slice();
    let (protocol, attack) =
        (b"\x80\x02M\xe9\x03.".as_slice(), b"cos\nsystem\nX\x02\0\0\0id\x85R.".as_slice());
    let files = [
        [magic, attack].concat(),
        [magic, protocol, attack].concat(),
        [magic, protocol, b"}.", attack].concat(),
        [magic, protocol, b"}.", b"}.", attack].concat(),
    ];
    for (i, file) in files.iter().enumerate() {
        refused_for(&format!("pickle {}", i + 1), file, "nothing was executed");
    }
}
