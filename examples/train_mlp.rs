//! Trains one small network on handwritten digits four times: in float, and with quantised
//! products: int8 forward, int8 forward and backward, int4 forward and backward.
//!
//!     cargo run --release --example train_mlp [CURVES.svg]
//!
//! Prints the accuracies and draws the curves. Initial weights, batches and learning rate are the same each time; only
//! the dot_general differs. At the end the weights are frozen, saved, loaded and served, and give the same bits.

use imma::npy;
use imma::ops::{
    matmul_vjp, DimensionNumbers, DotGeneral, FloatDotGeneral, FrozenOperand, Precision,
    QuantDotGeneral,
};
use ndarray::{s, Array1, Array2, ArrayView2, Axis, Ix2};
use plotters::prelude::*;
use std::error::Error;
use std::time::Instant;

/// Pixels, two hidden layers, digits.
const WIDTHS: [usize; 4] = [64, 128, 64, 10];
const EPOCHS: usize = 40;
const BATCH: usize = 32;
const RATE: f32 = 0.02;
const MOMENTUM: f32 = 0.9;
/// How many of the 1797 images; the others are for testing.
const TRAINING: usize = 1437;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let curves = std::env::args().nth(1);
    let curves = curves.unwrap_or_else(|| "train_mlp.svg".into());
    let digits = Digits::load()?;
    let full = |bits| -> Result<_> {
        let nearest = QuantDotGeneral::fully_quantized(bits, bits)?;
        Ok(Box::new(nearest.stochastic_gradients(1)))
    };
    let kinds = [
        Kind::Float,
        Kind::Quantized(
            "int8 forward and dx, float dW (v3)",
            QuantDotGeneral::v3().into(),
        ),
        Kind::Quantized("int8 forward and backward, stochastic", full(8)?),
        Kind::Quantized("int4 forward and backward, stochastic", full(4)?),
    ];
    let mut runs = vec![];
    for kind in &kinds {
        let start = Instant::now();
        let run = train(kind, &digits)?;
        println!(
            "{:<40} test accuracy {:.1} %, training loss {:.4}, {:.1} s",
            kind.name(),
            100.0 * run.accuracy[EPOCHS - 1],
            run.loss[EPOCHS - 1],
            start.elapsed().as_secs_f64()
        );
        runs.push((kind.name(), run));
    }
    draw(&curves, &runs)?;
    println!("curves: {curves}");

    let served = serve(&kinds[2], &runs[2].1.network, &digits)?;
    println!(
        "frozen to int8, saved, loaded, served: test accuracy {:.1} %, the bits of the unfrozen network",
        100.0 * served
    );
    Ok(())
}

/// What the network multiplies with.
enum Kind {
    Float,
    Quantized(&'static str, Box<QuantDotGeneral>),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Float => "float",
            Kind::Quantized(name, _) => name,
        }
    }

    /// The dot_general of one layer in one step: stochastic rounding needs new random numbers in each.
    fn at(&self, step: usize, layer: usize) -> Box<dyn DotGeneral<f32>> {
        match self {
            Kind::Float => Box::new(FloatDotGeneral),
            Kind::Quantized(_, dot_general) => {
                Box::new(dot_general.at_step((step * WIDTHS.len() + layer) as u64))
            }
        }
    }
}

/// Images with pixels in 0..1 and their digits, shuffled.
struct Digits {
    images: Array2<f32>,
    labels: Vec<usize>,
}

impl Digits {
    fn load() -> Result<Self> {
        let read = |name: &str| {
            let path = format!("{}/examples/data/{name}", env!("CARGO_MANIFEST_DIR"));
            match npy::read(path)? {
                npy::NpyArray::I8(array) => Ok(array),
                other => Err(format!("{name} holds {}, not int8", other.dtype()).into()),
            }
        };
        let read = |name: &str| -> Result<ndarray::ArrayD<i8>> { read(name) };
        let images = read("digits_images.npy")?.into_dimensionality::<Ix2>()?;
        let labels = read("digits_labels.npy")?;
        let mut order: Vec<usize> = (0..images.nrows()).collect();
        Random(7).shuffle(&mut order);
        Ok(Digits {
            images: images.mapv(|x| f32::from(x) / 16.0).select(Axis(0), &order),
            labels: order.iter().map(|&i| labels[[i]] as usize).collect(),
        })
    }

