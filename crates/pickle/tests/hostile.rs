//! One test per error, and what attacks look like.

use std::time::{Duration, Instant};

use occlude_pickle::{Error, Limits, decode};

fn error(program: &[u8]) -> Error {
    decode(program, &Limits::default()).expect_err("refused")
}

#[test]
fn truncated() {
    assert_eq!(error(b""), Error::Truncated { at: 0 });
    assert_eq!(error(b"\x80\x02]"), Error::Truncated { at: 3 });
    assert_eq!(error(b"X\x05\0\0\0abc."), Error::Truncated { at: 9 });
    // A frame longer than the file.
    assert_eq!(error(b"\x80\x04\x95\xff\0\0\0\0\0\0\0N."), Error::Truncated { at: 2 });
    // Sizes near 2^64.
    assert!(matches!(error(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff."), Error::Truncated { .. }));
    // A line without an end.
    assert!(matches!(error(b"cos\nsystem"), Error::Truncated { .. }));
}

#[test]
fn unknown_instructions_and_protocols() {
    assert_eq!(error(b"N\xff."), Error::UnknownOp { at: 1, op: 0xff });
    assert_eq!(error(b"\x80\x06N."), Error::Protocol { at: 0, got: 6 });
}

#[test]
fn references_to_the_outside() {
    assert!(matches!(error(b"\x82\x01."), Error::External { op: "EXT1", .. }));
    assert!(matches!(error(b"\x97."), Error::External { op: "NEXT_BUFFER", .. }));
}

#[test]
fn stack_and_marks() {
    assert_eq!(error(b"."), Error::StackUnderflow { at: 0, op: "STOP" });
    assert_eq!(error(b"N\x86."), Error::StackUnderflow { at: 1, op: "TUPLE2" });
    // What lies below a mark is out of reach.
    assert_eq!(error(b"N(\x85."), Error::StackUnderflow { at: 2, op: "TUPLE1" });
    assert_eq!(error(b"(o."), Error::StackUnderflow { at: 1, op: "OBJ" });
    assert_eq!(error(b"t."), Error::NoMark { at: 0, op: "TUPLE" });
    // A mark below the top may be dropped.
    assert!(decode(b"N(0.", &Limits::default()).is_ok());
}

#[test]
fn wrong_operands() {
    assert!(matches!(error(b"NNa."), Error::Operand { op: "APPEND", got: "None", .. }));
    assert!(matches!(error(b"]NNs."), Error::Operand { op: "SETITEM", got: "a list", .. }));
    assert!(matches!(error(b"}(Nu."), Error::Operand { op: "SETITEMS", got: "a key without a value", .. }));
    assert!(matches!(error(b"]Nb."), Error::Operand { op: "BUILD", .. }));
    assert!(matches!(error(b"NN\x93."), Error::Operand { op: "STACK_GLOBAL", .. }));
}

#[test]
fn memo() {
    assert_eq!(error(b"h\x07."), Error::MemoMissing { at: 0, slot: 7 });
    assert!(matches!(error(b"Nr\xff\xff\xff\xff."), Error::Limit { what: "memo slots", .. }));
    assert!(matches!(error(b"Np99999999999999999999\n."), Error::Text { op: "PUT", .. }));
}

#[test]
fn bad_text() {
    for program in [b"Ix\n.".as_slice(), b"Fx\n.", b"Lx\n.", b"Sx\n.", b"V\\u12\n.", b"c\xff\nx\n.", b"gx\n."]
    {
        assert!(matches!(error(program), Error::Text { .. }), "{program:?}");
    }
}

#[test]
fn names_of_functions() {
    // Python 3 takes the strings of Python 2 for text.
    assert!(matches!(error(b"U\x02osU\x06system\x93."), Error::Dangerous { .. }));
    assert!(matches!(error(b"U\x02\xff\xffU\x06system\x93."), Error::Operand { expected: "a name", .. }));
    let deep = [b"ctorch\n".as_slice(), &b"a.".repeat(20), b"b\n."].concat();
    assert!(matches!(error(&deep), Error::Text { expected: "a name", .. }));
    let long = [b"c".as_slice(), &b"a".repeat(2000), b"\nb\n."].concat();
    assert!(matches!(error(&long), Error::Text { expected: "a name", .. }));
}

#[test]
fn commands_are_named_and_refused() {
    let programs: [&[u8]; 5] = [
        b"cos\nsystem\n(S'rm -rf ~'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
        b"(S'id'\nios\nsystem\n.",
        b"(cposix\nsystem\nS'id'\no.",
        b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93\x8c\x02id\x85R.",
    ];
    for program in programs {
        let err = error(program);
        assert!(matches!(&err, Error::Dangerous { name, .. } if name.ends_with("system")), "{err}");
        assert!(err.to_string().contains("nothing was executed"), "{err}");
    }
}

/// Runs a bomb; it must be stopped by a cap, quickly.
fn bomb(program: &[u8], expected: &str) {
    let start = Instant::now();
    match error(program) {
        Error::Limit { what, .. } => assert_eq!(what, expected),
        other => panic!("expected the cap on {expected}, got: {other}"),
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{expected}: {:?}", start.elapsed());
}

#[test]
fn bombs_hit_their_caps() {
    let mega = 1 << 20;
    bomb(&[b']'].repeat(2 * mega), "values");
    bomb(&[b'('].repeat(mega), "containers open at a time");
    bomb(&[b"N".as_slice(), &b"2".repeat(2 * mega)].concat(), "values on the stack");
    bomb(&[b"Nq\0".as_slice(), &b"h\0".repeat(2 * mega)].concat(), "values on the stack");
    bomb(&[b"N".as_slice(), &b"20".repeat(9 * mega)].concat(), "instructions");
    bomb(&b"cx\ny\n0".repeat(70_000), "mentions of classes and functions");
    // Members: a thousand at a time, from one value.
    let round = [b"(".as_slice(), &b"h\0".repeat(1000), b"e"].concat();
    bomb(&[b"]q\0".as_slice(), &round.repeat(5000)].concat(), "members of containers");
    // Characters that are no UTF-8 take three bytes each.
    bomb(&[b"X\0\0\xc0\0".as_slice(), &[0xff].repeat(12 << 20)].concat(), "bytes of escaped strings");
    // Escapes decode to more than they should.
    let mut text = b"V".to_vec();
    text.resize(65 << 20, b'\xe9');
    text.push(b'\n');
    bomb(&text, "bytes of escaped strings");
}

/// Exponential sharing is cheap here: the values exist once, however often they are referred to.
#[test]
fn a_billion_laughs_stay_one_list_each() {
    let mut program = b"]q\0".to_vec();
    for level in 1..=60u8 {
        program.extend([b']', b'(']);
        program.extend([b'h', level - 1].repeat(10));
        program.extend([b'e', b'q', level]);
    }
    program.push(b'.');
    let pickle = decode(&program, &Limits::default()).expect("harmless");
    assert_eq!(pickle.root().items().map(|i| i.len()), Some(10));
}
