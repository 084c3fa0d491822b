use super::*;
use serde_json::json;

/// The files of each cycle among made-up sources, by their names.
fn found(sources: &[(&str, &str)]) -> Vec<Vec<String>> {
    let read = |path: &Path| {
        let source = sources.iter().find(|(file, _)| Path::new(file) == path);
        source.map(|(_, text)| (*text).to_owned())
    };
    let names = |cycle: Cycle| cycle.0.keys().map(|file| file.display().to_string()).collect();
    cycles(Path::new("lib.rs"), &read).into_iter().map(names).collect()
}

const ROOT: (&str, &str) = ("lib.rs", "mod a;\nmod b;\npub use a::A;\n");

/// Two modules, of which `b` refers to `a`.
fn pair(a: &str) -> Vec<Vec<String>> {
    found(&[ROOT, ("a.rs", a), ("b.rs", "use crate::a::A;\n")])
}

#[test]
fn a_circle_of_two_is_found_whatever_the_path_looks_like() {
    for path in [
        "use crate::b::B;",
        "use crate::{c::C, b::{self, B as Other}};",
        "use crate::{\n    b, // why\n    c,\n};",
        "pub(crate) use super::b::*;",
        "fn f() { crate::b::f(); }",
        "fn f(x: &'a str, y: super::b::B) {}",
        "const A: [char; 2] = ['\"', '\\'']; fn f() { crate::b::f(\"\") }",
        "mod inner { use super::super::b::B; }",
        "mod inner { mod deep {} }\nuse super::b::B;",
        "#[cfg(not(test))]\nuse crate::b::B;",
        "#[cfg(test)]\nuse crate::c::{B, C};\nuse crate::b::B;",
        "#[cfg(test)]\nfn f<A, B>() {}\nuse crate::b::B;",
        "#[cfg(test)]\n#[allow(unused)]\nmod tests { fn f() {} }\nuse crate::b::B;",
    ] {
        assert_eq!(pair(path), [["a.rs", "b.rs"]], "{path}");
    }
}

#[test]
fn what_is_no_reference_is_not_counted() {
    for path in [
        "",
        "#[cfg(test)]\nuse crate::b::B;",
        "#[cfg(test)]\nmod tests { use crate::b::B; }",
        "#[cfg(all(test, unix))]\nmod tests { use crate::b::B; }",
        "fn f() { #[cfg(test)]\ncrate::b::f(1, 2); }",
        "struct A { #[cfg(test)]\nfield: crate::b::B, other: u8 }",
        "// use crate::b::B;\n/* crate::b::B /* */ crate::b::B */",
        "/// [`crate::b::B`]\nfn f() { print(\"crate::b::f()\", r#\"\"crate::b::f()\"#, b\"\\\"crate::b::f()\"); }",
        "pub(in crate::b) struct A;",
        "use other::b::B;\npub use b::B as C;",
        "fn f() -> impl Fn() + use<'a> { b::f() }",
        "use crate::B;",
        "fn f() { use crate::c; }",
    ] {
        assert_eq!(pair(path), [[""; 0]; 0], "{path}");
    }
}

#[test]
fn files_of_tests_are_not_read() {
    let sources = [
        ("lib.rs", "mod a;\n#[cfg(test)]\nmod fixture;\n"),
        ("a.rs", "use super::fixture::F;"),
        ("fixture.rs", "use crate::a::A;"),
    ];
    assert_eq!(found(&sources), [[""; 0]; 0]);
}

#[test]
fn what_a_folder_says_of_its_own_files_is_not_counted() {
    let below = ("a/below.rs", "use super::A;\nuse super::super::a;");
    let a = "mod below;\npub use self::below::B;\nfn f() { crate::a::below::f() }";
    assert_eq!(found(&[("lib.rs", "mod a;"), ("a.rs", a), below]), [[""; 0]; 0]);
    assert_eq!(found(&[("lib.rs", "mod a;"), ("a/mod.rs", a), below]), [[""; 0]; 0]);
}

/// A name that another file gives out is a reference to where it comes from.
#[test]
fn names_are_followed_to_where_they_come_from() {
    let b = ("b.rs", "use crate::A;");
    assert_eq!(found(&[ROOT, ("a.rs", "use crate::b::B;"), b]), [["a.rs", "b.rs"]]);
    let c = ("c/mod.rs", "mod deep;\npub use deep::{D as E, other};\nuse crate::b::B;");
    let root = ("lib.rs", "mod a; mod b; mod c; pub use a::A;");
    for a in ["use crate::c::E;", "fn f() { crate::c::other::f() }"] {
        let deep = ("c/deep.rs", "use crate::b::B; pub use crate::b as other;");
        assert_eq!(found(&[root, ("a.rs", a), b, c, deep]).concat()[..2], ["a.rs", "b.rs"], "{a}");
        assert_eq!(found(&[root, ("a.rs", a), b, c, ("c/deep.rs", "pub mod other {}")]), [[""; 0]; 0], "{a}");
    }
    assert_eq!(pair("fn f() { use crate::b as B; }\nuse crate::c;"), [["a.rs", "b.rs"]]);
}

#[test]
fn longer_circles_are_found_once_and_apart_from_others() {
    let sources = [
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e; mod f;"),
        ("a.rs", "use crate::b::B;"),
        ("b/mod.rs", "mod below;"),
        ("b/below.rs", "use super::B; use crate::c::C;"),
        ("c.rs", "use crate::{b::below, a::A, d::D};"),
        ("d.rs", "use crate::e::E;"),
        ("e.rs", "use crate::d::D;"),
        ("f.rs", "use crate::a::A;"),
    ];
    assert_eq!(found(&sources), [vec!["b/below.rs", "c.rs"], vec!["d.rs", "e.rs"]]);
}

#[test]
fn the_message_says_who_refers_to_whom() {
    let read = |path: &Path| {
        let text = match path.to_str()? {
            "src/lib.rs" => "mod a; mod b;",
            "src/a.rs" => "use crate::b::B;",
            "src/b.rs" => "use super::a::A;",
            _ => return None,
        };
        Some(text.to_owned())
    };
    let found: Vec<String> = cycles(Path::new("src/lib.rs"), &read).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["    src/a.rs refers to src/b.rs\n    src/b.rs refers to src/a.rs\n"]);
}

#[test]
fn crates_begin_in_their_libraries_and_programs() {
    let target = |kind: &str, path: &str| json!({"kind": [kind], "src_path": path});
    let targets = [target("lib", "a/lib.rs"), target("test", "a/t.rs"), target("custom-build", "a/build.rs")];
    let metadata = json!({"packages": [{"targets": targets}, {"targets": [target("bin", "b/main.rs")]}]});
    assert_eq!(roots(&metadata), [Path::new("a/lib.rs"), Path::new("b/main.rs")]);
}
