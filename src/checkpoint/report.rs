//! What quantising did to each layer: numbers, a table and a picture.

use serde_json::{json, Value};
use std::fmt::Write;

/// Bars of a layer's histogram: each stands for four neighbouring integers.
const BINS: usize = 64;

/// An input channel is an outlier when its largest weight exceeds this many times the median channel's.
const OUTLIER: f32 = 6.0;

/// What quantising did to one layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerReport {
    /// The layer's name.
    pub name: String,
    /// N and K.
    pub shape: [usize; 2],
    /// Sum of the squared weights.
    pub signal: f64,
    /// Sum of the squared errors.
    pub noise: f64,
    /// Weights beyond the range of their output's scale.
    pub clipped: u64,
    /// Input channels whose largest weight exceeds six times the median channel's.
    pub outlier_channels: usize,
    /// The largest weight of any channel over the median channel's.
    pub outlier_ratio: f32,
    /// How often each integer occurs, in 64 bins of four: -128..=-125, ..., 124..=127.
    pub histogram: Vec<u64>,
}

impl LayerReport {
    pub(super) fn new(name: &str, shape: [usize; 2]) -> Self {
        LayerReport {
            name: name.into(),
            shape,
            signal: 0.0,
            noise: 0.0,
            clipped: 0,
            outlier_channels: 0,
            outlier_ratio: 0.0,
            histogram: vec![0; BINS],
        }
    }

    /// Signal to noise ratio in decibels; infinite without any error.
    pub fn snr_db(&self) -> f64 {
        if self.noise == 0.0 {
            return f64::INFINITY;
        }
        10.0 * (self.signal / self.noise).log10()
    }

    pub(super) fn count(&mut self, q: i8) {
        self.histogram[((i16::from(q) + 128) / 4) as usize] += 1;
    }

    /// Looks for outliers among the largest magnitudes of the input channels.
    pub(super) fn channels(&mut self, absmax: &[f32]) {
        let mut sorted = absmax.to_vec();
        let (_, median, _) = sorted.select_nth_unstable_by(absmax.len() / 2, f32::total_cmp);
        let median = *median;
        if median > 0.0 {
            self.outlier_channels = absmax.iter().filter(|a| **a > OUTLIER * median).count();
            self.outlier_ratio = absmax.iter().fold(0.0f32, |m, a| m.max(*a)) / median;
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name, "shape": self.shape, "signal": self.signal, "noise": self.noise,
            "clipped": self.clipped, "outlier_channels": self.outlier_channels,
            "outlier_ratio": self.outlier_ratio, "histogram": self.histogram,
        })
    }

    pub(super) fn of_json(v: &Value) -> Option<Self> {
        let count = |v: &Value| v.as_u64().map(|n| n as usize);
        let histogram: Option<Vec<u64>> = v["histogram"]
            .as_array()?
            .iter()
            .map(Value::as_u64)
            .collect();
        Some(LayerReport {
            name: v["name"].as_str()?.into(),
            shape: [count(&v["shape"][0])?, count(&v["shape"][1])?],
            signal: v["signal"].as_f64()?,
            noise: v["noise"].as_f64()?,
            clipped: v["clipped"].as_u64()?,
            outlier_channels: count(&v["outlier_channels"])?,
            outlier_ratio: v["outlier_ratio"].as_f64()? as f32,
            histogram: histogram.filter(|h| h.len() == BINS)?,
        })
    }
}

/// What quantising a model did: its layers, and what was left out.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct ModelReport {
    /// The quantised layers, by name.
    pub layers: Vec<LayerReport>,
    /// Layers that were left as floats, by name: two-dimensional weights, and experts stacked into one tensor.
    pub ignored: Vec<String>,
    /// What lies in the model's folder and was not copied, with the reason: `model/pytorch_model.bin (weights)`.
    pub left_out: Vec<String>,
    /// Bytes of tensors read, and written.
    pub bytes: (u64, u64),
    /// Layers that an earlier, interrupted run had already done.
    pub continued: usize,
}

impl ModelReport {
    /// The layers as a table in Markdown.
    pub fn table(&self) -> String {
        let width = self.layers.iter().map(|l| l.name.len()).max();
        let width = width.unwrap_or(0).max(5);
        let mut out = format!(
            "| {:width$} | {:>13} | {:>6} | {:>7} | {:>16} | {:>13} |\n",
            "layer", "N x K", "SNR dB", "clipped", "outlier channels", "largest/median"
        );
        let bar = |n: usize| "-".repeat(n);
        let _ = writeln!(
            out,
            "|{}|{}:|{}:|{}:|{}:|{}:|",
            bar(width + 2),
            bar(14),
            bar(7),
            bar(8),
            bar(17),
            bar(15)
        );
        for l in &self.layers {
            let shape = format!("{} x {}", l.shape[0], l.shape[1]);
            let _ = writeln!(
                out,
                "| {:width$} | {shape:>13} | {:>6.1} | {:>7} | {:>16} | {:>14.1} |",
                l.name,
                l.snr_db(),
                l.clipped,
                l.outlier_channels,
                l.outlier_ratio
            );
        }
        out
    }

    /// The layers' histograms as one SVG picture: how often each int8 value occurs, on a logarithmic scale.
    pub fn svg(&self) -> String {
        const COLUMNS: usize = 4;
        const WIDE: usize = 280;
        const HIGH: usize = 130;
        let rows = self.layers.len().div_ceil(COLUMNS).max(1);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" \
             font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
            COLUMNS * WIDE,
            rows * HIGH
        );
        for (i, layer) in self.layers.iter().enumerate() {
            let (x, y) = (i % COLUMNS * WIDE + 10, i / COLUMNS * HIGH);
            let name = escaped(&layer.name);
            // The end of a long name says more than its start.
            let shown: Vec<char> = layer.name.chars().collect();
            let shown: String = shown[shown.len().saturating_sub(40)..].iter().collect();
            let most = layer.histogram.iter().max().copied().unwrap_or(0).max(1);
            let _ = writeln!(
                out,
                "<g transform=\"translate({x} {y})\"><title>{name}</title><text y=\"14\">{}</text>\
                 <text y=\"26\" fill=\"#555\">SNR {:.1} dB, {} clipped, {} outlier channels</text>",
                escaped(&shown),
                layer.snr_db(),
                layer.clipped,
                layer.outlier_channels
            );
            for (bin, count) in layer.histogram.iter().enumerate() {
                if *count > 0 {
                    let part = (*count as f64).ln_1p() / (most as f64).ln_1p();
                    let high = (part * 80.0).max(0.5);
                    let _ = write!(
                        out,
                        "<rect x=\"{}\" y=\"{:.1}\" width=\"3.6\" height=\"{high:.1}\" fill=\"#4878a8\"/>",
                        bin * 4,
                        112.0 - high
                    );
                }
            }
            let _ = writeln!(
                out,
                "\n<text y=\"124\">-128</text><text x=\"128\" y=\"124\" text-anchor=\"middle\">0</text>\
                 <text x=\"256\" y=\"124\" text-anchor=\"end\">127</text></g>"
            );
        }
        out.push_str("</svg>\n");
        out
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
        .replace(|c: char| c.is_control(), "?")
}
