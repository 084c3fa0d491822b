//! Tests of targets, whoever the teacher is.

use super::targets::{PIECE, make};
use super::*;
use crate::config::Recipe;
use crate::eval::{How, Moments, Whitener, mean_cosine};
use crate::loss::normalize;
use crate::model::Encoder;
use std::cell::Cell;
use tch::Kind;

/// Embeddings that all point one way, as pooled features do.
fn embeddings(n: i64, d: i64) -> Tensor {
    tch::manual_seed(11);
    let options = (Kind::Float, Device::Cpu);
    Tensor::randn([n, d], options).matmul(&Tensor::randn([d, d], options)) + 9.0
}

fn made(rows: &Tensor, dim: usize, known: Option<[Tensor; 2]>) -> Targets {
    let of = |which: std::ops::Range<usize>| Ok(Some(rows.narrow(0, which.start as i64, which.len() as i64)));
    make(rows.size()[0] as usize, dim, known, "", &mut { of }).expect("targets")
}

#[test]
fn targets_are_whitened_embeddings_of_length_one_wherever_pieces_end() {
    let _alone = crate::rng::alone();
    let rows = embeddings(PIECE as i64 + 37, 6);
    let targets = made(&rows, 4, None);
    assert_eq!((targets.len(), targets.dim(), targets.of_dim()), (PIECE + 37, 4, 6));
    let unit = normalize(&rows);
    let fitted = Moments::of(&unit).fit(How::Pca(4), "").expect("fits");
    let expected = normalize(&Whitener::new(&fitted).apply(&unit));
    let longer = &rows * Tensor::arange_start(1, rows.size()[0] + 1, (Kind::Float, Device::Cpu)).unsqueeze(1);
    assert!(
        (made(&longer, 4, None).values() - &expected).abs().max().double_value(&[]) < 1e-3,
        "lengths say nothing"
    );
    assert!((targets.values() - &expected).abs().max().double_value(&[]) < 1e-4);
    let spread = |x: &Tensor| mean_cosine(x).expect("several");
    assert!(spread(&rows) > 0.5 && spread(targets.values()).abs() < 0.05);
    // as a resumed run has it: of other pictures, by what was fitted on the first
    let [weight, bias] = [0, 1].map(|i| targets.named()[i].tensor.copy());
    let again = made(&rows.narrow(0, 5, 100), 3, Some([weight, bias]));
    assert!((again.values() - expected.narrow(0, 5, 100)).abs().max().double_value(&[]) < 1e-4);
}

#[test]
fn targets_are_no_longer_than_pictures_and_teachers_allow() {
    let _alone = crate::rng::alone();
    let rows = embeddings(9, 12);
    assert_eq!(made(&rows, 256, None).dim(), 8, "nine points have eight directions");
    assert!(made(&rows, 256, None).why().contains("9 pictures"));
    let wide = embeddings(40, 12);
    assert_eq!(made(&wide, 256, None).dim(), 12);
    assert!(made(&wide, 256, None).why().contains("an embedding of the teacher"));
    assert_eq!(made(&wide, 5, None).dim(), 5);
}

/// A picture that cannot be read asks for nothing, and changes nothing for the others.
#[test]
fn pictures_without_embeddings_have_no_target() {
    let _alone = crate::rng::alone();
    let rows = embeddings(30, 5);
    let gap = rows.copy();
    let _ = gap.get(7).fill_(f64::NAN);
    let targets = made(&gap, 5, None);
    assert_eq!(targets.values().get(7).abs().max().double_value(&[]), 0.0);
    let rest = Tensor::cat(&[rows.narrow(0, 0, 7), rows.narrow(0, 8, 22)], 0);
    let expected = made(&rest, 5, None);
    let others = Tensor::cat(&[targets.values().narrow(0, 0, 7), targets.values().narrow(0, 8, 22)], 0);
    assert!((others - expected.values()).abs().max().double_value(&[]) < 1e-5);
    let same = Tensor::ones([6, 3], (Kind::Float, Device::Cpu));
    let error = make(6, 3, None, "", &mut |_| Ok(Some(same.shallow_clone()))).expect_err("refused");
    assert!(format!("{error:#}").contains("are the same"), "{error:#}");
}

