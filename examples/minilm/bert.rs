//! BERT's encoder on ndarray, with float or int8 linear layers.

use imma::activation::Activation;
use imma::checkpoint::{Checkpoint, CheckpointError};
use imma::ops::matmul_float;
use imma::quant::{ActivationObserver, SmoothQuant};
use imma::{Cpu, Int8Linear};
use ndarray::{s, Array1, Array2, ArrayView1, Axis, Ix1, Ix2, Zip};
use rayon::prelude::*;

/// Lets every failure end a function with `?`.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADS: usize = 12;
const EPSILON: f32 = 1e-12;

/// What computes a linear layer.
enum Linear {
    Float {
        weight: Array2<f32>,
        bias: Array1<f32>,
        activation: Activation,
    },
    Int8(Int8Linear),
}

impl Linear {
    fn forward(&self, x: &Array2<f32>) -> Result<Array2<f32>> {
        match self {
            Linear::Int8(layer) => Ok(layer.forward(x.view())?),
            Linear::Float {
                weight,
                bias,
                activation,
            } => {
                let product = matmul_float(x.view(), weight.t())?;
                let mut y = product.into_dimensionality::<Ix2>()? + bias;
                let y_slice = y.as_slice_mut().expect("row-major");
                let cpu = Cpu::new();
                y_slice
                    .par_chunks_mut(1 << 14)
                    .for_each(|y| cpu.activate(*activation, y));
                Ok(y)
            }
        }
    }
}

/// A layer norm; what the following linear layers read may have a gain and offset of its own.
///
/// BERT adds the residual after the norm, from the norm's output: a smoothed input can't replace it, and both are made
/// of the same normalised row.
struct Norm {
    gain: Array1<f32>,
    offset: Array1<f32>,
    smoothed: Option<(Array1<f32>, Array1<f32>)>,
}

impl Norm {
    fn load(from: &Checkpoint, name: &str) -> Result<Self> {
        Ok(Norm {
            gain: vector(from, &format!("{name}.weight"))?,
            offset: vector(from, &format!("{name}.bias"))?,
            smoothed: None,
        })
    }

    fn smooth(&mut self, by: &SmoothQuant) -> Result<()> {
        let (mut gain, mut offset) = (self.gain.clone(), self.offset.clone());
        by.fold_into_norm(gain.view_mut(), Some(offset.view_mut()))?;
        self.smoothed = Some((gain, offset));
        Ok(())
    }

