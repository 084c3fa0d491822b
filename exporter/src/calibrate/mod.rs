//! The ranges of an encoder's activations on real pictures, which static quantisation needs.

mod histogram;
mod products;

use std::collections::BTreeMap;
use std::path::PathBuf;

use occlude_contract::InputKind;
use occlude_encoder::{Graph, NodeId};

use crate::Error;
use crate::onnx::{self, Network};
use crate::pictures::Pictures;
pub use crate::ranges::{Calibration, Method, Range, Smoothing};
use crate::runtime::Session;
use histogram::Histogram;
use products::{Extents, Lengths, Product, products, smoothable};

/// Pictures that are run at once; all activations of these are in memory together.
const BATCH: usize = 4;

/// A product stays in floating point where rounding what goes into it would change what comes out by more than this share
/// of its length. The networks with outliers put in that docs/transformers.md lists keep a cosine of 0.998 with it.
const COARSE: f64 = 0.1;

/// Where ranges come from.
#[derive(Clone, Debug)]
pub struct CalibrationOptions {
    /// Pictures, or folders of them, as the encoder will see later.
    pub pictures: Vec<PathBuf>,
    /// Most pictures of each folder, spread evenly; `None` takes all.
    pub limit: Option<usize>,
    /// How a range follows from values.
    pub method: Method,
}

/// Runs the encoder in single precision in ONNX Runtime and watches its activations. `progress` gets
/// the pictures done and all of them.
///
/// # Errors
/// [`Error`] where not one picture can be used, and where ONNX Runtime is missing or fails.
pub fn calibrate(
    network: Network<'_>,
    input: InputKind,
    options: &CalibrationOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, Error> {
    let graph = Graph::new(network.encoder.arch);
    match graph.arch.vit() {
        Some(_) => of_products(&Run { network, input, options }, &graph, progress),
        None => of_units(&Run { network, input, options }, &graph, progress),
    }
}

/// Of a ResNet.
fn of_units(
    run: &Run<'_>,
    graph: &Graph,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, Error> {
    let nodes = onnx::quantized_inputs(graph);
    let smoothing = Smoothing::new();
    let mut histograms = vec![Histogram::default(); nodes.len()];
    let take = &mut |at: usize, values: &[f32]| histograms[at].add(values);
    let pictures = run.watch(&nodes, &smoothing, take, progress)?;
    let range = |(&id, histogram): (&NodeId, &Histogram)| {
        (graph.nodes[id].name.clone(), histogram.range(run.options.method))
    };
    let ranges = nodes.iter().zip(&histograms).map(range).collect();
    Ok(calibration(run.options.method, pictures, ranges))
}

/// Of a vision transformer: the pictures are looked at once for factors of channels, and once with them.
fn of_products(
    run: &Run<'_>,
    graph: &Graph,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, Error> {
    let (encoder, products) = (run.network.encoder, products(graph));
    let mut first = |done, all| progress(done, 2 * all);
    let mut seen: Vec<(&Product, Extents)> =
        smoothable(&products).map(|product| (product, Extents::default())).collect();
    let nodes: Vec<NodeId> = seen.iter().map(|(product, _)| product.from).collect();
    let take = &mut |at: usize, values: &[f32]| {
        let (product, extents): &mut (&Product, Extents) = &mut seen[at];
        extents.add(values, product.inputs);
    };
    run.watch(&nodes, &Smoothing::new(), take, &mut first)?;
    let smoothing = products::smoothing(encoder, &seen)?;

    let mut second = |done, all| progress(all + done, 2 * all);
    let mut seen = vec![(Histogram::default(), Lengths::default()); products.len()];
    let nodes: Vec<NodeId> = products.iter().flat_map(|product| [product.from, product.node]).collect();
    let take = &mut |at: usize, values: &[f32]| match (at % 2, &mut seen[at / 2]) {
        (0, (histogram, _)) => histogram.add(values),
        (_, (_, lengths)) => lengths.add(values, products[at / 2].outputs),
    };
    let pictures = run.watch(&nodes, &smoothing, take, &mut second)?;
    let mut found = calibration(run.options.method, pictures, BTreeMap::new());
    for (product, (histogram, lengths)) in products.iter().zip(&seen) {
        let from = &graph.nodes[product.from].name;
        let range = histogram.range(run.options.method);
        let loss = products::loss(encoder, product, (range, smoothing.get(from)), lengths);
        if loss > COARSE {
            found.notes.push(format!(
                "`{}` stays in floating point: 8 bits would change its output by {:.0} % of its length",
                product.name,
                100.0 * loss
            ));
            found.coarse.insert(product.name.clone(), loss);
        }
        found.ranges.insert(from.clone(), range);
    }
    Ok(Calibration { smoothing, ..found })
}

fn calibration(method: Method, pictures: Pictures, ranges: BTreeMap<String, Range>) -> Calibration {
    let skipped = pictures.skipped();
    Calibration {
        ranges,
        smoothing: Smoothing::new(),
        coarse: BTreeMap::new(),
        method,
        pictures: pictures.paths.len() - skipped,
        skipped,
        notes: pictures.notes,
    }
}

/// What is calibrated, and with which pictures.
struct Run<'a> {
    network: Network<'a>,
    input: InputKind,
    options: &'a CalibrationOptions,
}

impl Run<'_> {
    /// Runs the encoder on all pictures; `take` gets the place of each node in the list, and values.
    fn watch(
        &self,
        nodes: &[NodeId],
        smoothing: &Smoothing,
        take: &mut dyn FnMut(usize, &[f32]),
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Pictures, Error> {
        let mut pictures = Pictures::expand(&self.options.pictures, self.options.limit)?;
        let all = pictures.paths.len();
        let (values, model) = onnx::observed(self.network, self.input, nodes, smoothing)?;
        let mut bytes = Vec::new();
        model.write_to(&mut bytes).map_err(|reason| Error::Write { path: "memory".into(), reason })?;
        let mut session = Session::from_bytes(&bytes)?;
        drop(bytes);
        for start in (0..all).step_by(BATCH) {
            let end = all.min(start + BATCH);
            let (inputs, _) = pictures.load(start..end, self.network.contract, self.input);
            if inputs.len() > 0 {
                session.run(&inputs.batch(0..inputs.len()), &values, take)?;
            }
            progress(end, all);
        }
        pictures.not_all_broken()?;
        Ok(pictures)
    }
}

impl Histogram {
    fn range(&self, method: Method) -> Range {
        match method {
            Method::MinMax => self.extremes(),
            Method::Percentile(percent) => self.percentile(percent / 100.0),
            Method::Entropy => self.entropy(),
        }
    }
}
