//! The map of a view that no network makes: [`occlude_saliency::prior::border_colour`] by tensor operations.

use occlude_preprocess::Preprocess;
use occlude_saliency::prior;
use occlude_torch_ext::Autocast;
use tch::{Device, Kind, Tensor};

use crate::mask::{on_grid, scaled};

/// Side of the picture whose colours are compared: the strips along its sides are one cell wide.
const SIDE: i64 = 16;
/// From linear RGB to XYZ divided by the white D65 (IEC 61966-2-1).
const XYZ: [[f64; 3]; 3] = [
    [0.412_456_4 / 0.950_47, 0.357_576_1 / 0.950_47, 0.180_437_5 / 0.950_47],
    [0.212_672_9, 0.715_152_2, 0.072_175],
    [0.019_333_9 / 1.088_83, 0.119_192 / 1.088_83, 0.950_304_1 / 1.088_83],
];
/// From the cube roots of these to differences in L*, a* and b*; the constant 16 of L* cancels in distances.
const LAB: [[f64; 3]; 3] = [[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]];
/// Where the cube root of CIE Lab becomes a line.
const DELTA: f64 = 6.0 / 29.0;

/// How far each cell's colour is from the nearest of four, the means along the sides of the view, times a blob in the
/// middle; of the view averaged to 16x16.
#[derive(Debug)]
pub struct BorderColour {
    /// What normalisation did, `(1, 3, 1, 1)` both.
    std: Tensor,
    mean: Tensor,
    /// Convolutions over one pixel, `(3, 3, 1, 1)`.
    xyz: Tensor,
    lab: Tensor,
    /// `(1, 16, 16)`.
    centre: Tensor,
}

impl BorderColour {
    /// Of views normalised as `contract` says.
    pub fn new(contract: &Preprocess, device: Device) -> Self {
        let channel = |v: [f32; 3]| Tensor::from_slice(&v).view([1, 3, 1, 1]).to(device);
        let matrix = |rows: [[f64; 3]; 3]| {
            let all: Vec<f32> = rows.iter().flatten().map(|&v| v as f32).collect();
            Tensor::from_slice(&all).view([3, 3, 1, 1]).to(device)
        };
        let centre = prior::centre(SIDE as usize, SIDE as usize);
        Self {
            std: channel(contract.std),
            mean: channel(contract.mean),
            xyz: matrix(XYZ),
            lab: matrix(LAB),
            centre: Tensor::from_slice(&centre).view([1, SIDE, SIDE]).to(device),
        }
    }

    /// The maps of unfiltered views `(B, 3, H, W)`, `(B, cells, cells)` in 0..1.
    pub fn maps(&self, views: &Tensor, cells: i64) -> Tensor {
        let _exact = Autocast::bf16(views.device(), false);
        let rgb = views.to_kind(Kind::Float).adaptive_avg_pool2d([SIDE; 2]) * &self.std + &self.mean;
        let lab = self.lab(&rgb.clamp(0.0, 1.0)); // (B, 3, 16, 16)
        let side = |line: Tensor| line.mean_dim([2i64].as_slice(), true, Kind::Float); // (B, 3, 1)
        let sides = [lab.select(2, 0), lab.select(2, -1), lab.select(3, 0), lab.select(3, -1)].map(side);
        let apart = lab.flatten(2, 3).unsqueeze(3) - Tensor::cat(&sides, 2).unsqueeze(2); // (B, 3, 256, 4)
        let squares = apart.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        let nearest = squares.amin([2i64], false).sqrt().view([-1, SIDE, SIDE]);
        on_grid(&(scaled(&nearest) * &self.centre), cells)
    }

    /// sRGB in 0..1 to colours whose distances are those of CIE Lab.
    fn lab(&self, rgb: &Tensor) -> Tensor {
        let over =
            |x: &Tensor, weights: &Tensor| x.conv2d::<Tensor>(weights, None, [1, 1], [0, 0], [1, 1], 1);
        let bright = ((rgb + 0.055) / 1.055).pow_tensor_scalar(2.4);
        let linear = bright.where_self(&rgb.gt(0.040_45), &(rgb / 12.92));
        let xyz = over(&linear, &self.xyz);
        let line: Tensor = &xyz / (3.0 * DELTA * DELTA) + 4.0 / 29.0;
        let root = xyz.pow_tensor_scalar(1.0 / 3.0).where_self(&xyz.gt(DELTA.powi(3)), &line);
        over(&root, &self.lab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest difference to the same in other single-precision operations, cube roots among them, on a scale of 0 to 1.
    const ROOTS: f64 = 1e-4;

    /// Bytes `(16, 16, 3)` as a normalised view of 64 px.
    fn view(bytes: &[u8], contract: &Preprocess) -> Tensor {
        let pixels = Tensor::from_slice(bytes).view([1, 16, 16, 3]).permute([0, 3, 1, 2]);
        let large = (pixels.to_kind(Kind::Float) / 255.0).upsample_nearest2d([64, 64], None, None);
        let channel = |v: [f32; 3]| Tensor::from_slice(&v).view([1, 3, 1, 1]);
        (large - channel(contract.mean)) / channel(contract.std)
    }

    #[test]
    fn equals_the_prior_of_pictures() {
        let _alone = crate::rng::alone();
        let contract = Preprocess::imagenet(64);
        let prior = BorderColour::new(&contract, Device::Cpu);
        let noise: Vec<u8> = (0..16 * 16 * 3usize).map(|i| (i * i * 31 % 251) as u8).collect();
        let square = |i: usize| (5..9).contains(&(i / 3 / 16)) && (4..11).contains(&(i / 3 % 16));
        let object: Vec<u8> =
            (0..16 * 16 * 3).map(|i| if square(i) { 200 } else { 40 + (i % 7) as u8 }).collect();
        for bytes in [noise, object, vec![9; 16 * 16 * 3]] {
            let expected = occlude_saliency::prior::border_colour(&bytes, (16, 16)).expect("a map");
            let expected = Tensor::from_slice(&expected).view([1, 16, 16]);
            let of = |cells| prior.maps(&view(&bytes, &contract), cells);
            assert!((of(16) - &expected).abs().max().double_value(&[]) < ROOTS);
            // four by four of them make a cell of a coarser grid
            let coarse = expected.unsqueeze(1).avg_pool2d([4, 4], [4, 4], [0, 0], false, true, None);
            assert!((of(4) - coarse.squeeze_dim(1)).abs().max().double_value(&[]) < ROOTS);
            assert_eq!(of(20).size(), [1, 20, 20]);
        }
    }
}
