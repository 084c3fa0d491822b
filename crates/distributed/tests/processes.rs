//! Real processes over Gloo: each test starts this program again, once a rank, and looks at how the ranks end.

mod ranks;

use std::time::{Duration, Instant};

use occlude_distributed::{BatchNorm, Compression, Error, Gradients, Reducer, World};
use ranks::{Ranks, Role, world};
use tch::{Device, Kind, Tensor};

fn floats(values: &[f32]) -> Tensor {
    Tensor::from_slice(values)
}

fn numbers(t: &Tensor) -> Vec<f64> {
    Vec::try_from(t.to_kind(Kind::Double).contiguous().flatten(0, -1)).expect("numbers")
}

/// The largest difference.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn collectives_give_what_they_say() {
    for size in [2, 4] {
        let Role::Rank(w) = Ranks::of("collectives_give_what_they_say", size).all_well() else { continue };
        let (r, n) = (w.rank() as f32, w.size() as f32);
        let all = n * (n - 1.0) / 2.0;
        let x = floats(&[r, 2.0 * r, 1.0]);
        assert_eq!(numbers(&w.sum(&x, "a sum").expect("summed")), [all, 2.0 * all, n].map(f64::from));
        assert_eq!(numbers(&w.mean(&x, "a mean").expect("mean"))[2], 1.0);
        assert_eq!(numbers(&x), [r, 2.0 * r, 1.0].map(f64::from), "the argument stays");
        // a strided slice, of which Gloo would reduce other memory
        let wide = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([3, 4]) * f64::from(r + 1.0);
        let slice = wide.slice(1, 0, 2, 1);
        let expected = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([3, 4]).slice(1, 0, 2, 1)
            * f64::from(n * (n + 1.0) / 2.0);
        assert_eq!(w.sum(&slice, "a slice").expect("summed"), expected);
        let rows = w.gather(&floats(&[r, -r]).view([1, 2]), "rows").expect("gathered");
        assert_eq!(rows.size(), [n as i64, 2]);
        assert!((0..n as i64).all(|i| rows.double_value(&[i, 1]) == -(i as f64)));
        assert_eq!(w.own(&rows), floats(&[r, -r]).view([1, 2]));
        // as many rows as the rank's number: rank 0 has none
        let some = Tensor::full([w.rank() as i64, 2], f64::from(r), (Kind::Float, Device::Cpu));
        let rows = w.gather_uneven(&some, "uneven rows").expect("gathered");
        let expected: Vec<f64> = (0..w.size()).flat_map(|i| vec![i as f64; 2 * i]).collect();
        assert_eq!(numbers(&rows), expected);
        let none = w.gather_uneven(&some.narrow(0, 0, 0), "no rows").expect("gathered");
        assert_eq!(none.size(), [0, 2]);
        // channels last on rank 0 alone, another type beside it, a leaf with a gradient
        let maps = Tensor::arange(48, (Kind::Float, Device::Cpu)).view([2, 3, 2, 4]) + f64::from(r) * 100.0;
        let maps =
            if w.is_main() { maps.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { maps };
        let count = Tensor::from(i64::from(w.rank() as i32));
        let leaf = floats(&[r]).set_requires_grad(true);
        w.broadcast(&[maps.shallow_clone(), count.shallow_clone(), leaf.shallow_clone()], "weights")
            .expect("sent");
        assert_eq!(maps.contiguous(), Tensor::arange(48, (Kind::Float, Device::Cpu)).view([2, 3, 2, 4]));
        assert_eq!((count.int64_value(&[]), leaf.double_value(&[0])), (0, 0.0));
        assert!(w.any(w.rank() == 1, "a question").expect("asked"));
        assert!(!w.any(false, "a question").expect("asked"));
        assert_eq!(
            w.max([w.rank() as i64, -(w.rank() as i64)], "numbers").expect("asked"),
            [n as i64 - 1, 0]
        );
        let texts = w.texts(&"é".repeat(w.rank()), "texts").expect("told");
        assert!(texts.iter().enumerate().all(|(i, t)| *t == "é".repeat(i)) && texts.len() == n as usize);
        ranks::done(w);
    }
}

