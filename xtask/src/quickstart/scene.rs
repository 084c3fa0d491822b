//! Scenes: an emoji somewhere on a ground of two colours, of another size, at another angle and elsewhere every time.
//!
//! What is the same in all scenes of one emoji is the emoji alone. A template that is laid over the picture does not
//! find it; a representation that does not care where things are, how large and on what, does.

use std::f32::consts::TAU;

/// Side of a scene, pixels.
pub(super) const SIDE: usize = 80;
/// Side of the emoji as a share of the scene's.
const SIZE: [f32; 2] = [0.45, 0.75];
/// Most degrees that it is turned by, either way.
const ANGLE: f32 = 25.0;
/// Share of the scene around its middle that the emoji does not leave.
const PLACE: f32 = 0.9;

/// A small reproducible generator (splitmix64, <https://doi.org/10.1145/2714064.2660195>).
pub(super) struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from `low` to `high`.
    fn between(&mut self, low: f32, high: f32) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 24 bits, as many as a float holds.
        let unit = ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32;
        low + unit * (high - low)
    }

    fn chance(&mut self, p: f32) -> bool {
        self.between(0.0, 1.0) < p
    }
}

/// A picture with transparency, row-major, four bytes a pixel.
pub(super) struct Rgba {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) data: Vec<u8>,
}

impl Rgba {
    /// Colours times opacity, and opacity, all 0..1; nothing outside.
    fn pixel(&self, x: i64, y: i64) -> [f32; 4] {
        let within = |at: i64, sides: usize| usize::try_from(at).ok().filter(|&at| at < sides);
        let at = within(x, self.width).zip(within(y, self.height)).map(|(x, y)| (y * self.width + x) * 4);
        match at.and_then(|at| self.data.get(at..at + 4)) {
            Some(&[r, g, b, a]) => {
                let opacity = f32::from(a) / 255.0;
                [r, g, b, 255].map(|v| f32::from(v) / 255.0 * opacity)
            }
            _ => [0.0; 4],
        }
    }

    /// Between the four pixels around a point; whole numbers are the middles of pixels.
    fn sample(&self, x: f32, y: f32) -> [f32; 4] {
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = (x - left, y - top);
        let mut sum = [0.0; 4];
        for (dx, dy, weight) in [
            (0, 0, (1.0 - fx) * (1.0 - fy)),
            (1, 0, fx * (1.0 - fy)),
            (0, 1, (1.0 - fx) * fy),
            (1, 1, fx * fy),
        ] {
            let pixel = self.pixel(left as i64 + dx, top as i64 + dy);
            sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += weight * value);
        }
        sum
    }
}

/// Two colours in waves, smooth or with edges.
struct Ground {
    /// Along x and y, and where each wave begins.
    waves: [[f32; 3]; 3],
    colours: [[f32; 3]; 2],
    /// Steepness of the passage from one colour to the other.
    edge: f32,
}

impl Ground {
    fn new(random: &mut Random) -> Self {
        let waves = [0; 3].map(|_| {
            let (cycles, direction) = (random.between(0.3, 3.0), random.between(0.0, TAU));
            let along = [direction.cos(), direction.sin()].map(|v| TAU * cycles * v / SIDE as f32);
            [along[0], along[1], random.between(0.0, TAU)]
        });
        let edge = if random.chance(0.4) { 8.0 } else { 1.0 };
        Self { waves, colours: [0; 2].map(|_| colour(random)), edge }
    }

    fn at(&self, x: f32, y: f32) -> [f32; 3] {
        let sum: f32 = self.waves.iter().map(|[kx, ky, phase]| (kx * x + ky * y + phase).cos()).sum();
        let share = (sum / 6.0 * self.edge + 0.5).clamp(0.0, 1.0);
        std::array::from_fn(|c| self.colours[0][c] * (1.0 - share) + self.colours[1][c] * share)
    }
}

/// Any hue, neither grey nor black.
fn colour(random: &mut Random) -> [f32; 3] {
    let (hue, saturation, value) =
        (random.between(0.0, 6.0), random.between(0.1, 0.8), random.between(0.3, 1.0));
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + hue) % 6.0;
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

