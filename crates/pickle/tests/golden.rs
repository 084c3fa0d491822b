//! Pickles that Python wrote, of every protocol; `golden/make.py` made them.

use std::path::Path;

use occlude_pickle::{Limits, Node, Pickle, Value, decode};

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("`{}`: {e}", path.display()))
}

fn ints(node: Option<Node<'_, '_>>) -> Vec<Option<i64>> {
    node.and_then(Node::items).expect("a list").map(Node::as_i64).collect()
}

fn strings<'p>(node: Option<Node<'p, '_>>) -> Vec<&'p str> {
    node.and_then(Node::items).expect("a list").map(|n| n.as_str().expect("a string")).collect()
}

#[test]
fn every_protocol_gives_the_same_values() {
    for protocol in 0..=5 {
        let bytes = read(&format!("values_p{protocol}.pkl"));
        let pickle =
            decode(&bytes, &Limits::default()).unwrap_or_else(|e| panic!("protocol {protocol}: {e}"));
        assert_eq!(pickle.consumed(), bytes.len());
        check(&pickle, protocol);
    }
}

fn check(pickle: &Pickle<'_>, protocol: u8) {
    let root = pickle.root();
    assert!(root.get("none").is_some_and(Node::is_none));
    assert_eq!(root.get("true").and_then(Node::as_bool), Some(true));
    assert_eq!(root.get("false").and_then(Node::as_bool), Some(false));
    let expected = [0, 1, 255, 256, 65536, -1, 1 << 31, i64::MIN].map(Some);
    let got = ints(root.get("ints"));
    assert_eq!(got[..8], expected);
    // 2^80 has no 64 bits.
    assert_eq!(got[8], None);
    let floats: Vec<_> = root.get("floats").and_then(Node::items).expect("a list").map(Node::value).collect();
    assert_eq!(floats, [&Value::Float(1.5), &Value::Float(-0.0), &Value::Float(f64::INFINITY)]);
    let long = "x".repeat(300);
    assert_eq!(strings(root.get("strings")), ["", "abc", "caf\u{e9}\n\\", "\u{1f600}", &long]);
    check_bytes(root.get("bytes"), protocol);
    let tuples: Vec<_> =
        root.get("tuples").and_then(Node::items).expect("a list").map(|t| ints(Some(t))).collect();
    assert_eq!(tuples.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(tuples[4], [1, 2, 3, 4].map(Some));
    let ordered = root.get("ordered").and_then(Node::entries).expect("a mapping");
    let ordered: Vec<_> = ordered.into_iter().map(|(k, v)| (k.as_str(), v.as_i64())).collect();
    assert_eq!(ordered, [(Some("b"), Some(1)), (Some("a"), Some(2))]);
    check_namespace(root.get("namespace"));
    let mut shared = root.get("shared").and_then(Node::items).expect("a list").map(Node::id);
    assert_eq!(shared.next(), shared.next());
}

fn check_bytes(node: Option<Node<'_, '_>>, protocol: u8) {
    let node = node.expect("present");
    if protocol >= 3 {
        assert_eq!(node.as_bytes(), Some([0, 0xff].as_slice()));
    } else {
        let call = node.call().expect("`_codecs.encode` makes bytes in older protocols");
        assert_eq!((&*call.global.module, &*call.global.name), ("_codecs", "encode"));
        assert_eq!(call.args.first().and_then(|a| a.as_str()), Some("\0\u{ff}"));
    }
}

fn check_namespace(node: Option<Node<'_, '_>>) {
    // Protocols 0 and 1 build objects through `copyreg._reconstructor`, later ones call the class.
    let call = node.and_then(Node::call).expect("a namespace is an object");
    let state = call.state.expect("it has attributes");
    assert_eq!(state.get("arch").and_then(Node::as_str), Some("resnet50"));
    assert_eq!(state.get("lr").map(Node::value), Some(&Value::Float(0.03)));
}

#[test]
fn python_2_files() {
    let bytes = read("python2.pkl");
    let pickle = decode(&bytes, &Limits::default()).expect("decodes");
    let root = pickle.root();
    assert_eq!(root.get("raw").and_then(Node::as_bytes), Some(b"\0\xffa".as_slice()));
    assert_eq!(root.get("raw").and_then(Node::as_str), None);
    assert_eq!(root.get("unicode").and_then(Node::as_str), Some("\u{e9}"));
    assert_eq!(root.get("flag").and_then(Node::as_bool), Some(true));
    assert_eq!(root.get("long").and_then(Node::as_i64), Some(-2));
    assert_eq!(root.get("ordered").and_then(|n| n.get("a")).and_then(Node::as_i64), Some(2));
    let instance = root.get("instance").and_then(Node::call).expect("an instance");
    assert_eq!(instance.global.name, "Namespace");
    assert!(instance.state.is_some_and(|s| s.get("lr").is_some()));
    let object = root.get("object").and_then(Node::call).expect("an object");
    assert_eq!(object.args.first().and_then(|a| a.as_i64()), Some(5));
}

/// Every prefix is an error, and every flipped bit is an error or another value; none is a panic.
#[test]
fn damage_is_survived() {
    let names = ["python2.pkl".to_owned()].into_iter().chain((0..=5).map(|p| format!("values_p{p}.pkl")));
    for name in names {
        let bytes = read(&name);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], &Limits::default()).is_err(), "{name} cut at {len}");
        }
        let mut damaged = bytes.clone();
        for bit in 0..bytes.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(pickle) = decode(&damaged, &Limits::default()) {
                let _ = pickle.root().entries();
            }
            damaged[bit / 8] = bytes[bit / 8];
        }
    }
}
