//! Vision transformers as values.

use std::fmt;
use std::str::FromStr;

/// The shape of a vision transformer with pre-normalised blocks. Names, parameter paths and shapes are timm's.
///
/// ViT: <https://arxiv.org/abs/2010.11929>; DeiT's small and tiny ones: <https://arxiv.org/abs/2012.12877>; DINOv2's layer
/// scale and gated perceptrons: <https://arxiv.org/abs/2304.07193>; register tokens: <https://arxiv.org/abs/2309.16588>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vit {
    /// Length of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of attention; they divide the width.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Patches along a side that its positions were learnt for.
    pub grid: usize,
    /// Tokens that nothing reads in the end.
    pub registers: usize,
    /// Whether the class token has a position of its own.
    pub class_position: bool,
    /// Whether what blocks add is scaled by channel.
    pub layer_scale: bool,
    /// Whether blocks have SwiGLU in place of a perceptron with GELU (<https://arxiv.org/abs/2002.05202>).
    pub gated: bool,
    /// The normalisations' epsilon is ten to the power of minus this.
    pub eps: u8,
}

/// A size that has a name.
struct Size {
    name: &'static str,
    width: usize,
    depth: usize,
    heads: usize,
}

const SIZES: [Size; 6] = [
    Size { name: "tiny", width: 192, depth: 12, heads: 3 },
    Size { name: "small", width: 384, depth: 12, heads: 6 },
    Size { name: "base", width: 768, depth: 12, heads: 12 },
    Size { name: "large", width: 1024, depth: 24, heads: 16 },
    Size { name: "huge", width: 1280, depth: 32, heads: 16 },
    Size { name: "giant", width: 1536, depth: 40, heads: 24 },
];

/// Largest numbers of any published network, with room to spare: names and files beyond them are broken.
const LARGEST: [(&str, usize); 6] =
    [("width", 1 << 13), ("depth", 128), ("heads", 256), ("patch", 128), ("grid", 512), ("registers", 256)];

/// Pictures that positions are learnt for, where the name does not say it.
const IMAGE: usize = 224;

/// The usual epsilon, as its negative power of ten.
const EPS: u8 = 6;

impl Vit {
    /// The plain one of a width, depth and number of heads, for pictures of 224 pixels.
    pub fn new(width: usize, depth: usize, heads: usize, patch: usize) -> Self {
        Self {
            width,
            depth,
            heads,
            patch,
            grid: IMAGE / patch.max(1),
            registers: 0,
            class_position: true,
            layer_scale: false,
            gated: false,
            eps: EPS,
        }
    }

    /// The heads that a network of this width and depth has, where it is a known one; else one for every 64 channels.
    pub fn usual_heads(width: usize, depth: usize) -> usize {
        let size = SIZES.iter().find(|size| (size.width, size.depth) == (width, depth));
        size.map_or((width / 64).max(1), |size| size.heads)
    }

    /// Tokens before those of patches: the class token and the registers.
    pub fn prefix(self) -> usize {
        1 + self.registers
    }

    /// Channels inside of a block's perceptron: four times the width, or for a gated one two thirds of that in whole
    /// eights, as DINOv2 has it.
    pub fn hidden(self) -> usize {
        match self.gated {
            true => (4 * self.width * 2 / 3).next_multiple_of(8),
            false => 4 * self.width,
        }
    }

    /// Side of the pictures that its positions were learnt for, in pixels.
    pub fn image(self) -> usize {
        self.grid * self.patch
    }

