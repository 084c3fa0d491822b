//! The plan of docs/cluster.md for 8 to 512 GPUs: what a step sends, counted on the networks, and how long that takes by a model
//! whose parameters the page states. Every row is computed here and has to be in the page.

use occlude_train::config::{Config, Recipe};
use occlude_train::method::{Method, build};
use tch::{Device, Kind};

/// Bytes of the last bucket of gradients, which nothing is left to hide.
const BUCKET: f64 = (25 << 20) as f64;

/// What connects processes.
struct Link {
    name: &'static str,
    /// Bytes a second, in and out of a process or, where it is slower, of a machine.
    bytes: f64,
    /// Seconds of one message.
    message: f64,
}

const NVLINK: Link = Link { name: "NVLink", bytes: 300e9, message: 5e-6 };
const LINKS: [Link; 3] = [
    Link { name: "400 Gbit/s for each GPU", bytes: 300e9, message: 10e-6 },
    Link { name: "400 Gbit/s for 8 GPUs", bytes: 40e9, message: 15e-6 },
    Link { name: "100 Gbit/s for 8 GPUs", bytes: 10e9, message: 20e-6 },
];

impl Link {
    fn latency(&self, n: f64) -> f64 {
        n.log2().ceil() * self.message
    }

    /// Seconds of a sum over `n` processes.
    fn sum(&self, bytes: f64, n: f64) -> f64 {
        2.0 * (self.latency(n) + (n - 1.0) / n * bytes / self.bytes)
    }

    /// Seconds in which each of `n` processes gets `bytes`, of which it has one part itself.
    fn gather(&self, bytes: f64, n: f64) -> f64 {
        self.latency(n) + (n - 1.0) / n * bytes / self.bytes
    }
}

/// What a step of one recipe sends and computes.
struct Step {
    name: &'static str,
    /// Pictures of a process.
    pictures: f64,
    /// Bytes of gradients.
    gradients: f64,
    /// Bytes of pictures and keys, or of projections, that are gathered for each picture of all processes.
    gathered: f64,
    /// Bytes that are summed at once behind the step: running statistics, centres.
    statistics: f64,
    /// Sums of statistics within the step, each of that many bytes on average.
    norms: (f64, f64),
    /// Seconds of a step alone, and the part of it in which gradients travel.
    seconds: f64,
    backward: f64,
}

/// The numbers that learn, and the running statistics.
fn numbers(method: &dyn Method) -> (f64, f64) {
    let learnt: usize = method.trainable().iter().map(|n| n.tensor.numel()).sum();
    let running = method.state().into_iter().filter(|n| n.name.contains(".running_"));
    (learnt as f64, running.map(|n| n.tensor.numel()).sum::<usize>() as f64)
}

/// Channels of the normalisations of the learning encoder, and how many normalisations there are.
fn norms(method: &dyn Method) -> (f64, f64) {
    let all = method.state().into_iter();
    let means: Vec<_> =
        all.filter(|n| n.name.starts_with("encoder_q.") && n.name.ends_with("running_mean")).collect();
    (means.iter().map(|n| n.tensor.numel()).sum::<usize>() as f64, means.len() as f64)
}

/// Multiplications and additions of one picture in the encoder of ResNet-50 at 224 px, as torchvision states them.
const RESNET50: f64 = 4.09e9;
/// The same of ViT-S/16, at 224 px and at 96 px: 12 blocks of 384 numbers over 197 and 37 tokens.
fn vit(tokens: f64) -> f64 {
    let (d, blocks) = (384.0, 12.0);
    blocks * (12.0 * d * d * tokens + 2.0 * tokens * tokens * d) + 3.0 * 256.0 * d * (tokens - 1.0)
}

