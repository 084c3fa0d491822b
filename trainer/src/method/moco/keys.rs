//! The queue of keys.

use tch::{Device, Kind, Tensor};

use crate::config::QueueStart;
use crate::loss::normalize;

/// The queue of keys: `(D, K)`, written in a ring.
pub struct Keys {
    pub(super) columns: Tensor,
    pub(super) next: i64,
    pub(super) filled: i64,
}

impl Keys {
    /// Room for `len` keys of `dim` numbers; full of random directions, or empty.
    pub fn new(dim: usize, len: usize, start: QueueStart, device: Device) -> Self {
        let (dim, len) = (dim as i64, len as i64);
        let random = Tensor::randn([len, dim], (Kind::Float, Device::Cpu));
        let columns = normalize(&random).transpose(0, 1).contiguous().to(device);
        let filled = if start == QueueStart::Random { len } else { 0 };
        Self { columns, next: 0, filled }
    }

    /// The keys that count, `(D, n)`; `None` where there are none.
    pub fn get(&self) -> Option<Tensor> {
        (self.filled > 0).then(|| self.columns.narrow(1, 0, self.filled))
    }

    /// Adds keys `(B, D)` over the oldest, wrapping around; of more than fit, the last stay.
    pub fn push(&mut self, keys: &Tensor) {
        let len = self.columns.size()[1];
        if len == 0 {
            return;
        }
        let all = keys.size()[0];
        let mut rest = keys.narrow(0, (all - len).max(0), all.min(len)).transpose(0, 1); // (D, n)
        while rest.size()[1] > 0 {
            let n = rest.size()[1].min(len - self.next);
            self.columns.narrow(1, self.next, n).copy_(&rest.narrow(1, 0, n));
            self.filled = self.filled.max(self.next + n);
            self.next = (self.next + n) % len;
            rest = rest.narrow(1, n, rest.size()[1] - n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_takes_any_batch_size_and_wraps() {
        let _alone = crate::rng::alone();
        let mut keys = Keys::new(2, 5, QueueStart::Empty, Device::Cpu);
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
        assert_eq!(Keys::new(2, 5, QueueStart::Random, Device::Cpu).get().expect("full").size(), [2, 5]);
    }
}