    /// The network whose parameters have these shapes; `None` where the patches or positions are missing or odd. Heads
    /// and epsilon are not in the weights: they are the usual ones.
    pub fn of_shapes<'s>(shape: impl Fn(&str) -> Option<&'s [usize]>) -> Option<Self> {
        let &[width, 3, patch, _] = shape("patch_embed.proj.weight")? else { return None };
        let &[1, positions, _] = shape("pos_embed")? else { return None };
        let depth = (0..).take_while(|i| shape(&format!("blocks.{i}.norm1.weight")).is_some()).count();
        let registers = match shape("reg_token") {
            Some(&[1, count, _]) => count,
            _ => 0,
        };
        let class_position = positions.isqrt().pow(2) != positions;
        let channels = |name: &str, axis: usize| shape(name)?.get(axis).copied();
        let wide = channels("blocks.0.mlp.fc1.weight", 0)?;
        let hidden = channels("blocks.0.mlp.fc2.weight", 1)?;
        let vit = Self {
            grid: positions.saturating_sub(usize::from(class_position)).isqrt(),
            registers,
            class_position,
            layer_scale: shape("blocks.0.ls1.gamma").is_some(),
            gated: wide == hidden.saturating_mul(2),
            ..Self::new(width, depth, Self::usual_heads(width, depth), patch)
        };
        vit.check().is_ok().then_some(vit)
    }

    /// Says what is impossible.
    ///
    /// # Errors
    /// A sentence with the number.
    pub fn check(self) -> Result<(), String> {
        let Self { width, depth, heads, patch, grid, registers, .. } = self;
        let numbers = [width, depth, heads, patch, grid, registers];
        for ((name, most), (value, least)) in
            LARGEST.into_iter().zip(numbers.into_iter().zip([1, 1, 1, 1, 1, 0]))
        {
            if !(least..=most).contains(&value) {
                return Err(format!("a {name} of {value}: expected {least} to {most}"));
            }
        }
        if !width.is_multiple_of(heads) {
            return Err(format!("{heads} heads do not divide a width of {width}"));
        }
        Ok(())
    }
}

/// `vit_small_patch14_reg4_ls_518`: size, patch, what is unusual, side of the pictures. A size without a name is its width,
/// depth and heads: `vit_32x2x4_patch8_32`.
impl fmt::Display for Vit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, depth, heads, patch, registers, .. } = *self;
        match SIZES.iter().find(|s| (s.width, s.depth, s.heads) == (width, depth, heads)) {
            Some(size) => write!(f, "vit_{}_patch{patch}", size.name)?,
            None => write!(f, "vit_{width}x{depth}x{heads}_patch{patch}")?,
        }
        if registers > 0 {
            write!(f, "_reg{registers}")?;
        }
        for (is, name) in
            [(self.layer_scale, "ls"), (self.gated, "swiglu"), (!self.class_position, "patchpos")]
        {
            if is {
                write!(f, "_{name}")?;
            }
        }
        if self.eps != EPS {
            write!(f, "_eps{}", self.eps)?;
        }
        write!(f, "_{}", self.image())
    }
}

impl FromStr for Vit {
    type Err = String;

    /// Reads names as they are shown, and timm's: `deit_small_patch16_224`, `vit_small_patch14_reg4_dinov2`, both with
    /// the name of weights behind a dot.
    fn from_str(name: &str) -> Result<Self, String> {
        let bare = name.split_once('.').map_or(name, |(bare, _)| bare);
        let mut parts = bare.split('_');
        let kind = parts.next().unwrap_or_default();
        let size = parts.next().and_then(size);
        let patch = parts.next().and_then(|part| number(part, "patch"));
        let (true, Some([width, depth, heads]), Some(patch)) = (["vit", "deit"].contains(&kind), size, patch)
        else {
            return Err("expected a name like `vit_small_patch16_224`".to_owned());
        };
        let mut vit = Self::new(width, depth, heads, patch);
        let mut image = IMAGE;
        for part in parts {
            vit.take(part, &mut image)?;
        }
        vit.grid = image / patch.max(1);
        vit.check()?;
        match vit.image() == image {
            true => Ok(vit),
            false => Err(format!("patches of {patch} pixels do not fill {image}")),
        }
    }
}

impl Vit {
    /// One word of a name behind size and patch.
    fn take(&mut self, part: &str, image: &mut usize) -> Result<(), String> {
        match part {
            "ls" => self.layer_scale = true,
            "swiglu" => self.gated = true,
            "patchpos" => self.class_position = false,
            // timm keeps the positions of class tokens apart where there are registers
            "dinov2" => {
                (self.layer_scale, *image) = (true, 518);
                self.gated = self.width == 1536;
                self.class_position = self.registers == 0;
            }
            _ => {
                if let Some(registers) = number(part, "reg") {
                    self.registers = registers;
                } else if let Some(eps) = number(part, "eps").and_then(|n| u8::try_from(n).ok()) {
                    self.eps = eps;
                } else if let Ok(side) = part.parse() {
                    *image = side;
                } else {
                    return Err(format!("unknown part `{part}`"));
                }
            }
        }
        Ok(())
    }
}