fn steps() -> [Step; 3] {
    let moco = Config { image_size: 224, arch: "resnet50".into(), ..Config::new(Recipe::MocoV2) };
    let method = build(&moco, None, false, Device::Cpu).expect("built");
    let (learnt, running) = numbers(method.as_ref());
    let (channels, layers) = norms(method.as_ref());
    let (key, picture) = (4.0 * 128.0, 4.0 * 3.0 * 224.0 * 224.0);
    let pictures = 32.0;
    // the query forward and backward (twice a forward), the key forward
    let seconds = pictures * 4.0 * 2.0 * RESNET50 / 75e12;
    let shuffled = Step {
        name: "`moco-v2`, ResNet-50, `--bn-splits N`",
        pictures,
        gradients: 4.0 * learnt,
        gathered: picture + 2.0 * key,
        statistics: 4.0 * running,
        norms: (0.0, 0.0),
        seconds,
        backward: seconds / 2.0,
    };
    // forward of the query and of the key: two sums and a count in float64; backward of the query: two sums in float32
    let bytes = 2.0 * 8.0 * (2.0 * channels + layers) + 4.0 * 2.0 * channels;
    let joint = Step {
        name: "`moco-v2`, ResNet-50, `--bn-splits 1`",
        gathered: key,
        norms: (3.0 * layers, bytes / (3.0 * layers)),
        ..shuffled
    };
    let mut dino = Config { image_size: 224, ..Config::new(Recipe::Dino) };
    let method = build(&dino, None, false, Device::Cpu).expect("built");
    assert_eq!(dino.arch, "vit_small_patch16_224");
    let large = 2.0 * vit(197.0);
    let seconds = pictures * 2.0 * (3.0 * (large + 8.0 * vit(37.0)) + large) / 200e12;
    let prototypes = dino.method.dino_mut().expect("DINO").prototypes as f64;
    let dino = Step {
        name: "`dino`, ViT-S/16",
        pictures,
        gradients: 4.0 * numbers(method.as_ref()).0,
        gathered: 0.0,
        statistics: 4.0 * prototypes,
        norms: (0.0, 0.0),
        seconds,
        backward: seconds * 2.0 * (large + 8.0 * vit(37.0)) / (3.0 * (large + 8.0 * vit(37.0)) + large),
    };
    [shuffled, joint, dino]
}

impl Step {
    /// Bytes, for 64 processes.
    fn bytes(&self) -> String {
        let n = 64.0;
        format!(
            "| {} | {:.1} MB | {:.1} MB | {:.2} MB | {:.0} of {:.1} kB |",
            self.name,
            self.gradients / 1e6,
            self.gathered * self.pictures * n / 1e6,
            self.statistics / 1e6,
            self.norms.0,
            self.norms.1 / 1e3
        )
    }

    /// Milliseconds of `n` processes.
    fn row(&self, n: f64, link: &Link) -> String {
        let gradients = link.sum(self.gradients, n);
        let shown = link.sum(BUCKET.min(self.gradients), n).max(gradients - self.backward);
        let gathered =
            if self.gathered > 0.0 { link.gather(self.gathered * self.pictures * n, n) } else { 0.0 };
        let statistics = link.sum(self.statistics, n) + self.norms.0 * link.sum(self.norms.1, n);
        let all = shown + gathered + statistics;
        format!(
            "| {n}, {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} % |",
            link.name,
            gradients * 1e3,
            shown * 1e3,
            gathered * 1e3,
            statistics * 1e3,
            100.0 * self.seconds / (self.seconds + all)
        )
    }
}

#[test]
fn the_plan_of_the_page_is_what_the_networks_and_the_model_give() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cluster.md")).expect("read");
    let mut rows = Vec::new();
    for step in steps() {
        rows.push(step.bytes());
        rows.push(format!("takes {:.1} ms", step.seconds * 1e3));
        rows.push(step.row(8.0, &NVLINK));
        rows.extend(
            [64.0, 512.0]
                .iter()
                .flat_map(|&n| LINKS.iter().map(move |link| (n, link)))
                .map(|(n, link)| step.row(n, link)),
        );
    }
    let missing: Vec<_> = rows.iter().filter(|row| !page.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "docs/cluster.md lacks: {missing:#?}\nof\n{}", rows.join("\n"));
}

/// The counts of the encoders, against published ones.
#[test]
fn the_networks_have_their_published_sizes() {
    let arch: occlude_encoder::Arch = "resnet50".parse().expect("known");
    let encoder = occlude_train::model::Encoder::new(arch, 0, Device::Cpu);
    let learnt: usize = encoder.trainable().iter().map(tch::Tensor::numel).sum();
    assert_eq!(learnt, 23_508_032);
    assert!(encoder.trainable().iter().all(|t| t.kind() == Kind::Float), "four bytes each");
    // timm's 4.6 GMACs
    assert!((vit(197.0) / 4.6e9 - 1.0).abs() < 0.02, "{}", vit(197.0));
}