/// Draws a scene of `emoji`: [`SIDE`] squared, three bytes a pixel.
pub(super) fn draw(emoji: &Rgba, random: &mut Random) -> Vec<u8> {
    let ground = Ground::new(random);
    let side = SIDE as f32;
    let size = side * random.between(SIZE[0], SIZE[1]);
    let scale = emoji.width.max(emoji.height).max(1) as f32 / size;
    let (sin, cos) = random.between(-ANGLE, ANGLE).to_radians().sin_cos();
    let mirror = if random.chance(0.5) { -1.0 } else { 1.0 };
    let room = ((PLACE * side - size) / 2.0).max(0.0);
    let [cx, cy] = [0; 2].map(|_| side / 2.0 + random.between(-room, room));
    let mut pixels = Vec::with_capacity(SIDE * SIDE * 3);
    for (x, y) in (0..SIDE * SIDE).map(|i| ((i % SIDE) as f32, (i / SIDE) as f32)) {
        let (dx, dy) = (x + 0.5 - cx, y + 0.5 - cy);
        // Back to where the emoji has this pixel.
        let (u, v) = (mirror * (cos * dx + sin * dy), cos * dy - sin * dx);
        let over = emoji
            .sample(u * scale + emoji.width as f32 / 2.0 - 0.5, v * scale + emoji.height as f32 / 2.0 - 0.5);
        let under = ground.at(x, y);
        pixels.extend((0..3).map(|c| {
            let grain = random.between(-0.05, 0.05);
            let value = over[c] + (under[c] + grain).clamp(0.0, 1.0) * (1.0 - over[3]);
            (value * 255.0).round().clamp(0.0, 255.0) as u8
        }));
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn red(width: usize, height: usize) -> Rgba {
        Rgba { width, height, data: [255, 0, 0, 255].repeat(width * height) }
    }

    #[test]
    fn points_between_pixels_are_mixed_and_the_outside_is_clear() {
        let mut two = red(2, 1);
        two.data[4..8].copy_from_slice(&[0, 0, 255, 0]);
        assert_eq!(two.sample(0.0, 0.0), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(two.sample(0.5, 0.0), [0.5, 0.0, 0.0, 0.5], "what is transparent has no colour");
        assert_eq!(two.sample(0.0, -0.5), [0.5, 0.0, 0.0, 0.5]);
        assert_eq!(two.sample(-3.0, 9.0), [0.0; 4]);
    }

    #[test]
    fn an_emoji_lies_whole_in_a_scene_and_elsewhere_in_the_next() {
        let emoji = red(64, 64);
        let mut middles = Vec::new();
        for seed in 0..20 {
            let scene = draw(&emoji, &mut Random::new(seed));
            assert_eq!(scene.len(), SIDE * SIDE * 3);
            let covered: Vec<usize> =
                (0..SIDE * SIDE).filter(|i| scene[3 * i..3 * i + 3] == [255, 0, 0]).collect();
            let share = covered.len() as f32 / (SIDE * SIDE) as f32;
            assert!((0.15..0.6).contains(&share), "{share} of it is the emoji");
            let mean =
                |f: &dyn Fn(usize) -> usize| covered.iter().map(|&i| f(i)).sum::<usize>() / covered.len();
            middles.push((mean(&|i| i % SIDE), mean(&|i| i / SIDE)));
            assert_eq!(draw(&emoji, &mut Random::new(seed)), scene, "the same on every machine");
        }
        middles.sort_unstable();
        middles.dedup();
        assert!(middles.len() > 10, "{middles:?}");
    }

    #[test]
    fn colours_are_those_of_the_colour_wheel() {
        let all: Vec<[f32; 3]> = (0..500).map(|seed| colour(&mut Random::new(seed))).collect();
        assert!(all.iter().flatten().all(|v| (0.0..=1.0).contains(v)));
        for channel in 0..3 {
            let strongest = all.iter().filter(|c| c.iter().all(|v| *v <= c[channel])).count();
            assert!((100..250).contains(&strongest), "{strongest} of 500");
        }
    }
}
