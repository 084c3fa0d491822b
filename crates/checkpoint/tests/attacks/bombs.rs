//! Small files that ask for much memory or time.

use occlude_checkpoint::{LoadOptions, match_encoder};

use crate::measure::{open, refused, refused_for};
use crate::wrap::{everywhere, tensor, text, torch_zip};

const MEGA: usize = 1 << 20;

/// Refuses a program in every container.
fn all_refuse(name: &str, program: &[u8]) {
    for (container, file) in everywhere(program) {
        refused(&format!("{name} in {container}"), &file);
    }
}

/// `{key: value}` with instructions for the value.
fn entry(key: &str, value: &[u8]) -> Vec<u8> {
    [b"}", text(key).as_slice(), value, b"s."].concat()
}

#[test]
fn deep_nesting() {
    all_refuse("marks", &b"(".repeat(4 * MEGA));
    all_refuse("lists", &[b"]".repeat(4 * MEGA), b"a".repeat(4 * MEGA), b".".to_vec()].concat());
    all_refuse("tuples", &[b"N".to_vec(), b"\x85".repeat(MEGA / 4), b".".to_vec()].concat());
    let open_dict = [b"}".as_slice(), &text("k")].concat();
    all_refuse(
        "dictionaries",
        &[open_dict.repeat(300), b"N".to_vec(), b"s".repeat(300), b".".to_vec()].concat(),
    );
    all_refuse("a list in itself", b"]q\0h\0a.");
    all_refuse("a dictionary in itself", &[b"}q\0", text("k").as_slice(), b"h\0s."].concat());
}

#[test]
fn shared_values_are_not_multiplied() {
    for (open, close) in [("]", "e"), ("}", "u"), ("(", "t")] {
        let mut program = b"]q\0".to_vec();
        for level in 1..=60u8 {
            // A tuple is opened by the mark itself.
            program.extend(if open == "(" { "(".into() } else { format!("{open}(") }.bytes());
            (0..10u8).for_each(|i| {
                program.extend(if open == "}" {
                    [text(&i.to_string()), vec![b'h', level - 1]].concat()
                } else {
                    vec![b'h', level - 1]
                });
            });
            program.extend([close.as_bytes(), &[b'q', level]].concat());
        }
        program.push(b'.');
        all_refuse("a billion laughs", &program);
    }
}

/// One large container, looked at from many places.
#[test]
fn large_values_are_not_looked_at_again_and_again() {
    let list = [b"](".to_vec(), b"N".repeat(200_000), b"eq\0".to_vec()].concat();
    let dict = [b"}(".to_vec(), b"NN".repeat(100_000), b"uq\0".to_vec()].concat();
    let tuple = [b"(".to_vec(), b"K\x01".repeat(200_000), b"tq\0".to_vec()].concat();
    for large in [&list, &dict, &tuple] {
        let many = [b"0](".to_vec(), b"h\0".repeat(300_000), b"e.".to_vec()].concat();
        all_refuse("many references", &[large.as_slice(), &many].concat());
        let objects = [b"0](".to_vec(), b"cx\ny\nh\0Rh\0b".repeat(30_000), b"e.".to_vec()].concat();
        all_refuse("arguments and states", &[large.as_slice(), &objects].concat());
        let shapes = tensor("FloatStorage", b"K\x10", b"h\0", b"h\0");
        all_refuse("shapes", &[large, b"0](".as_slice(), &shapes.repeat(20_000), b"e."].concat());
        let ordered = b"ccollections\nOrderedDict\nh\0\x85R";
        all_refuse("mappings", &[large, b"0](".as_slice(), &ordered.repeat(60_000), b"e."].concat());
        let keyed: Vec<u8> =
            (0..50_000).flat_map(|i| [text(&i.to_string()), b"h\0".to_vec()].concat()).collect();
        all_refuse("outer entries", &[large, b"0}(".as_slice(), &keyed, b"u."].concat());
    }
}

