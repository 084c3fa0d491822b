//! What tells whether training goes well, whatever the method.

use tch::{Kind, Tensor};

use crate::loss::{pair_accuracy, similarities, spread};

/// What a method can tell of how its training goes; what it cannot is absent. On the device ([`Tensor`]) until the engine
/// reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health<T = Tensor> {
    /// How well the pictures of a batch are told apart; absent where the method compares none.
    pub contrast: Option<Contrast<T>>,
    /// How spread the features are: 0 for a collapsed encoder, 1 for an ideal one.
    pub spread: T,
}

/// How well the pictures of a batch are told apart, of which nothing but the pictures themselves can be the reason.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrast<T = Tensor> {
    /// Share of the pictures whose other view is the most similar of the batch.
    pub accuracy: T,
    /// Mean cosine of the two views of a picture.
    pub positive: T,
    /// Mean cosine of views of different pictures.
    pub negative: T,
}

impl Health {
    /// Of normalised projections `(B, D)` of two views, and features of one.
    pub fn of(query: &Tensor, key: &Tensor, embedding: &Tensor) -> Self {
        let (positive, negative) = similarities(query, key);
        let contrast = Contrast { accuracy: pair_accuracy(query, key), positive, negative };
        Self { contrast: Some(contrast), spread: spread(embedding) }
    }

    /// The mean of each number over several directions; what one of them cannot tell is absent.
    pub fn mean(parts: Vec<Self>) -> Option<Self> {
        if parts.len() <= 1 {
            return parts.into_iter().next();
        }
        let over = |of: &dyn Fn(&Self) -> Option<Tensor>| {
            let all: Option<Vec<Tensor>> = parts.iter().map(of).collect();
            all.map(|all| Tensor::stack(&all, 0).mean(Kind::Float))
        };
        let contrast = |of: fn(&Contrast) -> &Tensor| {
            over(&|h: &Self| h.contrast.as_ref().map(|c| of(c).shallow_clone()))
        };
        let told = [contrast(|c| &c.accuracy), contrast(|c| &c.positive), contrast(|c| &c.negative)];
        let contrast = match told {
            [Some(accuracy), Some(positive), Some(negative)] => {
                Some(Contrast { accuracy, positive, negative })
            }
            _ => None,
        };
        Some(Self { contrast, spread: over(&|h: &Self| Some(h.spread.shallow_clone()))? })
    }
}

impl<T> Health<T> {
    /// The numbers with the names that they have in `metrics.jsonl`.
    pub fn named(&self) -> Vec<(&'static str, &T)> {
        let contrast = self.contrast.as_ref().map(|c| {
            [
                ("batch_acc1", &c.accuracy),
                ("positive_similarity", &c.positive),
                ("negative_similarity", &c.negative),
            ]
        });
        contrast.into_iter().flatten().chain([("feature_std", &self.spread)]).collect()
    }

    /// The same of other numbers, in the order of [`Self::named`].
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Health<U> {
        let contrast = self.contrast.as_ref().map(|c| Contrast {
            accuracy: f(&c.accuracy),
            positive: f(&c.positive),
            negative: f(&c.negative),
        });
        Health { contrast, spread: f(&self.spread) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_order_of_the_numbers_and_what_is_not_told_is_absent() {
        let contrast = Contrast { accuracy: 0, positive: 1, negative: 2 };
        let whole = Health { contrast: Some(contrast), spread: 3 };
        let mut order = Vec::new();
        whole.map(|&n| order.push(n));
        assert_eq!(order, whole.named().into_iter().map(|(_, n)| *n).collect::<Vec<_>>());
        let silent = Health { contrast: None, spread: 1 };
        assert_eq!(silent.named(), [("feature_std", &1)]);
    }

    #[test]
    fn a_mean_of_directions_tells_what_all_of_them_do() {
        let of = |v: f32| {
            let number = |x: f32| Tensor::from(x);
            let contrast =
                Contrast { accuracy: number(v), positive: number(v + 1.0), negative: number(v + 2.0) };
            Health { contrast: Some(contrast), spread: number(v + 3.0) }
        };
        let mean = Health::mean(vec![of(0.0), of(2.0)]).expect("two").map(|t| t.double_value(&[]));
        let contrast = Contrast { accuracy: 1.0, positive: 2.0, negative: 3.0 };
        assert_eq!(mean, Health { contrast: Some(contrast), spread: 4.0 });
        let silent = Health { contrast: None, ..of(0.0) };
        assert!(Health::mean(vec![of(0.0), silent]).expect("two").contrast.is_none());
        assert!(Health::mean(vec![]).is_none());
    }
}