#[test]
fn ranks_agree_on_errors() {
    let Role::Rank(w) = Ranks::of("ranks_agree_on_errors", 2).all_well() else { return };
    assert_eq!(w.same("the program", "1.0"), Ok(()));
    let differs = w.same("the data", if w.is_main() { "a" } else { "b" }).expect_err("different");
    assert!(differs.to_string().starts_with("the data differs between ranks: `a` on rank 0, `b` on rank 1"));
    let good: Result<i32, Error> = w.agreed(Ok(3), "a file");
    assert_eq!(good, Ok(3));
    let own = Error::Incomplete { set: vec![], missing: vec!["x".into()] };
    let here = if w.is_main() { Ok(3) } else { Err(own.clone()) };
    let found = w.agreed(here, "a file").expect_err("rank 1 cannot");
    let elsewhere = Error::Elsewhere { rank: 1, message: own.to_string() };
    assert_eq!(found, if w.is_main() { elsewhere } else { own });
    ranks::done(w);
}

/// A loss over all rows, of which each rank has some: the mean of the ranks' gradients is that of one process.
#[test]
fn rows_of_all_ranks_have_the_gradient_of_one_process() {
    for size in [2, 4] {
        let name = "rows_of_all_ranks_have_the_gradient_of_one_process";
        let Role::Rank(w) = Ranks::of(name, size).all_well() else { continue };
        tch::manual_seed(3);
        let x = Tensor::randn([8, 3], (Kind::Float, Device::Cpu));
        let weights = Tensor::randn([3, 4], (Kind::Float, Device::Cpu));
        let loss =
            |z: &Tensor| z.matmul(&z.transpose(0, 1)).logsumexp([1i64].as_slice(), false).mean(Kind::Float);
        let alone = weights.copy().set_requires_grad(true);
        loss(&x.matmul(&alone)).backward();
        let together = weights.copy().set_requires_grad(true);
        let own = w.own(&x).matmul(&together);
        let all = w.gather_live(&own, "rows").expect("gathered");
        assert!(apart(&all.detach(), &x.matmul(&weights)) < 1e-6);
        loss(&all).backward();
        let mean = w.mean(&together.grad(), "gradients").expect("mean");
        assert!(apart(&mean, &alone.grad()) < 1e-5, "{}", apart(&mean, &alone.grad()));
        ranks::done(w);
    }
}

