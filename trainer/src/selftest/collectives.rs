//! What several processes do together, against what one does: over NCCL on CUDA, over Gloo on the CPU. A process that is
//! alone makes a group of its own, so that the backend's path is the same.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use occlude_distributed::{BatchNorm, Compression, Gradients, Place, Reducer, World};
use tch::{Device, Kind, Tensor};

use super::{Check, relative};
use crate::tolerance;

/// How long a process that is alone waits for itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the sums whose time is told.
const SIZES: [usize; 5] = [1 << 12, 1 << 16, 1 << 20, 25 << 20, 100 << 20];
/// Sums of each size, of which the median counts.
const ROUNDS: usize = 9;

/// The group to check: the one that was joined, or one of this process alone.
fn group(world: &World, device: Device) -> Result<World> {
    if !world.is_single() {
        return Ok(world.clone());
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let place = Place {
        rank: 0,
        size: 1,
        local_rank: 0,
        local_size: 1,
        host: "127.0.0.1".into(),
        port: free.context("no port of this machine is free")?.port(),
        attempt: 0,
        agent: false,
    };
    Ok(World::join(place, PATIENCE, device)?)
}

/// Every collective of training, on `device`; the worst of the ranks.
pub(super) fn checks(world: &World, device: Device) -> Result<Vec<Check>> {
    let world = &group(world, device)?;
    let backend = if device.is_cuda() { "NCCL" } else { "Gloo" };
    let name = |what: &str| format!("{backend}, {} processes, {what}", world.size());
    let mut checks = Vec::new();
    let found = [
        ("sum, relative error", sum(world, device)?, tolerance::RANKS),
        ("gather, differing numbers", gather(world, device)?, 0.0),
        ("broadcast, differing numbers", broadcast(world, device)?, 0.0),
        ("normalisation, relative error", normalisation(world, device)?, tolerance::RANKS),
        ("gradients, relative error", gradients(world, device, Compression::None)?, tolerance::RANKS),
        ("gradients in float16", gradients(world, device, Compression::Fp16)?, tolerance::RANKS_FP16),
        ("gradients in bfloat16", gradients(world, device, Compression::Bf16)?, tolerance::RANKS_BF16),
    ];
    for (what, own, bound) in found {
        let all = Vec::<f64>::try_from(world.gather(&Tensor::from_slice(&[own]), "what was found")?)?;
        // not `f64::max`, for which a number is larger than none
        let worst = all.into_iter().fold(0.0, |worst, found| if found <= worst { worst } else { found });
        checks.push(Check::at_most(name(what), worst, bound));
    }
    if world.size() > 1 {
        tell_times(world, device, backend)?;
    }
    Ok(checks)
}

/// What every rank draws alike.
fn drawn(shape: &[i64], device: Device) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to(device)
}

fn differing(found: &Tensor, expected: &Tensor) -> f64 {
    found.ne_tensor(expected).sum(Kind::Int64).int64_value(&[]) as f64
}

fn sum(world: &World, device: Device) -> Result<f64> {
    tch::manual_seed(1);
    let all = drawn(&[world.size() as i64, 100_003], device);
    let found = world.sum(&all.get(world.rank() as i64), "a sum")?;
    Ok(relative(&found, &all.sum_dim_intlist([0i64].as_slice(), false, Kind::Double)))
}

fn gather(world: &World, device: Device) -> Result<f64> {
    tch::manual_seed(2);
    let all = drawn(&[world.size() as i64 * 7, 5], device);
    Ok(differing(&world.gather(&world.own(&all), "rows")?, &all))
}

fn broadcast(world: &World, device: Device) -> Result<f64> {
    let of = |rank: usize| Tensor::arange(1000, (Kind::Float, device)) + rank as f64;
    let own = of(world.rank());
    world.broadcast(&[own.shallow_clone()], "weights")?;
    Ok(differing(&own, &of(0)))
}

