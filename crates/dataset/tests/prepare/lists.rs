//! Choosing from data sets: classes, shares, lists of pictures.

use occlude_dataset::prepare::{Amount, Selection, read_classes, select};
use std::collections::BTreeSet;

use super::*;

pub(super) fn selection(amount: Amount) -> Selection {
    Selection { classes: None, amount, first: false, seed: 0 }
}

#[test]
fn shares_of_classes_are_nested_random_and_reproducible() {
    let dir = tempfile::tempdir().expect("a folder");
    tree(dir.path(), 3, 40);
    let data = open(dir.path());
    let set = |selection: &Selection| {
        select(&data, selection).expect("chosen").into_iter().collect::<BTreeSet<_>>()
    };
    let (one, ten) = (set(&selection(Amount::Percent(1.0))), set(&selection(Amount::Percent(10.0))));
    assert_eq!((one.len(), ten.len()), (3, 12), "one of each class at least");
    assert!(one.is_subset(&ten));
    assert_eq!(ten, set(&selection(Amount::Percent(10.0))));
    assert_ne!(ten, set(&Selection { seed: 1, ..selection(Amount::Percent(10.0)) }));
    assert_eq!(set(&selection(Amount::All)).len(), 120);
    assert_eq!(set(&selection(Amount::PerClass(50))).len(), 120);
    let first = set(&Selection { first: true, ..selection(Amount::Percent(20.0)) });
    assert_eq!(first, [0, 40, 80].into_iter().flat_map(|start| start..start + 8).collect());

    // the same pictures wherever the tree lies
    let elsewhere = tempfile::tempdir().expect("a folder");
    tree(elsewhere.path(), 3, 40);
    let there = select(&open(elsewhere.path()), &selection(Amount::Percent(10.0))).expect("chosen");
    assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), ten);
}

#[test]
fn classes_of_a_list() {
    let dir = tempfile::tempdir().expect("a folder");
    tree(dir.path(), 4, 2);
    let data = open(dir.path());
    let list = dir.path().join("list.txt");
    put(&list, b"# hundred classes\nc3 a remark\n\nc1\n");
    let classes = Some(read_classes(&list).expect("read"));
    let chosen = select(&data, &Selection { classes, ..selection(Amount::PerClass(1)) }).expect("chosen");
    assert_eq!(chosen.iter().map(|&i| data.class(i)).collect::<Vec<_>>(), [Some(1), Some(3)]);
    let unknown = Selection { classes: Some(vec!["c9".into()]), ..selection(Amount::All) };
    assert!(select(&data, &unknown).expect_err("refused").to_string().contains("`c9`"));
    put(&list, b"# none\n");
    assert!(matches!(read_classes(&list), Err(Error::Empty { .. })));
}

#[test]
fn a_subset_as_links_and_as_a_list_is_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = dir.path().join("source");
    tree(&source, 3, 10);
    put(&source.join("c1/deep/er.png"), &picture(99, ImageFormat::Png));
    let data = open(&source);
    let chosen = select(&data, &selection(Amount::PerClass(4))).expect("chosen");
    let list = dir.path().join("list.txt");
    write_list(&data, &chosen, &list).expect("written");
    assert!(fs::read_to_string(&list).expect("text").starts_with("# root: source\n"));
    for (name, link) in [("auto", Link::Auto), ("symbolic", Link::Symbolic)] {
        let out = dir.path().join(name);
        let told = Told::default();
        link_subset(&data, &chosen, &out, link, &told).expect("linked");
        told.check();
        let (linked, listed) = (open(&out), open(&list));
        assert_eq!(names(&linked, &out), names(&listed, &source));
        assert_eq!((linked.classes(), bytes(&linked)), (listed.classes(), bytes(&listed)));
        assert!((0..12).all(|i| linked.class(i) == listed.class(i)));
        assert!(matches!(link_subset(&data, &chosen, &out, link, &()), Err(Error::Exists { .. })));
    }
    // a list somewhere else says where the pictures are; a list of a list keeps the classes
    let elsewhere = tempfile::tempdir().expect("a folder");
    let far = elsewhere.path().join("far.txt");
    write_list(&open(&list), &[0, 5, 11], &far).expect("written");
    let far = open(&far);
    assert_eq!((far.classes().len(), far.class(2)), (3, Some(2)));
    assert_eq!(bytes(&far)[1], bytes(&open(&list))[5]);
}