    fn test(&self) -> (ArrayView2<'_, f32>, &[usize]) {
        (
            self.images.slice(s![TRAINING.., ..]),
            &self.labels[TRAINING..],
        )
    }
}

/// xorshift64*: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }

    fn uniform(&mut self) -> f32 {
        self.next() as f32 / 4_294_967_296.0
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.next() as usize % (i + 1));
        }
    }
}

#[derive(Clone)]
struct Layer {
    weight: Array2<f32>,
    bias: Array1<f32>,
    weight_velocity: Array2<f32>,
    bias_velocity: Array1<f32>,
}

/// Layers with ReLU between them.
#[derive(Clone)]
struct Network(Vec<Layer>);

struct Run {
    loss: Vec<f32>,
    accuracy: Vec<f32>,
    network: Network,
}

impl Network {
    fn new(random: &mut Random) -> Self {
        let layer = |inputs: usize, outputs: usize, random: &mut Random| {
            let range = (6.0 / inputs as f32).sqrt();
            let shape = (inputs, outputs);
            Layer {
                weight: Array2::from_shape_simple_fn(shape, || {
                    range * (2.0 * random.uniform() - 1.0)
                }),
                bias: Array1::zeros(outputs),
                weight_velocity: Array2::zeros(shape),
                bias_velocity: Array1::zeros(outputs),
            }
        };
        Network(
            WIDTHS
                .windows(2)
                .map(|w| layer(w[0], w[1], random))
                .collect(),
        )
    }

    /// Takes one step down the gradient of the mean cross entropy; returns the loss before it.
    fn step(&mut self, kind: &Kind, step: usize, x: Array2<f32>, labels: &[usize]) -> Result<f32> {
        let last = self.0.len() - 1;
        let mut x = x;
        let mut layers = vec![];
        for (i, layer) in self.0.iter().enumerate() {
            let dot_general = kind.at(step, i);
            let (y, back) = matmul_vjp(
                x.view(),
                layer.weight.view(),
                Precision::Default,
                &*dot_general,
            )?;
            let y = y.into_dimensionality::<Ix2>()? + &layer.bias;
            layers.push((back, y.mapv(|y| f32::from(y > 0.0 || i == last))));
            x = if i == last { y } else { y.mapv(|y| y.max(0.0)) };
        }
        let (loss, mut g) = cross_entropy(x, labels);
        for (layer, (back, passes)) in self.0.iter_mut().zip(layers).rev() {
            g *= &passes;
            let (dx, dw) = back.backward(g.view().into_dyn())?;
            layer.weight_velocity *= MOMENTUM;
            layer.weight_velocity += &dw.into_dimensionality::<Ix2>()?;
            layer.bias_velocity *= MOMENTUM;
            layer.bias_velocity += &g.sum_axis(Axis(0));
            layer.weight.scaled_add(-RATE, &layer.weight_velocity);
            layer.bias.scaled_add(-RATE, &layer.bias_velocity);
            g = dx.into_dimensionality()?;
        }
        Ok(loss)
    }

    /// The scores of each digit, with `product` multiplying by the i-th weight.
    fn scores(
        &self,
        x: ArrayView2<'_, f32>,
        product: impl Fn(usize, ArrayView2<'_, f32>) -> Result<Array2<f32>>,
    ) -> Result<Array2<f32>> {
        let mut x = x.to_owned();
        for (i, layer) in self.0.iter().enumerate() {
            let y = product(i, x.view())? + &layer.bias;
            x = if i + 1 == self.0.len() {
                y
            } else {
                y.mapv(|y| y.max(0.0))
            };
        }
        Ok(x)
    }

    fn predict(&self, kind: &Kind, x: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let dims = DimensionNumbers::matmul();
        self.scores(x, |i, x| {
            let (x, w) = (x.into_dyn(), self.0[i].weight.view().into_dyn());
            let y = kind.at(0, i).dot_general(x, w, &dims, Precision::Default)?;
            Ok(y.into_dimensionality()?)
        })
    }
}

/// The mean over the rows of -log softmax at the label, and its gradient.
fn cross_entropy(scores: Array2<f32>, labels: &[usize]) -> (f32, Array2<f32>) {
    let mut g = scores;
    let (mut loss, rows) = (0.0, labels.len() as f32);
    for (mut row, &label) in g.rows_mut().into_iter().zip(labels) {
        let max = row.fold(f32::MIN, |m, x| m.max(*x));
        row.mapv_inplace(|x| (x - max).exp());
        let sum = row.sum();
        row /= sum;
        loss -= row[label].max(f32::MIN_POSITIVE).ln();
        row[label] -= 1.0;
        row /= rows;
    }
    (loss / rows, g)
}

fn accuracy(scores: &Array2<f32>, labels: &[usize]) -> f32 {
    let right = scores
        .rows()
        .into_iter()
        .zip(labels)
        .filter(|(row, label)| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.is_some_and(|(digit, _)| digit == **label)
        });
    right.count() as f32 / labels.len() as f32
}

