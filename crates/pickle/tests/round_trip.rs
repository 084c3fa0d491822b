//! What the encoder writes, the decoder reads.

use occlude_pickle::{ArrayType, Encoder, Limits, Node, Value, decode};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Tree {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Tree>),
    Tuple(Vec<Tree>),
    Dict(Vec<(String, Tree)>),
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::None),
        any::<bool>().prop_map(Tree::Bool),
        any::<i64>().prop_map(Tree::Int),
        (-300i64..300).prop_map(Tree::Int),
        any::<f64>().prop_filter("NaN equals nothing", |x| !x.is_nan()).prop_map(Tree::Float),
        ".{0,300}".prop_map(Tree::Str),
        vec(any::<u8>(), 0..300).prop_map(Tree::Bytes),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Tree::List),
            vec(inner.clone(), 0..8).prop_map(Tree::Tuple),
            vec((".{0,9}", inner), 0..8).prop_map(Tree::Dict),
        ]
    })
}

fn write(tree: &Tree, pickle: &mut Encoder<Vec<u8>>) -> std::io::Result<()> {
    match tree {
        Tree::None => pickle.none(),
        Tree::Bool(b) => pickle.bool(*b),
        Tree::Int(n) => pickle.int(*n),
        Tree::Float(x) => pickle.float(*x),
        Tree::Str(s) => pickle.str(s),
        Tree::Bytes(b) => pickle.bytes(b),
        Tree::List(items) => {
            pickle.list_start()?;
            items.iter().try_for_each(|item| write(item, pickle))?;
            pickle.list_end()
        }
        Tree::Tuple(items) => {
            pickle.tuple_start()?;
            items.iter().try_for_each(|item| write(item, pickle))?;
            pickle.tuple_end()
        }
        Tree::Dict(entries) => {
            pickle.dict_start()?;
            for (key, value) in entries {
                pickle.str(key)?;
                write(value, pickle)?;
            }
            pickle.dict_end()
        }
    }
}

fn same(tree: &Tree, node: Node<'_, '_>) -> bool {
    match (tree, node.value()) {
        (Tree::None, Value::None) => true,
        (Tree::Bool(a), Value::Bool(b)) => a == b,
        (Tree::Int(a), Value::Int(b)) => a == b,
        (Tree::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Tree::Str(a), Value::Str(b)) => a == b,
        (Tree::Bytes(a), Value::Bytes(b)) => a.as_slice() == b.as_ref(),
        (Tree::List(a), Value::List(_)) | (Tree::Tuple(a), Value::Tuple(_)) => {
            let items: Vec<_> = node.items().expect("items").collect();
            a.len() == items.len() && a.iter().zip(items).all(|(a, b)| same(a, b))
        }
        (Tree::Dict(a), Value::Dict(_)) => {
            let entries = node.entries().expect("entries");
            a.len() == entries.len()
                && a.iter().zip(entries).all(|((ka, va), (kb, vb))| kb.as_str() == Some(ka) && same(va, vb))
        }
        _ => false,
    }
}

fn has_bytes(tree: &Tree) -> bool {
    match tree {
        Tree::Bytes(_) => true,
        Tree::List(items) | Tree::Tuple(items) => items.iter().any(has_bytes),
        Tree::Dict(entries) => entries.iter().any(|(_, value)| has_bytes(value)),
        _ => false,
    }
}

proptest! {
    #[test]
    fn trees_come_back(tree in tree()) {
        let mut pickle = Encoder::new(Vec::new()).expect("writes");
        write(&tree, &mut pickle).expect("writes");
        let bytes = pickle.finish().expect("writes");
        let decoded = decode(&bytes, &Limits::default()).expect("decodes");
        prop_assert!(same(&tree, decoded.root()));
        prop_assert_eq!(decoded.consumed(), bytes.len());
    }

    /// Protocol 2 has everything but bytes.
    #[test]
    fn trees_come_back_in_protocol_2(tree in tree().prop_filter("bytes", |tree| !has_bytes(tree))) {
        let mut pickle = Encoder::protocol2(Vec::new()).expect("writes");
        write(&tree, &mut pickle).expect("writes");
        let bytes = pickle.finish().expect("writes");
        prop_assert_eq!(&bytes[..2], &[0x80, 2]);
        let decoded = decode(&bytes, &Limits::default()).expect("decodes");
        prop_assert!(same(&tree, decoded.root()));
    }

    #[test]
    fn noise_is_survived(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &Limits::default());
    }
}

#[test]
fn arrays_have_numpys_structure() {
    let mut pickle = Encoder::new(Vec::new()).expect("writes");
    pickle.list_start().expect("writes");
    for data in [[1.0f32, 2.0], [3.0, 4.0]] {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        pickle.ndarray(ArrayType::F32, &[2, 1], &bytes).expect("writes");
    }
    pickle.list_end().expect("writes");
    let bytes = pickle.finish().expect("writes");
    let decoded = decode(&bytes, &Limits::default()).expect("decodes");
    let arrays: Vec<_> = decoded.root().items().expect("a list").map(|n| n.call().expect("a call")).collect();
    let state: Vec<_> = arrays[1].state.and_then(Node::items).expect("state").collect();
    assert_eq!(arrays[1].global.name, "_reconstruct");
    assert_eq!(state[1].items().expect("shape").map(Node::as_usize).collect::<Vec<_>>(), [Some(2), Some(1)]);
    assert_eq!(state[4].as_bytes().map(<[u8]>::len), Some(8));
    // One type object for both.
    let first: Vec<_> = arrays[0].state.and_then(Node::items).expect("state").collect();
    assert_eq!(first[2].id(), state[2].id());
}

/// `torch.load(weights_only=True)` knows the instructions of protocol 2 and no others.
#[test]
fn protocol_2_mentions_globals_as_lines() {
    let mut pickle = Encoder::protocol2(Vec::new()).expect("writes");
    pickle.list_start().expect("writes");
    for _ in 0..2 {
        pickle.global("collections", "OrderedDict").expect("writes");
    }
    pickle.list_end().expect("writes");
    let bytes = pickle.finish().expect("writes");
    assert_eq!(bytes, b"\x80\x02](ccollections\nOrderedDict\nq\0h\0e.");
    let mut pickle = Encoder::protocol2(Vec::new()).expect("writes");
    let err = pickle.bytes(b"x").expect_err("no bytes");
    assert!(
        err.kind() == std::io::ErrorKind::InvalidInput && err.to_string().contains("protocol 2"),
        "{err}"
    );
}

#[test]
fn an_array_of_the_wrong_length_is_refused() {
    let mut pickle = Encoder::new(Vec::new()).expect("writes");
    let err = pickle.ndarray(ArrayType::F32, &[3], &[0; 8]).expect_err("refused");
    assert_eq!(err.kind(), std::io::ErrorKind::InvalidInput);
    let err = pickle.ndarray(ArrayType::F32, &[usize::MAX, 2], &[]).expect_err("refused");
    assert_eq!(err.kind(), std::io::ErrorKind::InvalidInput);
}