#[test]
fn long_texts_are_not_repeated() {
    let long = text(&"x".repeat(MEGA));
    let memo = [long.as_slice(), b"q\x000"].concat();
    let tensors: Vec<u8> = tensor("FloatStorage", b"K\x01", b"K\x01\x85", b"K\x01\x85");
    let dict = [memo.as_slice(), &tensors, b"q\x010}(", &b"h\0h\x01".repeat(200_000), b"u."].concat();
    all_refuse("names", &dict);
    let nested = [text(&"x".repeat(1000)), b"q\x000".to_vec(), tensors.clone(), b"q\x010".to_vec()].concat();
    let level = [b"}(".as_slice(), &b"h\0h\x01".repeat(100_000), b"u."].concat();
    all_refuse("names below names", &[nested, level].concat());
    let metadata: Vec<u8> =
        (0..5000).flat_map(|i| [text(&i.to_string()), b"h\0".to_vec()].concat()).collect();
    let value = [text(&"x".repeat(60_000)), b"q\x000".to_vec()].concat();
    all_refuse("metadata", &[value, b"}(".to_vec(), metadata, b"u.".to_vec()].concat());
    let names =
        [b"\x8c\xfatorch.", [b"a.".repeat(122), b"q\0".to_vec()].concat().as_slice(), b"\x93"].concat();
    all_refuse("dotted names", &[names.repeat(70_000), b".".to_vec()].concat());
}

#[test]
fn escapes_are_held_to_what_they_decode_to() {
    let line = |unit: &[u8], bytes: usize| [b"V", unit.repeat(bytes / unit.len()).as_slice(), b"\n"].concat();
    all_refuse("Latin-1", &line(b"\xe9", 60 * MEGA));
    all_refuse("escapes", &[line(b"\\u00e9", 14 * MEGA).repeat(4), b".".to_vec()].concat());
    let quoted = [b"S'".to_vec(), b"\\x00".repeat(3 * MEGA), b"'\n".to_vec()].concat();
    all_refuse("quoted", &[quoted.repeat(5), b".".to_vec()].concat());
    let invalid =
        |bytes: usize| [b"X".as_slice(), &(bytes as u32).to_le_bytes(), &b"\xff".repeat(bytes)].concat();
    all_refuse("no UTF-8", &[invalid(10 * MEGA).repeat(3), b".".to_vec()].concat());
    // A name of a class that had to be decoded, mentioned again and again.
    let name = [invalid(1000), b"q\0".to_vec()].concat();
    all_refuse("decoded names", &[name, b"h\0h\0\x930".repeat(65_000), b"N.".to_vec()].concat());
}

#[test]
fn many_small_values() {
    for (name, unit) in [
        ("objects", b"cx\ny\n)R]a}NNsb0".as_slice()),
        ("calls", b")0h\0)R(NNeh\0NsN"),
        ("dictionaries", b"}NNs"),
        ("sets", b"\x8f(N\x90"),
        ("tuples", b"N\x85"),
        ("strings", b"X\0\0\0\0"),
        ("globals", b"cx\ny\n"),
        ("persistent ids", b"Pab\n"),
        ("nothing", b"N0"),
        ("empty marks", b"(1"),
        ("memo", b"N\x94"),
    ] {
        let program = [b"cx\ny\nq\0".to_vec(), unit.repeat(40 * MEGA / unit.len()), b".".to_vec()].concat();
        all_refuse(name, &program);
    }
}

#[test]
fn many_tensors_of_one_storage() {
    let scalar = tensor("FloatStorage", b"K\x10", b")", b")");
    let list = [scalar.as_slice(), b"q\x010](", &b"h\x01".repeat(1_000_000), b"e."].concat();
    refused_for("tensors", &torch_zip(&list), "more than");
}

#[test]
fn declared_sizes() {
    let max = u64::MAX.to_le_bytes();
    for op in [b"\x8e", b"\x8d", b"\x96", b"\x95"] {
        for size in [max, (1u64 << 63).to_le_bytes(), (1u64 << 40).to_le_bytes()] {
            all_refuse("64-bit size", &[op.as_slice(), &size, b"x."].concat());
        }
    }
    for op in [b"B", b"T", b"X", b"\x8b"] {
        for size in [u32::MAX, 1 << 31, i32::MAX as u32] {
            all_refuse("32-bit size", &[op.as_slice(), &size.to_le_bytes(), b"x."].concat());
        }
    }
    all_refuse("memo slot", b"Nr\xff\xff\xff\xff.");
    all_refuse("decimal", &[b"I".to_vec(), b"9".repeat(10 * MEGA), b"\n.".to_vec()].concat());
    all_refuse(
        "a large integer",
        &entry("x", &[b"\x8b".as_slice(), &(MEGA as u32).to_le_bytes(), &vec![1; MEGA]].concat()),
    );
}