#[test]
fn lists_with_labels_of_their_own() {
    let dir = tempfile::tempdir().expect("a folder");
    (0..4).for_each(|i| put(&dir.path().join(format!("{i}.jpg")), &jpeg(i)));
    let list = dir.path().join("list.txt");
    put(&list, b"0.jpg\tdog\n1.jpg\tcat\n2.jpg\tdog\n3.jpg\n");
    let again = dir.path().join("again.txt");
    let data = open(&list);
    write_list(&data, &select(&data, &selection(Amount::All)).expect("chosen"), &again).expect("written");
    assert_eq!(fs::read_to_string(again).expect("text"), "# root: .\n0.jpg\tdog\n1.jpg\tcat\n2.jpg\tdog\n");
}

/// Names that a line cannot hold, and names that are not UTF-8, come back from a list as they were.
#[test]
fn any_name_and_class_survives_a_list() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().expect("a folder");
    let names: [&[u8]; 9] = [
        b"a\tb.jpg",
        b"a\nb.jpg",
        b"#c.jpg",
        b" d .jpg",
        b"caf\xe8.jpg",
        b"caf\xe9.jpg",
        b"%41.jpg",
        b"100%.jpg",
        b"x.jpg 7.jpg",
    ];
    for class in [b"caf\xe9".as_slice(), b"caf\xe8", b" 1", b"#2", b"a\nb"] {
        for (i, name) in names.iter().enumerate() {
            let path = dir.path().join("data").join(OsStr::from_bytes(class)).join(OsStr::from_bytes(name));
            put(&path, &jpeg(i as u32));
        }
    }
    let data = open(&dir.path().join("data"));
    let list = dir.path().join("l.txt");
    let all = select(&data, &selection(Amount::All)).expect("chosen");
    write_list(&data, &all, &list).expect("written");
    let text = fs::read_to_string(&list).expect("UTF-8");
    assert!(text.starts_with(&format!("{}\n# root: data\n", occlude_dataset::LIST_ESCAPED)), "{text}");
    assert_eq!(text.lines().count(), 2 + 45, "a line for each");
    let listed = open(&list);
    assert_eq!(listed.classes(), data.classes());
    for i in 0..45 {
        let same = |d: &Dataset| (fs::canonicalize(d.path(i).expect("a file")).expect("there"), d.class(i));
        assert_eq!(same(&listed), same(&data));
    }
    let ids: std::collections::BTreeSet<String> = (0..45).map(|i| data.name(i)).collect();
    assert!(ids.len() == 45 && ids.iter().all(|id| !id.contains('\n')), "{ids:?}");
    // as links, too, in folders of the same names
    let out = dir.path().join("out");
    link_subset(&listed, &all, &out, Link::Auto, &()).expect("linked");
    assert_eq!(open(&out).classes(), data.classes());
}

/// A list says classes that its paths do not, and names its pictures as it likes.
#[test]
fn links_and_shards_of_a_list_keep_its_classes_and_its_pictures() {
    let dir = tempfile::tempdir().expect("a folder");
    let names = ["val_1.JPEG", "images/a.jpg", "images/b.jpeg?w=640", "scan.2019", "images/deep/c.jpg"];
    let classes = ["dog", "cat", "dog", "cat", "dog"];
    for (i, name) in names.iter().enumerate() {
        put(&dir.path().join(name), &jpeg(i as u32));
    }
    let lines = names.iter().zip(classes).map(|(name, class)| format!("{name}\t{class}\n"));
    put(&dir.path().join("l.txt"), lines.collect::<String>().as_bytes());
    let listed = open(&dir.path().join("l.txt"));
    let all = select(&listed, &selection(Amount::All)).expect("chosen");
    let told = |data: &Dataset| {
        let class = |i| data.classes()[data.class(i).expect("one") as usize].clone();
        let mut told: Vec<(Vec<u8>, String)> =
            bytes(data).into_iter().zip((0..data.len()).map(class)).collect();
        told.sort();
        told
    };
    let shards = dir.path().join("shards");
    pack(&listed, &shards, &PackOptions { size: 1 << 20, shuffle: None }, &()).expect("packed");
    assert_eq!(told(&open(&shards)), told(&listed));
    // a folder knows pictures by their endings
    let known: Vec<usize> =
        all.into_iter().filter(|&i| listed.name(i).to_lowercase().ends_with("g")).collect();
    let out = dir.path().join("out");
    link_subset(&listed, &known, &out, Link::Auto, &()).expect("linked");
    let linked = open(&out);
    assert_eq!((linked.len(), linked.classes()), (3, listed.classes()));
    assert!(told(&linked).iter().all(|picture| told(&listed).contains(picture)));
}