    /// The normalised rows, and what the following layers read when that differs.
    fn forward(&self, mut x: Array2<f32>) -> (Array2<f32>, Option<Array2<f32>>) {
        for mut row in x.rows_mut() {
            let n = row.len() as f32;
            let mean = row.sum() / n;
            row.mapv_inplace(|v| v - mean);
            let inverse = 1.0 / (row.dot(&row) / n + EPSILON).sqrt();
            row.mapv_inplace(|v| v * inverse);
        }
        let smoothed = self
            .smoothed
            .as_ref()
            .map(|(gain, offset)| &x * gain + offset);
        x *= &self.gain;
        x += &self.offset;
        (x, smoothed)
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    up: Linear,
    down: Linear,
    after_attention: Norm,
    after_feed_forward: Norm,
}

/// The largest magnitudes of what each layer's linears read: attention's input, its output's, the feed-forward's.
pub struct Statistics(Vec<[ActivationObserver; 3]>);

/// How the linear layers are computed.
pub enum Kind<'a> {
    Float,
    /// As the checkpoint stores them: int8 weights as they are, float weights quantised.
    Int8,
    /// Quantised after SmoothQuant with this migration strength.
    Smooth(&'a Statistics, f32),
}

/// The encoder.
pub struct Bert {
    words: Array2<f32>,
    positions: Array2<f32>,
    kinds: Array2<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

impl Bert {
    pub fn load(from: &Checkpoint, kind: &Kind<'_>) -> Result<Self> {
        let mut norm = Norm::load(from, "embeddings.LayerNorm")?;
        let mut layers: Vec<Layer> = Vec::new();
        for i in 0.. {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            if from.info(&name("output.dense.weight")).is_none() {
                break;
            }
            let mut after_attention = Norm::load(from, &name("attention.output.LayerNorm"))?;
            let after_feed_forward = Norm::load(from, &name("output.LayerNorm"))?;
            let parts = [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            ];
            let mut made = Vec::new();
            if let Kind::Int8 = kind {
                for part in parts {
                    made.push(Linear::Int8(from.linear(&name(part))?));
                }
            } else {
                let mut floats = Vec::new();
                for part in parts {
                    floats.push((
                        matrix(from, &name(&format!("{part}.weight")))?,
                        vector(from, &name(&format!("{part}.bias")))?,
                    ));
                }
                if let Kind::Smooth(statistics, alpha) = kind {
                    let [attention, context, feed_forward] = &statistics.0[i];
                    let qkv = [0, 1, 2].map(|j| floats[j].0.view());
                    let smooth = SmoothQuant::new(attention, &qkv, *alpha)?;
                    for (weight, _) in &mut floats[..3] {
                        smooth.scale_weight(weight.view_mut())?;
                    }
                    match layers.last_mut() {
                        None => norm.smooth(&smooth)?,
                        Some(before) => before.after_feed_forward.smooth(&smooth)?,
                    }
                    // Attention sums values over tokens: their channels reach the output's layer as they are.
                    let smooth = SmoothQuant::new(context, &[floats[3].0.view()], *alpha)?;
                    let (weight, bias) = &mut floats[2];
                    smooth.fold_into_linear(weight.view_mut(), Some(bias.view_mut()))?;
                    smooth.scale_weight(floats[3].0.view_mut())?;
                    let smooth = SmoothQuant::new(feed_forward, &[floats[4].0.view()], *alpha)?;
                    smooth.scale_weight(floats[4].0.view_mut())?;
                    after_attention.smooth(&smooth)?;
                }
                for (weight, bias) in floats {
                    made.push(match kind {
                        Kind::Float => Linear::Float {
                            weight,
                            bias,
                            activation: Activation::None,
                        },
                        _ => {
                            Linear::Int8(Int8Linear::from_float(weight.view(), Some(bias.view()))?)
                        }
                    });
                }
            }
            let mut made = made.into_iter();
            let mut next = || made.next().expect("six of them");
            layers.push(Layer {
                query: next(),
                key: next(),
                value: next(),
                output: next(),
                up: with_gelu(next()),
                down: next(),
                after_attention,
                after_feed_forward,
            });
        }
        Ok(Bert {
            words: matrix(from, "embeddings.word_embeddings.weight")?,
            positions: matrix(from, "embeddings.position_embeddings.weight")?,
            kinds: matrix(from, "embeddings.token_type_embeddings.weight")?,
            norm,
            layers,
        })
    }

    /// What SmoothQuant needs, observed on a few sentences.
    pub fn observe(&self, sentences: &[Vec<u32>]) -> Result<Statistics> {
        let k = self.words.ncols();
        let fresh = || [0; 3].map(|_| ActivationObserver::new(k));
        let mut seen = Statistics(self.layers.iter().map(|_| fresh()).collect());
        self.run(sentences, Some(&mut seen))?;
        Ok(seen)
    }

    /// One embedding per sentence: the mean of its tokens, of length 1.
    pub fn embed(&self, sentences: &[Vec<u32>]) -> Result<Array2<f32>> {
        self.run(sentences, None)
    }