/// Pieces are for memory only: one that cannot be read as a whole is no more than its pictures.
#[test]
fn a_piece_that_cannot_be_read_has_no_targets_and_all_of_them_are_an_error() {
    let _alone = crate::rng::alone();
    let (n, rows) = (PIECE + 40, embeddings(40, 5));
    let targets = make(n, 5, None, "", &mut |which| Ok((which.start > 0).then(|| rows.shallow_clone())));
    let targets = targets.expect("targets");
    let values = targets.values();
    assert_eq!(values.narrow(0, 0, PIECE as i64).abs().max().double_value(&[]), 0.0);
    assert_eq!(values.narrow(0, PIECE as i64, 40), *made(&rows, 5, None).values());
    let error = make(n, 5, None, "", &mut |_| Ok(None)).expect_err("refused");
    assert!(format!("{error:#}").contains(&format!("none of {n} pictures can be read")), "{error:#}");
}

fn teacher(path: &Path) -> Teacher {
    network(path, Some("imagenet")).expect("a teacher")
}

/// The weights of an untrained encoder, and how it wants pictures.
fn checkpoint(path: &Path, seed: u64) {
    checkpoint_of(path, seed, 32);
}

/// The same for pictures of `side` pixels.
fn checkpoint_of(path: &Path, seed: u64, side: u32) {
    let encoder = Encoder::new(occlude_encoder::Arch::ResNet18, seed, Device::Cpu);
    let named = encoder.named("");
    let out: Result<Vec<_>> = named.iter().map(crate::engine::snapshot::to_out).collect();
    let contract = Preprocess { resize: side, ..Preprocess::imagenet(side) };
    let about = [(occlude_checkpoint::meta::PREPROCESS.to_owned(), contract.to_json())].into();
    occlude_checkpoint::save_safetensors(path, &out.expect("tensors"), &about).expect("written");
}

fn pictures(dir: &Path) -> Dataset {
    for i in 0..9u32 {
        let picture = image::RgbImage::from_fn(40, 36, |x, y| {
            image::Rgb([(x * (i + 1)) as u8, (y * (41 - i)) as u8, (x * y / (i + 1)) as u8])
        });
        picture.save(dir.join(format!("{i}.png"))).expect("written");
    }
    std::fs::write(dir.join("4.png"), b"no picture").expect("written");
    crate::data::open(dir).expect("a data set")
}

