//! An encoder without a model: answers by arithmetic, fails when told to, and can be held at a gate. The unit tests of the
//! crate use it as well.

use std::sync::{Arc, Condvar, Mutex};

use occlude_preprocess::{Preprocess, Rgb};
use occlude_serve::{
    Crop, Encode, EncodeError, Encoded, Features, InputKind, MapRule, ModelInfo, Plane, Wants,
};

/// Lets encoders through once it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everyone through from now on.
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.0.lock().unwrap();
        while !*open {
            open = self.0.1.wait(open).unwrap();
        }
    }
}

/// The fake encoder: a three-number embedding (the mean colour, normalised) and a 2 x 2 saliency (the mean of each
/// quarter).
#[derive(Default)]
pub(crate) struct Fake {
    gate: Option<Gate>,
}

impl Fake {
    /// Length of the embedding.
    pub(crate) const DIM: usize = 3;
    /// A batch fails that has a picture of this value in its first byte.
    pub(crate) const FAILS: u8 = 251;
    /// Likewise, a batch panics.
    pub(crate) const PANICS: u8 = 252;
    /// Likewise, a batch comes back empty.
    pub(crate) const FORGETS: u8 = 253;

    /// One that waits at `gate` before every batch.
    pub(crate) fn gated(gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()) }
    }

    /// What is known about a model of it: 32 pixels, which may come normalised. Its identity is its fingerprint.
    pub(crate) fn info(name: &str, fingerprint: &str) -> ModelInfo {
        ModelInfo {
            name: name.to_owned(),
            fingerprint: fingerprint.to_owned(),
            identity: fingerprint.to_owned(),
            encoder: "fake".to_owned(),
            method: None,
            licence: None,
            checkpoint: None,
            contract: Preprocess::imagenet(32),
            input: InputKind::Float,
            dim: Self::DIM,
            golden: None,
            features: false,
            maps: true,
            rule: MapRule::default(),
            sum: false,
            provider: "none".to_owned(),
        }
    }

    /// The feature map of an answer: for each number of the embedding, that number times the saliency.
    pub(crate) fn features(encoded: &Encoded) -> Features {
        let (height, width) = encoded.grid;
        let plane = |&e| encoded.saliency.iter().map(move |s| e * s);
        let values = encoded.embedding.iter().flat_map(plane).collect();
        Features { channels: encoded.embedding.len(), height, width, values }
    }

    /// The channel sum of an answer: the saliency, each cell twice as wide, upside down and doubled.
    pub(crate) fn sum(encoded: &Encoded) -> Plane {
        let (height, width) = encoded.grid;
        let row = |row: &[f32]| row.iter().flat_map(|v| [2.0 * v; 2]).collect::<Vec<f32>>();
        let values = encoded.saliency.chunks_exact(width).rev().flat_map(row).collect();
        Plane { height, width: 2 * width, values }
    }

    /// What it answers for a picture.
    pub(crate) fn answer(image: &Rgb) -> Encoded {
        let pixels = image.data.chunks_exact(3);
        let count = pixels.len().max(1) as f32;
        let sums = pixels.fold([0f32; 3], |s, p| std::array::from_fn(|c| s[c] + f32::from(p[c])));
        let norm = sums.iter().map(|s| s * s).sum::<f32>().sqrt().max(1e-12);
        let (w, h) = (image.width as usize, image.height as usize);
        let quarter = |row: usize, column: usize| {
            let inside =
                |i: usize| (i / w.max(1)) * 2 / h.max(1) == row && (i % w.max(1)) * 2 / w.max(1) == column;
            let bright = |(_, p): (usize, &[u8])| p.iter().map(|&v| f32::from(v)).sum::<f32>();
            image.data.chunks_exact(3).enumerate().filter(|(i, _)| inside(*i)).map(bright).sum::<f32>()
                / count
        };
        Encoded {
            embedding: sums.iter().map(|s| s / norm).collect(),
            saliency: vec![quarter(0, 0), quarter(0, 1), quarter(1, 0), quarter(1, 1)],
            grid: (2, 2),
            features: None,
            sum: None,
        }
    }
}

impl Encode for Fake {
    fn encode(&mut self, images: &[Crop], wants: Wants) -> Result<Vec<Encoded>, EncodeError> {
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        let images: Vec<Rgb> = images.iter().map(pixels).collect();
        let told = |what: u8| images.iter().any(|i| i.data.first() == Some(&what));
        if told(Self::FAILS) {
            return Err(EncodeError::Runtime("as told".to_owned()));
        }
        assert!(!told(Self::PANICS), "as told");
        if told(Self::FORGETS) {
            return Ok(Vec::new());
        }
        let answer = |image| {
            let encoded = Self::answer(image);
            let features = wants.features.then(|| Self::features(&encoded));
            let sum = wants.sum.then(|| Self::sum(&encoded));
            Encoded { features, sum, ..encoded }
        };
        Ok(images.iter().map(answer).collect())
    }
}

/// Pixels of a picture, those of a normalised one to the nearest byte.
fn pixels(image: &Crop) -> Rgb {
    let values = match image {
        Crop::Pixels(pixels) => return pixels.clone(),
        Crop::Normalised(values) => values,
    };
    let contract = Preprocess::imagenet(32);
    let (side, plane) = (contract.crop, (contract.crop * contract.crop) as usize);
    let byte = |(i, c): (usize, usize)| {
        let value = values.get(c * plane + i).copied().unwrap_or_default();
        ((value * contract.std[c] + contract.mean[c]) * 255.0).round() as u8
    };
    let data = (0..plane).flat_map(|i| (0..3).map(move |c| (i, c))).map(byte).collect();
    Rgb { width: side, height: side, data }
}