    /// The tokens of all sentences are the rows of one matrix; attention alone looks at each sentence by itself.
    fn run(
        &self,
        sentences: &[Vec<u32>],
        mut seen: Option<&mut Statistics>,
    ) -> Result<Array2<f32>> {
        let width = self.words.ncols();
        let tokens: usize = sentences.iter().map(Vec::len).sum();
        let mut x = Array2::<f32>::zeros((tokens, width));
        let mut spans = Vec::new();
        let mut row = 0;
        for sentence in sentences {
            spans.push(row..row + sentence.len());
            for (position, id) in sentence.iter().enumerate() {
                let mut x = x.row_mut(row);
                x += &self.words.row(*id as usize);
                x += &self.positions.row(position);
                x += &self.kinds.row(0);
                row += 1;
            }
        }
        let (mut x, mut input) = self.norm.forward(x);
        for (i, layer) in self.layers.iter().enumerate() {
            let read = input.as_ref().unwrap_or(&x);
            let (q, k) = (layer.query.forward(read)?, layer.key.forward(read)?);
            let context = attention(&q, &k, &layer.value.forward(read)?, &spans);
            if let Some(seen) = &mut seen {
                seen.0[i][0].observe(read.view())?;
                seen.0[i][1].observe(context.view())?;
            }
            let (y, smoothed) = layer
                .after_attention
                .forward(layer.output.forward(&context)? + &x);
            let read = smoothed.as_ref().unwrap_or(&y);
            if let Some(seen) = &mut seen {
                seen.0[i][2].observe(read.view())?;
            }
            let fed = layer.down.forward(&layer.up.forward(read)?)?;
            (x, input) = layer.after_feed_forward.forward(fed + &y);
        }
        let mut out = Array2::zeros((sentences.len(), width));
        for (mut out, span) in out.rows_mut().into_iter().zip(spans) {
            let sum = x.slice(s![span, ..]).sum_axis(Axis(0));
            let length = sum.dot(&sum).sqrt();
            out.assign(&(sum / length));
        }
        Ok(out)
    }
}

/// softmax(q k^T / sqrt(d)) v, head by head within each sentence.
fn attention(
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    spans: &[std::ops::Range<usize>],
) -> Array2<f32> {
    let d = q.ncols() / HEADS;
    let scale = 1.0 / (d as f32).sqrt();
    let one = |span: &std::ops::Range<usize>| {
        let mut out = Array2::<f32>::zeros((span.len(), q.ncols()));
        for head in 0..HEADS {
            let columns = s![span.clone(), head * d..(head + 1) * d];
            let mut scores = q.slice(columns).dot(&k.slice(columns).t());
            for mut row in scores.rows_mut() {
                let most = row.fold(f32::NEG_INFINITY, |m, x| m.max(*x));
                row.mapv_inplace(|x| ((x - most) * scale).exp());
                let sum = row.sum();
                row.mapv_inplace(|x| x / sum);
            }
            let head = s![.., head * d..(head + 1) * d];
            out.slice_mut(head).assign(&scores.dot(&v.slice(columns)));
        }
        out
    };
    let parts: Vec<_> = spans.par_iter().map(one).collect();
    let mut out = Array2::zeros(q.dim());
    for (span, part) in spans.iter().zip(parts) {
        Zip::from(out.slice_mut(s![span.clone(), ..]))
            .and(&part)
            .for_each(|o, p| *o = *p);
    }
    out
}

fn with_gelu(layer: Linear) -> Linear {
    match layer {
        Linear::Int8(layer) => Linear::Int8(layer.with_activation(Activation::Gelu)),
        Linear::Float { weight, bias, .. } => Linear::Float {
            weight,
            bias,
            activation: Activation::Gelu,
        },
    }
}

fn matrix(from: &Checkpoint, name: &str) -> Result<Array2<f32>> {
    Ok(from.floats(name)?.into_dimensionality::<Ix2>()?)
}

fn vector(from: &Checkpoint, name: &str) -> std::result::Result<Array1<f32>, CheckpointError> {
    let values = from.floats(name)?;
    let n = values.len();
    Ok(values
        .into_shape_with_order(n)
        .expect("as many elements")
        .into_dimensionality::<Ix1>()
        .expect("one axis"))
}

/// Cosine of two embeddings of length 1.
pub fn cosine(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}