#[test]
fn tensors_that_claim_more_than_their_storage() {
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f".as_slice();
    let one = b"K\x01\x85".as_slice();
    let cases: [(&str, Vec<u8>); 6] = [
        ("a huge side", tensor("FloatStorage", b"K\x10", &[huge, b"\x85"].concat(), one)),
        (
            "sides that overflow",
            tensor("FloatStorage", b"K\x10", &[huge, huge, b"\x86"].concat(), b"K\x01K\x01\x86"),
        ),
        ("a huge stride", tensor("FloatStorage", b"K\x10", b"K\x02\x85", &[huge, b"\x85"].concat())),
        ("a repeated element", tensor("FloatStorage", b"K\x10", &[huge, b"\x85"].concat(), b"K\0\x85")),
        ("a negative side", tensor("FloatStorage", b"K\x10", b"J\xff\xff\xff\xff\x85", one)),
        ("one element more", tensor("FloatStorage", b"K\x11", b"K\x11\x85", one)),
    ];
    for (name, program) in cases {
        refused(name, &torch_zip(&entry("w", &program)));
    }
    let fine = entry("w", &tensor("FloatStorage", b"K\x10", b"K\x10\x85", one));
    assert_eq!(open("all elements", &torch_zip(&fine)).map(|c| c.names().count()), Ok(1));
    let huge_count = entry("w", &tensor("FloatStorage", huge, b"K\x10\x85", one));
    // The count is not what is read; the record is.
    assert!(open("a huge count", &torch_zip(&huge_count)).is_ok());
    refused_for("not in the file", &crate::wrap::legacy(&huge_count), "storage");
}

/// Thousands of encoders in one file: named as ambiguous, not compared pair by pair.
#[test]
fn many_encoders() {
    let scalar = tensor("FloatStorage", b"K\x10", b")", b")");
    let names = (0..40_000).flat_map(|i| [format!("{i}.conv1.weight"), format!("{i}.layer1.0.conv1.weight")]);
    let entries: Vec<u8> = names.flat_map(|name| [text(&name), b"h\x01".to_vec()].concat()).collect();
    let program = [scalar.as_slice(), b"q\x010}(", &entries, b"u."].concat();
    let checkpoint = open("many encoders", &torch_zip(&program)).expect("opens");
    let start = std::time::Instant::now();
    let message = match_encoder(&checkpoint, &LoadOptions::default()).expect_err("ambiguous").to_string();
    println!("many encoders: {} ms to choose", start.elapsed().as_millis());
    assert!(message.contains("several encoders") && message.len() < 4000, "{message}");
}

/// Arrays whose bytes are written as text, as Python 3 does in old protocols; all of them share one.
#[test]
fn one_encoded_array_for_many_tensors() {
    let dtype = b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR(K\x03U\x01|NNNK\0K\0K\0tbq\x010";
    let plain = text(&"x".repeat(MEGA));
    let escaped = [b"V".to_vec(), b"\\u00e9".repeat(MEGA / 8), b"\n".to_vec()].concat();
    for (name, encoded, len) in [("in the file", plain, MEGA), ("decoded", escaped, MEGA / 8)] {
        let data = [b"c_codecs\nencode\n(", encoded.as_slice(), b"U\x06latin1tRq\x000"].concat();
        let start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR(K\x01(J";
        let array = [start.as_slice(), &(len as u32).to_le_bytes(), b"th\x01\x89h\0tb"].concat();
        let program = |count: usize| [data.as_slice(), dtype, b"](", &array.repeat(count), b"e."].concat();
        for (container, file) in everywhere(&program(5000)) {
            refused_for(&format!("{name} in {container}"), &file, "bytes of encoded arrays");
        }
        let [(_, file), ..] = everywhere(&program(1));
        assert_eq!(open("one array", &file).map(|c| c.names().count()), Ok(1));
    }
}