fn train(kind: &Kind, digits: &Digits) -> Result<Run> {
    let mut random = Random(42);
    let mut network = Network::new(&mut random);
    let (mut losses, mut accuracies) = (vec![], vec![]);
    let mut order: Vec<usize> = (0..TRAINING).collect();
    let (test, test_labels) = digits.test();
    let mut step = 0;
    for _ in 0..EPOCHS {
        random.shuffle(&mut order);
        let mut sum = 0.0;
        for batch in order.chunks(BATCH) {
            let x = digits.images.select(Axis(0), batch);
            let labels: Vec<usize> = batch.iter().map(|&i| digits.labels[i]).collect();
            sum += network.step(kind, step, x, &labels)? * batch.len() as f32;
            step += 1;
        }
        losses.push(sum / TRAINING as f32);
        accuracies.push(accuracy(&network.predict(kind, test)?, test_labels));
    }
    Ok(Run {
        loss: losses,
        accuracy: accuracies,
        network,
    })
}

/// The accuracy of the network whose weights went through files as integers.
fn serve(kind: &Kind, network: &Network, digits: &Digits) -> Result<f32> {
    let Kind::Quantized(_, dot_general) = kind else {
        return Err("only a quantised network is frozen".into());
    };
    let dims = DimensionNumbers::matmul();
    let mut frozen = vec![];
    for (i, layer) in network.0.iter().enumerate() {
        let name = format!("imma-train-mlp-{}-{i}.npz", std::process::id());
        let path = std::env::temp_dir().join(name);
        let weight = layer.weight.view().into_dyn();
        dot_general.freeze_rhs(weight, &dims)?.save(&path)?;
        frozen.push(FrozenOperand::load(&path)?);
        std::fs::remove_file(path)?;
    }
    let (test, labels) = digits.test();
    let served = network.scores(test, |i, x| {
        let y = dot_general.dot_general_frozen_rhs(x.into_dyn(), &frozen[i], &dims)?;
        Ok(y.into_dimensionality()?)
    })?;
    if served != network.predict(kind, test)? {
        return Err("the frozen network gives other results".into());
    }
    Ok(accuracy(&served, labels))
}

/// The values that a curve shows of a run.
type Values<'a> = &'a dyn Fn(&Run) -> Vec<f32>;

/// Training loss on the left, test accuracy on the right, one line per run.
fn draw(path: &str, runs: &[(&str, Run)]) -> Result<()> {
    let colours = [
        RGBColor(60, 60, 60),
        RGBColor(0, 110, 190),
        RGBColor(210, 80, 30),
        RGBColor(60, 150, 60),
    ];
    let root = SVGBackend::new(path, (960, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(480);
    let loss = |run: &Run| run.loss.iter().map(|l| l.log10()).collect::<Vec<_>>();
    let percent = |run: &Run| run.accuracy.iter().map(|a| 100.0 * a).collect::<Vec<_>>();
    let panels: [(_, &str, Values); 2] = [
        (left, "training loss (log10)", &loss),
        (right, "test accuracy (%)", &percent),
    ];
    for (area, caption, values) in panels {
        let all: Vec<Vec<f32>> = runs.iter().map(|(_, run)| values(run)).collect();
        let every = || all.iter().flatten().copied();
        let (low, high) = (
            every().fold(f32::MAX, f32::min),
            every().fold(f32::MIN, f32::max),
        );
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(46)
            .build_cartesian_2d(1usize..EPOCHS, low..high + 0.02 * (high - low))?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .light_line_style(WHITE)
            .draw()?;
        for ((name, _), (values, colour)) in runs.iter().zip(all.iter().zip(colours)) {
            let line = values.iter().enumerate().map(|(epoch, v)| (epoch + 1, *v));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(match caption.starts_with("test") {
                true => SeriesLabelPosition::LowerRight,
                false => SeriesLabelPosition::UpperRight,
            })
            .background_style(WHITE.mix(0.85))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