/// Shapes, layouts, with and without parameters: outputs, gradients and running statistics are those of one process.
#[test]
fn normalisation_over_ranks_equals_that_of_one_process() {
    for size in [2, 4] {
        let name = "normalisation_over_ranks_equals_that_of_one_process";
        let Role::Rank(w) = Ranks::of(name, size).all_well() else { continue };
        for (shape, last, affine) in
            [(vec![8, 5, 6, 7], false, true), (vec![8, 5, 6, 7], true, true), (vec![8, 5], false, false)]
        {
            tch::manual_seed(5);
            let options = (Kind::Float, Device::Cpu);
            let (x, pull) = (Tensor::randn(&shape, options) * 2.0 + 1.0, Tensor::randn(&shape, options));
            let x = if last { x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { x };
            let (weight, bias) = (Tensor::rand([5], options) + 0.5, Tensor::randn([5], options));
            let run = |x: &Tensor, pull: &Tensor, together: bool| {
                let leaf = |t: &Tensor| t.detach().copy().set_requires_grad(true);
                let (x, weight, bias) = (leaf(x), leaf(&weight), leaf(&bias));
                let (mean, var) = (Tensor::zeros([5], options), Tensor::ones([5], options));
                let affine = affine.then_some([&weight, &bias]);
                let y = if together {
                    let norm = BatchNorm { affine, running: Some([&mean, &var]), momentum: 0.1, eps: 1e-5 };
                    w.batch_norm(&x, norm).expect("normalised")
                } else {
                    let [a, b] = [0, 1].map(|i| affine.map(|both| both[i]));
                    x.batch_norm(a, b, Some(&mean), Some(&var), true, 0.1, 1e-5, true)
                };
                (&y * pull).sum(Kind::Float).backward();
                let of = |t: &Tensor| if t.grad().defined() { t.grad() } else { Tensor::zeros([5], options) };
                [y.detach(), x.grad(), of(&weight), of(&bias), mean, var]
            };
            let alone = run(&x, &pull, false);
            let own = run(&w.own(&x), &w.own(&pull), true);
            for (i, (a, b)) in alone.iter().zip(&own).enumerate() {
                let expected = match i {
                    0 | 1 => w.own(a),
                    _ => a.shallow_clone(),
                };
                // gradients of parameters are of this rank's rows: they add up
                let found =
                    if i == 2 || i == 3 { w.sum(b, "gradients").expect("summed") } else { b.shallow_clone() };
                assert!(apart(&found, &expected) < 2e-5, "{shape:?} {i}: {}", apart(&found, &expected));
            }
        }
        // statistics of numbers in half precision are in single precision
        tch::manual_seed(6);
        let x = (Tensor::randn([16, 3, 4, 4], (Kind::Float, Device::Cpu)) + 3.0).to_kind(Kind::BFloat16);
        let y = w.batch_norm(&w.own(&x), BatchNorm { affine: None, running: None, momentum: 0.1, eps: 1e-5 });
        let exact =
            x.to_kind(Kind::Float).batch_norm::<&Tensor>(None, None, None, None, true, 0.1, 1e-5, true);
        let y = y.expect("normalised");
        assert_eq!(y.kind(), Kind::BFloat16);
        assert!(apart(&y.to_kind(Kind::Float), &w.own(&exact)) < 2e-2);
        ranks::done(w);
    }
}

/// A small network over four steps, the last one of two parts: the reducer leaves the gradients of one process.
#[test]
fn the_reducer_leaves_the_mean_of_gradients() {
    for size in [2, 4] {
        let Role::Rank(w) = Ranks::of("the_reducer_leaves_the_mean_of_gradients", size).all_well() else {
            continue;
        };
        for (compression, tolerance) in
            [(Compression::None, 1e-6), (Compression::Fp16, 1e-2), (Compression::Bf16, 4e-2)]
        {
            tch::manual_seed(7);
            let options = (Kind::Float, Device::Cpu);
            let start = [
                Tensor::randn([6, 40], options) * 0.3,
                Tensor::zeros([40], options),
                Tensor::randn([40, 3], options),
            ];
            let leaf = || start.each_ref().map(|t| t.copy().set_requires_grad(true));
            let (alone, together) = (leaf(), leaf());
            let loss = |p: &[Tensor; 3], x: &Tensor| {
                (x.matmul(&p[0]) + &p[1]).tanh().matmul(&p[2]).square().mean(Kind::Float)
            };
            let reducer = Reducer::new(&w, &together, Gradients { compression, some_missing: false })
                .expect("made")
                .expect("several ranks");
            for step in 0..4 {
                let clear = |p: &[Tensor; 3]| {
                    for t in p.iter().filter(|t| t.grad().defined()) {
                        let _ = t.grad().zero_();
                    }
                };
                clear(&alone);
                clear(&together);
                for part in 0..if step == 3 { 2 } else { 1 } {
                    let x = Tensor::randn([8, 6], options);
                    loss(&alone, &x).backward();
                    reducer.forward().expect("arranged");
                    let own = loss(&together, &w.own(&x));
                    if step < 3 || part == 1 {
                        reducer.backward(&own).expect("announced");
                    }
                    own.backward();
                }
                for (a, b) in alone.iter().zip(&together) {
                    assert!(
                        apart(&a.grad(), &b.grad()) < tolerance,
                        "{step}: {}",
                        apart(&a.grad(), &b.grad())
                    );
                    tch::no_grad(|| b.shallow_clone().copy_(&a.shallow_clone().g_sub_(&(a.grad() * 0.1))));
                }
            }
        }
        ranks::done(w);
    }
}

/// A run that goes on has to round as one that never stopped, and the sum of three ranks depends on where a number lies in its
/// bucket: the buckets of the first step are those of the later ones, with gradients of an earlier part or without.
#[test]
fn the_first_mean_of_gradients_is_rounded_as_later_ones() {
    let name = "the_first_mean_of_gradients_is_rounded_as_later_ones";
    let Role::Rank(w) = Ranks::of(name, 3).all_well() else { return };
    tch::manual_seed(8);
    let options = (Kind::Float, Device::Cpu);
    let start = [[64, 512], [512, 900], [900, 3]].map(|shape| Tensor::randn(shape, options) * 0.05);
    let steps: Vec<Tensor> = (0..3).map(|_| Tensor::randn([12, 64], options)).collect();
    let gradients = |first: usize, parts: usize| {
        let params = start.each_ref().map(|t| t.copy().set_requires_grad(true));
        let made = Reducer::new(&w, &params, Gradients::default());
        let reducer = made.expect("made").expect("several ranks");
        for x in &steps[first..] {
            params.iter().filter(|p| p.grad().defined()).for_each(|p| drop(p.grad().zero_()));
            for part in 0..parts {
                reducer.forward().expect("arranged");
                let x = w.own(x) * (part + 1) as f64;
                let hidden = x.matmul(&params[0]).tanh().matmul(&params[1]).tanh();
                let loss = hidden.matmul(&params[2]).square().mean(Kind::Float);
                if part + 1 == parts {
                    reducer.backward(&loss).expect("announced");
                }
                loss.backward();
            }
        }
        params.map(|p| p.grad())
    };
    for parts in [1, 2] {
        let (late, early) = (gradients(0, parts), gradients(2, parts));
        assert!(late.iter().all(|g| g.abs().max().double_value(&[]) > 0.0));
        assert!(late == early, "{parts} parts");
    }
    ranks::done(w);
}

#[test]
fn a_parameter_without_a_gradient_is_an_error() {
    let Role::Rank(w) = Ranks::of("a_parameter_without_a_gradient_is_an_error", 2).all_well() else { return };
    let leaf = || floats(&[1.0, 2.0]).set_requires_grad(true);
    let params = [leaf(), leaf()];
    let reducer = Reducer::new(&w, &params, Gradients::default()).expect("made").expect("several ranks");
    let pass = || -> Result<(), Error> {
        reducer.forward()?;
        let loss = params[0].sum(Kind::Float);
        reducer.backward(&loss)?;
        loss.backward();
        Ok(())
    };
    let error = (0..3).find_map(|_| pass().err()).expect("noticed").to_string();
    assert!(error.contains("arranging gradients") || error.contains("mean of gradients"), "{error}");
    occlude_distributed::leave(0)
}

/// One that no rank uses stays without; one that some use has the mean, with zeros of the others.
#[test]
fn parameters_may_be_without_a_gradient_where_that_is_said() {
    let name = "parameters_may_be_without_a_gradient_where_that_is_said";
    let Role::Rank(w) = Ranks::of(name, 2).all_well() else { return };
    let leaf = || floats(&[1.0, 2.0]).set_requires_grad(true);
    let params = [leaf(), leaf(), leaf()];
    let gradients = Gradients { some_missing: true, ..Gradients::default() };
    let reducer = Reducer::new(&w, &params, gradients).expect("made").expect("several ranks");
    for _ in 0..3 {
        params.iter().filter(|p| p.grad().defined()).for_each(|p| drop(p.grad().zero_()));
        reducer.forward().expect("arranged");
        let loss = params[0].sum(Kind::Float);
        let loss = if w.is_main() { loss + params[1].sum(Kind::Float) } else { loss };
        reducer.backward(&loss).expect("announced");
        loss.backward();
        assert_eq!([0, 1].map(|i| params[i].grad().double_value(&[0])), [1.0, 0.5]);
        assert!(!params[2].grad().defined());
    }
    ranks::done(w);
}

/// The others notice within a second, and say who they are, at which step, and what they were doing.
#[test]
fn a_killed_rank_ends_the_others_with_a_message() {
    for size in [2, 4] {
        let ranks = Ranks::of("a_killed_rank_ends_the_others_with_a_message", size);
        let began = Instant::now();
        match ranks.start() {
            Role::Rank(w) => {
                for step in 0..1000 {
                    w.at_step(step);
                    if step == 5 && w.rank() == 1 {
                        // SAFETY: ends this process.
                        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                    }
                    drop(ranks::or_leave(w.sum(&floats(&[1.0; 1000]), "the sum of gradients")));
                }
            }
            Role::Parent(ended) => {
                assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
                for (rank, end) in ended.iter().enumerate().filter(|(rank, _)| *rank != 1) {
                    let expected = format!("rank {rank} of {size}, step 5, the sum of gradients: ");
                    assert!(end.code == Some(1) && end.told.contains(&expected), "{rank}: {end:?}");
                    assert!(end.told.contains("hint: another rank ended"), "{end:?}");
                }
                assert_eq!(ended[1].code, None);
            }
        }
    }
}

/// Time-outs are those asked for.
#[test]
fn a_stalled_rank_ends_the_others_within_the_time_out() {
    match Ranks::of("a_stalled_rank_ends_the_others_within_the_time_out", 2).timeout(3).start() {
        Role::Rank(w) => {
            w.at_step(7);
            if w.rank() == 1 {
                std::thread::sleep(Duration::from_secs(12));
                occlude_distributed::leave(0);
            }
            let began = Instant::now();
            let error = w.barrier("the end of an epoch").expect_err("nobody comes");
            let took = began.elapsed();
            assert!((2..9).contains(&took.as_secs()), "{took:?}");
            ranks::or_leave::<()>(Err(error));
        }
        Role::Parent(ended) => {
            let told = &ended[0].told;
            assert!(told.contains("rank 0 of 2, step 7, the end of an epoch: "), "{told}");
            assert!(told.contains("hint: another rank stalled"), "{told}");
            assert_eq!((ended[0].code, ended[1].code), (Some(1), Some(0)));
        }
    }
}

/// Rank 1 is never started.
#[test]
fn a_rank_that_never_comes_is_an_error_within_the_time_out() {
    match Ranks::of("a_rank_that_never_comes_is_an_error_within_the_time_out", 2).timeout(3).only(1).start() {
        Role::Rank(_) => panic!("joined nobody"),
        Role::Parent(ended) => {
            assert!(
                ended[0].told.contains("rank 0 of 2 cannot join the others at `127.0.0.1:"),
                "{:?}",
                ended[0]
            );
            assert!(ended[0].told.contains("hint: is the port free"), "{:?}", ended[0]);
        }
    }
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    match Ranks::of("a_port_that_is_taken_is_an_error", 2).timeout(3).only(1).port(port).start() {
        Role::Rank(_) => panic!("joined nobody"),
        Role::Parent(ended) => assert!(ended[0].told.contains("in use"), "{:?}", ended[0]),
    }
}

#[test]
fn a_process_that_is_alone_gets_back_what_it_gives() {
    let w = World::single();
    let x = floats(&[1.0, 2.0]);
    let gathered = [w.gather(&x, ""), w.gather_uneven(&x, ""), w.gather_live(&x, "")];
    for same in [w.sum(&x, ""), w.mean(&x, ""), Ok(w.own(&x))].into_iter().chain(gathered) {
        assert_eq!(same.expect("alone").data_ptr(), x.data_ptr());
    }
    assert!(w.is_single() && w.is_main() && w.size() == 1);
    assert!(Reducer::new(&w, &[x], Gradients::default()).expect("none").is_none());
    assert_eq!(w.agreed::<_, Error>(Ok(1), ""), Ok(1));
    let norm = BatchNorm { affine: None, running: None, momentum: 0.1, eps: 1e-5 };
    assert!(w.batch_norm(&floats(&[1.0]), norm).is_err());
    assert!(world().is_err());
}
