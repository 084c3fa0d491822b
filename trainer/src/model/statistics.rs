//! The running statistics of an encoder's normalisations, apart from training's moving averages.

use anyhow::Result;
use occlude_encoder::Graph;
use tch::Tensor;

use super::encoder::Encoder;
use super::mode::Mode;
use super::named::Named;

/// Running statistics, and how many batches they are the mean of.
#[derive(Debug)]
pub struct Statistics {
    /// Means and variances by torchvision's names.
    pub named: Vec<Named>,
    /// Number of batches.
    pub batches: usize,
}

/// The running means and variances of `encoder`, which it shares.
fn running(encoder: &Encoder) -> Vec<Named> {
    let all = encoder.named("").into_iter();
    all.filter(|n| n.name.ends_with("running_mean") || n.name.ends_with("running_var")).collect()
}

impl Statistics {
    /// The means over `batches`, network input `(B, 3, H, W)` each, of what normalisation computes of each (PreciseBN, arXiv
    /// 2105.07576): PyTorch's running statistics with a momentum of `None`. The encoder stays what it is.
    ///
    /// # Errors
    /// Those of the batches.
    pub fn estimate(encoder: &Encoder, mut batches: impl Iterator<Item = Result<Tensor>>) -> Result<Self> {
        let running = running(encoder);
        let kept: Vec<Tensor> = running.iter().map(|n| n.tensor.copy()).collect();
        let tracked = encoder.named("").into_iter().find(|n| n.name.ends_with("num_batches_tracked"));
        let sums: Vec<Tensor> = running.iter().map(|n| n.tensor.zeros_like()).collect();
        let mut count = 0usize;
        let mut add = |x: &Tensor| {
            // a moving average that begins at zero holds the batch's own values, times its momentum
            running.iter().for_each(|n| drop(n.tensor.shallow_clone().zero_()));
            encoder.forward(x, Mode::Train { splits: 1 }, &[]);
            for (sum, n) in sums.iter().zip(&running) {
                let _ = sum.shallow_clone().g_add_(&(&n.tensor / Graph::BN_MOMENTUM));
            }
            count += 1;
        };
        let outcome = tch::no_grad(|| batches.try_for_each(|x| x.map(|x| add(&x))));
        let before = Self { named: named_as(&running, kept), batches: 0 };
        before.put_into(encoder);
        if let Some(tracked) = tracked {
            encoder.set_batches(tracked.tensor.int64_value(&[]));
        }
        outcome?;
        let means = sums.iter().map(|sum| sum / count.max(1) as f64).collect();
        Ok(Self { named: named_as(&running, means), batches: count })
    }

    /// Puts these into `encoder`; those that were there.
    #[must_use]
    pub fn exchange(&self, encoder: &Encoder) -> Self {
        let there = running(encoder);
        let before = there.iter().map(|n| n.tensor.copy()).collect();
        self.put_into(encoder);
        Self { named: named_as(&there, before), batches: 0 }
    }

    fn put_into(&self, encoder: &Encoder) {
        for (to, from) in running(encoder).iter().zip(&self.named) {
            tch::no_grad(|| to.tensor.shallow_clone().copy_(&from.tensor));
        }
    }
}

fn named_as(names: &[Named], tensors: Vec<Tensor>) -> Vec<Named> {
    names.iter().zip(tensors).map(|(n, tensor)| Named { name: n.name.clone(), tensor }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_encoder::Arch;
    use tch::{Device, Kind};

    fn state(encoder: &Encoder) -> Vec<Tensor> {
        encoder.named("").iter().map(|n| n.tensor.copy()).collect()
    }

    /// Whatever happens to the batches, the encoder has its own statistics and counter afterwards.
    #[test]
    fn estimating_changes_no_encoder_and_an_exchange_is_undone() {
        let _alone = crate::rng::alone();
        tch::manual_seed(1);
        let batch = || Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
        let encoder = Encoder::new(Arch::ResNet18, 0, Device::Cpu);
        tch::no_grad(|| drop(encoder.forward(&batch(), Mode::Train { splits: 1 }, &[])));
        let before = state(&encoder);
        let found = Statistics::estimate(&encoder, (0..3).map(|_| Ok(batch()))).expect("estimated");
        assert_eq!((found.batches, found.named.len()), (3, 40));
        assert!(state(&encoder) == before);
        let broken = [Ok(batch()), Err(anyhow::anyhow!("gone")), Ok(batch())];
        let error = Statistics::estimate(&encoder, broken.into_iter()).expect_err("gone");
        assert!(error.to_string() == "gone" && state(&encoder) == before);
        let own = found.exchange(&encoder);
        assert!(state(&encoder) != before);
        let back = own.exchange(&encoder);
        assert!(state(&encoder) == before);
        assert!(back.named.iter().zip(&found.named).all(|(a, b)| a.tensor == b.tensor && a.name == b.name));
    }
}