/// The second time nobody looks at a picture: the file of the teacher may be gone.
#[test]
fn a_teacher_looks_once_and_unreadable_pictures_are_nobodys() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let (data, weights) = (dir.path().join("data"), dir.path().join("t.safetensors"));
    std::fs::create_dir(&data).expect("a folder");
    let data = pictures(&data);
    checkpoint(&weights, 3);
    let known = network(&weights, None).expect("a teacher");
    assert_eq!(known.preprocess().expect("read").expect("one").crop, 32, "its own contract");
    let mut config = Config::new(Recipe::Distill);
    config.method.distill_mut().expect("distillation").teacher = Some(known.clone());
    let cache = dir.path().join("cache");
    let place = Place { cache: &cache, workers: 2, device: Device::Cpu };
    let run = |config: &Config| targets(config, &data, &data.identity().expect("looked at"), None, place);
    let (settled, first) = run(&config).expect("targets");
    let first = first.expect("distillation");
    assert_eq!(first.values().get(4).abs().max().double_value(&[]), 0.0, "it cannot be read");
    let mut settled = settled;
    let settings = settled.method.distill_mut().expect("distillation").clone();
    assert_eq!((settings.head.dim, settings.teacher.expect("one").dim), (7, Some(512)));
    // row by row what the encoder says of that picture
    let read = Checkpoint::open(&weights).expect("readable");
    let loaded = occlude_checkpoint::load_encoder(&read, &occlude_checkpoint::LoadOptions::default());
    let encoder = Encoder::from_checkpoint(&loaded.expect("an encoder"), Device::Cpu).expect("built");
    let contract = known.preprocess().expect("read").expect("one");
    let set = crate::eval::Extractor::Encoder(&encoder, &contract).run(&data, 1).expect("features");
    let expected = made(&set.features, 7, None);
    let rows: Vec<i64> = set.samples.iter().map(|&i| i as i64).collect();
    let found = first.of(&Tensor::from_slice(&rows)).expect("there");
    assert!((found - expected.values()).abs().max().double_value(&[]) < 1e-4);
    std::fs::remove_file(&weights).expect("removed");
    let (_, second) = run(&config).expect("from the cache");
    assert_eq!(second.expect("distillation").values(), first.values(), "to the bit");
    let other = dir.path().join("other.safetensors");
    checkpoint(&other, 4);
    config.method.distill_mut().expect("distillation").teacher = Some(teacher(&other));
    let (_, other) = run(&config).expect("targets");
    assert_ne!(other.expect("distillation").values(), first.values());
}

/// In a file of its own beside the embeddings, which do not depend on it: whoever had asked for these alone asks once more.
#[test]
fn a_teachers_grid_is_kept_beside_its_embeddings() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let (data, weights) = (dir.path().join("data"), dir.path().join("t.safetensors"));
    std::fs::create_dir(&data).expect("a folder");
    let data = pictures(&data);
    checkpoint_of(&weights, 3, 96);
    let mut config = Config::new(Recipe::Distill);
    config.method.distill_mut().expect("distillation").teacher = Some(network(&weights, None).expect("one"));
    let cache = dir.path().join("cache");
    let place = |cache| Place { cache, workers: 2, device: Device::Cpu };
    let run = |config: &Config, cache| {
        targets(config, &data, &data.identity().expect("looked at"), None, place(cache))
    };
    let (_, plain) = run(&config, &cache).expect("targets");
    let plain = plain.expect("distillation");
    assert!(plain.cells().is_none());
    let with = |grid| {
        let mut dense = config.clone();
        dense.method.distill_mut().expect("distillation").cells =
            Some(crate::config::Cells { grid, ..crate::config::Cells::weighted(1.0) });
        dense
    };
    let dense = with(8);
    let (mut settled, first) = run(&dense, &cache).expect("targets");
    let first = first.expect("distillation");
    let known = settled.method.distill_mut().and_then(|d| d.cells.clone()).expect("cells");
    // eight pictures of nine cells have 71 directions
    assert_eq!((known.dim, known.channels, known.grid), (Some(71), Some(512), 8));
    let cells = first.cells().expect("cells");
    assert_eq!(cells.values().size(), [9, 71, 3, 3]);
    assert_eq!(cells.values().get(4).abs().max().double_value(&[]), 0.0, "it cannot be read");
    assert_eq!(first.values(), plain.values(), "embeddings are what they are without");
    let fresh = dir.path().join("fresh");
    let (_, at_once) = run(&dense, &fresh).expect("targets");
    let at_once = at_once.expect("distillation");
    assert_eq!(at_once.values(), plain.values());
    assert_eq!(at_once.cells().expect("cells").values(), cells.values());
    // what is kept is the last feature map, each cell of length one
    let folder = std::fs::read_dir(&cache).expect("there").flatten().next().expect("one").path();
    let kept = Checkpoint::open(folder.join("cells8-00000000.safetensors")).expect("kept");
    let kept = kept.tensor("cells").expect("cells");
    assert_eq!(kept.shape, [9, 512, 3, 3]);
    let read = Checkpoint::open(&weights).expect("readable");
    let loaded = occlude_checkpoint::load_encoder(&read, &occlude_checkpoint::LoadOptions::default());
    let encoder = Encoder::from_checkpoint(&loaded.expect("an encoder"), Device::Cpu).expect("built");
    let contract = config.method.teacher().expect("one").preprocess().expect("read").expect("one");
    let broken = std::sync::Mutex::default();
    let picture = crate::eval::decode(&data, &[6], &contract, (1, &broken)).remove(0).1;
    let x = crate::eval::network_input(&[&picture], &contract, Device::Cpu);
    let tap = encoder.last_map().expect("a map");
    let map = tch::no_grad(|| encoder.forward(&x, crate::model::Mode::Eval, &[tap]).tap());
    let expected = normalize(&map.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]).get(0);
    let found = Tensor::from_slice(&kept.to_f32().expect("numbers")).view([9, 512, 3, 3]).get(6);
    assert!((found - expected).abs().max().double_value(&[]) < 1e-3, "but for half precision");
    // the second time nobody looks at a picture, unless another grid is asked for
    std::fs::remove_file(&weights).expect("removed");
    let (_, second) = run(&dense, &cache).expect("from the cache");
    assert_eq!(second.expect("distillation").cells().expect("cells").values(), cells.values());
    let error = format!("{:#}", run(&with(2), &cache).expect_err("refused"));
    assert!(error.contains("t.safetensors"), "{error}");
}

