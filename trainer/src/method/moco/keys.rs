//! The queue of keys.

use tch::{Device, Kind, Tensor};

use crate::config::QueueStart;
use crate::loss::normalize;

/// The queue of keys: `(.., D, K)`, written in a ring; several queues of one place where there are dimensions before D.
pub struct Keys {
    pub(super) columns: Tensor,
    pub(super) next: i64,
    pub(super) filled: i64,
}

impl Keys {
    /// Room for `len` keys of `dim` numbers in each of `several` queues; full of random directions, or empty.
    pub fn new(several: &[i64], dim: usize, len: usize, start: QueueStart, device: Device) -> Self {
        let (dim, len) = (dim as i64, len as i64);
        let random = Tensor::randn([several, &[len, dim]].concat(), (Kind::Float, Device::Cpu));
        let columns = normalize(&random).transpose(-2, -1).contiguous().to(device);
        let filled = if start == QueueStart::Random { len } else { 0 };
        Self { columns, next: 0, filled }
    }

    /// Keys that have room.
    pub(super) fn len(&self) -> i64 {
        self.columns.size().last().copied().unwrap_or(0)
    }

    /// The keys that count, `(.., D, n)`; `None` where there are none.
    pub fn get(&self) -> Option<Tensor> {
        (self.filled > 0).then(|| self.columns.narrow(-1, 0, self.filled))
    }

    /// Adds keys `(.., B, D)` over the oldest, wrapping around; of more than fit, the last stay.
    pub fn push(&mut self, keys: &Tensor) {
        let len = self.len();
        if len == 0 {
            return;
        }
        let all = keys.size()[keys.dim() - 2];
        let (mut from, mut left) = ((all - len).max(0), all.min(len));
        let columns = keys.transpose(-2, -1); // (.., D, B)
        while left > 0 {
            let n = left.min(len - self.next);
            self.columns.narrow(-1, self.next, n).copy_(&columns.narrow(-1, from, n));
            self.filled = self.filled.max(self.next + n);
            self.next = (self.next + n) % len;
            (from, left) = (from + n, left - n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_takes_any_batch_size_and_wraps() {
        let _alone = crate::rng::alone();
        let mut keys = Keys::new(&[], 2, 5, QueueStart::Empty, Device::Cpu);
        assert!(keys.get().is_none());
        let batch = |from: i64, n: i64| {
            Tensor::arange_start(from, from + n, (Kind::Float, Device::Cpu))
                .unsqueeze(1)
                .expand([n, 2], false)
        };
        let row =
            |k: &Keys| Vec::<f32>::try_from(k.get().expect("keys").get(0).contiguous()).expect("numbers");
        keys.push(&batch(1, 3));
        assert_eq!(row(&keys), [1.0, 2.0, 3.0]);
        keys.push(&batch(4, 3));
        assert_eq!(row(&keys), [6.0, 2.0, 3.0, 4.0, 5.0]);
        keys.push(&batch(10, 12));
        let mut all = row(&keys);
        all.sort_by(f32::total_cmp);
        assert_eq!(all, [17.0, 18.0, 19.0, 20.0, 21.0], "the newest stay");
        assert_eq!(Keys::new(&[], 2, 5, QueueStart::Random, Device::Cpu).get().expect("full").size(), [2, 5]);
        // several queues hold what each alone would
        let mut several = Keys::new(&[3], 2, 5, QueueStart::Empty, Device::Cpu);
        for (from, n) in [(1, 3), (4, 3), (10, 12)] {
            several.push(&Tensor::stack(&[batch(from, n), batch(from + 100, n), batch(from, n)], 0));
        }
        let all = several.get().expect("keys");
        assert_eq!(all.size(), [3, 2, 5]);
        assert_eq!(all.get(0), keys.get().expect("keys"));
        assert_eq!(all.get(1), keys.get().expect("keys") + 100.0);
    }
}