/// Width, depth and heads.
fn size(text: &str) -> Option<[usize; 3]> {
    if let Some(size) = SIZES.iter().find(|size| size.name == text) {
        return Some([size.width, size.depth, size.heads]);
    }
    let numbers: Vec<usize> = text.split('x').map(str::parse).collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

/// The number behind a word.
fn number(part: &str, word: &str) -> Option<usize> {
    part.strip_prefix(word)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        let small = Vit::new(384, 12, 6, 16);
        let dinov2 = Vit { grid: 37, layer_scale: true, ..Vit::new(384, 12, 6, 14) };
        for (name, vit) in [
            ("vit_small_patch16_224", small),
            ("vit_small_patch16_64", Vit { grid: 4, ..small }),
            ("vit_small_patch14_ls_518", dinov2),
            ("vit_small_patch14_reg4_ls_518", Vit { registers: 4, ..dinov2 }),
            ("vit_small_patch14_reg4_ls_patchpos_518", Vit { registers: 4, class_position: false, ..dinov2 }),
            ("vit_giant_patch14_swiglu_224", Vit { gated: true, ..Vit::new(1536, 40, 24, 14) }),
            ("vit_32x2x4_patch8_eps12_32", Vit { grid: 4, eps: 12, ..Vit::new(32, 2, 4, 8) }),
        ] {
            assert_eq!(name.parse(), Ok(vit), "{name}");
            assert_eq!(vit.to_string(), name);
        }
    }

    #[test]
    fn the_names_of_timm_are_read() {
        for (theirs, ours) in [
            ("vit_base_patch8_224.dino", "vit_base_patch8_224"),
            ("deit_tiny_patch16_224", "vit_tiny_patch16_224"),
            ("vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_ls_518"),
            ("vit_small_patch14_reg4_dinov2", "vit_small_patch14_reg4_ls_patchpos_518"),
            ("vit_giant_patch14_dinov2", "vit_giant_patch14_ls_swiglu_518"),
            ("vit_small_patch16", "vit_small_patch16_224"),
        ] {
            assert_eq!(theirs.parse::<Vit>().map(|vit| vit.to_string()).as_deref(), Ok(ours), "{theirs}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_its_reason() {
        for (name, reason) in [
            ("vit_small", "like `vit_small_patch16_224`"),
            ("swin_small_patch16_224", "like `vit_small_patch16_224`"),
            ("vit_mini_patch16_224", "like `vit_small_patch16_224`"),
            ("vit_small_patch0_224", "a patch of 0: expected 1 to 128"),
            ("vit_small_patch16_100", "patches of 16 pixels do not fill 100"),
            ("vit_small_patch16_clip_224", "unknown part `clip`"),
            ("vit_32x2x5_patch8_32", "5 heads do not divide a width of 32"),
            ("vit_99999x2x3_patch8_32", "a width of 99999"),
            ("vit_small_patch16_0", "a grid of 0"),
        ] {
            let error = name.parse::<Vit>().expect_err(name);
            assert!(error.contains(reason), "{name}: {error}");
        }
    }

    #[test]
    fn shapes_tell_the_network() {
        for name in [
            "vit_tiny_patch16_224",
            "vit_base_patch8_64",
            "vit_small_patch14_reg4_ls_518",
            "vit_small_patch14_reg4_ls_patchpos_518",
            "vit_giant_patch14_ls_swiglu_518",
        ] {
            let vit: Vit = name.parse().expect("a network");
            let params = crate::Graph::new(crate::Arch::Vit(vit)).params();
            let shape = |name: &str| params.iter().find(|p| p.name == name).map(|p| p.shape.as_slice());
            assert_eq!(Vit::of_shapes(shape), Some(vit), "{name}");
            assert_eq!(Vit::of_shapes(|name| shape(name).filter(|_| name != "pos_embed")), None);
        }
    }

    #[test]
    fn gated_perceptrons_have_dinov2s_width() {
        assert_eq!(Vit { gated: true, ..Vit::new(1536, 40, 24, 14) }.hidden(), 4096);
        assert_eq!(Vit::new(384, 12, 6, 16).hidden(), 1536);
        assert_eq!(
            [Vit::usual_heads(768, 12), Vit::usual_heads(1280, 32), Vit::usual_heads(128, 4)],
            [12, 16, 2]
        );
    }
}