/// Counted by a source that says so.
#[test]
fn answers_that_are_no_numbers_are_refused_and_not_kept() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let data = pictures(&data);
    struct Says(Tensor, std::rc::Rc<Cell<usize>>);
    impl Source for Says {
        fn embed(&mut self, _: &Dataset, which: &[usize], _: Option<usize>) -> Result<Heard> {
            self.1.set(self.1.get() + 1);
            let part = |from, n| Said { embeddings: self.0.narrow(0, from, n), cells: None };
            // the fifth picture cannot be read
            let there = which.iter().copied().filter(|i| *i != 4).collect();
            Ok((vec![part(0, 3), part(3, 5)], there))
        }
    }
    let teacher = Teacher {
        path: "t.onnx".into(),
        kind: TeacherKind::Onnx,
        contract: None,
        fingerprint: "f".into(),
        identity: "i".into(),
        dim: None,
    };
    let cache = dir.path().join("cache");
    let place = Place { cache: &cache, workers: 1, device: Device::Cpu };
    let asked = std::rc::Rc::new(Cell::new(0));
    let says = |rows: &Tensor| {
        let source: Box<dyn Source> = Box::new(Says(rows.shallow_clone(), asked.clone()));
        let cache = Cache::new(place.cache, &teacher, &data.identity().expect("looked at"));
        Answers {
            teacher: &teacher,
            data: &data,
            place,
            cache,
            grid: None,
            source: Some(source),
            told: false,
        }
        .of(0..9)
    };
    let rows = embeddings(8, 3);
    // a whole row of NaN is no sign that a picture cannot be read
    for (wrong, numbers) in [(f64::INFINITY, 1), (f64::NAN, 1), (f64::NAN, 3)] {
        let bad = rows.copy();
        let _ = bad.get(5).narrow(0, 0, numbers).fill_(wrong);
        let error = format!("{:#}", says(&bad).expect_err("refused"));
        assert!(error.contains("6.png") && error.contains("t.onnx") && error.contains("hint: "), "{error}");
    }
    assert_eq!(asked.get(), 3, "nothing of it was kept");
    let first = says(&rows).expect("numbers, and one picture that cannot be read");
    let kept = says(&rows).expect("kept");
    let told = |rows: Option<Tensor>| rows.expect("one").nan_to_num(9.0, 0.0, 0.0);
    assert!(told(first).equal(&told(kept)), "what is kept is what was said");
    assert_eq!(asked.get(), 4);
}