/// Outputs, gradients and running statistics of this rank's rows.
fn normalisation(world: &World, device: Device) -> Result<f64> {
    tch::manual_seed(3);
    let shape = [world.size() as i64 * 4, 8, 6, 6];
    let (x, pull) = (drawn(&shape, device), drawn(&shape, device));
    let affine = [drawn(&[8], device), drawn(&[8], device)];
    let running = || [Tensor::zeros([8], (Kind::Float, device)), Tensor::ones([8], (Kind::Float, device))];
    let run = |x: &Tensor, pull: &Tensor, joint: bool| -> Result<[Tensor; 4]> {
        let (x, [w, b], [mean, var]) = (x.copy().set_requires_grad(true), &affine, running());
        let y = if joint {
            let running = Some([&mean, &var]);
            world.batch_norm(&x, BatchNorm { affine: Some([w, b]), running, momentum: 0.1, eps: 1e-5 })?
        } else {
            x.batch_norm(Some(w), Some(b), Some(&mean), Some(&var), true, 0.1, 1e-5, false)
        };
        (&y * pull).sum(Kind::Float).f_backward()?;
        Ok([y.detach(), x.grad(), mean, var])
    };
    let alone = run(&x, &pull, false)?;
    let found = run(&world.own(&x), &world.own(&pull), true)?;
    let expected = |i: usize| if i < 2 { world.own(&alone[i]) } else { alone[i].shallow_clone() };
    Ok(found.iter().enumerate().map(|(i, found)| relative(found, &expected(i))).fold(0.0, f64::max))
}

/// The mean of the gradients of all ranks' rows against the gradient of all rows, over some steps.
fn gradients(world: &World, device: Device, compression: Compression) -> Result<f64> {
    tch::manual_seed(4);
    let leaf = |t: &Tensor| t.copy().set_requires_grad(true);
    // two buckets and more: the first holds 1 MiB, the others 25
    let start = [drawn(&[64, 512], device), drawn(&[512, 2000], device), drawn(&[2000, 4], device)];
    let (alone, together) = (start.each_ref().map(leaf), start.each_ref().map(leaf));
    let loss = |p: &[Tensor; 3], x: &Tensor| {
        let hidden = (x.matmul(&p[0]) / 8.0).tanh();
        (hidden.matmul(&p[1]) / 20.0).tanh().matmul(&p[2]).square().mean(Kind::Float)
    };
    let made = Reducer::new(world, &together, Gradients { compression, some_missing: false })?;
    let reducer = made.context("a group has a reducer")?;
    let mut worst = 0.0;
    for _ in 0..3 {
        let x = drawn(&[world.size() as i64 * 4, 64], device);
        let leaves = alone.iter().chain(&together);
        leaves.filter(|p| p.grad().defined()).for_each(|p| drop(p.grad().zero_()));
        loss(&alone, &x).f_backward()?;
        reducer.forward()?;
        let own = loss(&together, &world.own(&x));
        reducer.backward(&own)?;
        own.f_backward()?;
        let apart = alone.iter().zip(&together).map(|(a, b)| relative(&b.grad(), &a.grad()));
        worst = apart.fold(worst, f64::max);
        ensure!(
            together.iter().all(|p| p.grad().isfinite().all().int64_value(&[]) == 1),
            "a gradient is lost"
        );
    }
    Ok(worst)
}

/// How long sums take, which docs/cluster.md reckons with.
fn tell_times(world: &World, device: Device, backend: &str) -> Result<()> {
    for bytes in SIZES {
        let x = Tensor::ones([bytes as i64 / 4], (Kind::Float, device));
        let mut times = Vec::new();
        for _ in 0..=ROUNDS {
            world.barrier("the beginning of a sum")?;
            let began = Instant::now();
            // the read waits for the device
            let _ = world.sum(&x, "a sum whose time is taken")?.double_value(&[0]);
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        // the first one connects
        let mut times = times.split_off(1);
        times.sort_by(f64::total_cmp);
        let (size, median) = (world.size(), times[ROUNDS / 2]);
        tell!("{backend}, {size} processes: the sum of {bytes} bytes takes {median:.3} ms");
    }
    Ok(())
}
