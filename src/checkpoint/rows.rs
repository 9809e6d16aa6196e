//! One weight quantised, a block of rows at a time.

use super::file::RawTensor;
use super::options::QuantizeOptions;
use super::report::LayerReport;
use crate::element::Element;
use crate::numerics;
use crate::quant::Calibration;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Elements a block: 4 MiB as f32.
const BLOCK: usize = 1 << 20;

/// Which of a layer's two tensors bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Weight,
    Scale,
}

/// Takes bytes of one tensor at an offset from its start.
type Sink<'a, E> = dyn FnMut(Part, u64, &[u8]) -> Result<(), E> + 'a;

/// A row's integers, and what it adds to the report.
#[derive(Default)]
struct Row {
    q: Vec<i8>,
    /// One, or one for each group of inputs.
    scales: Vec<f32>,
    signal: f64,
    noise: f64,
    clipped: u64,
}

/// Quantises a float matrix `[N, K]` per row, or per row and group of inputs, and hands the bytes to `write`.
///
/// The outer error says what was found instead of a finite weight, the inner one is the writer's.
pub(super) fn quantize<E>(
    raw: &RawTensor<'_>,
    prefix: &str,
    options: &QuantizeOptions,
    write: &mut Sink<'_, E>,
) -> Result<Result<LayerReport, E>, String> {
    let (n, k) = (raw.shape[0], raw.shape[1]);
    let size = options.group_size.unwrap_or(k);
    let mut report = LayerReport::new(prefix, [n, k]);
    let mut channels = vec![0.0f32; k];
    let mut scales = Vec::new();
    let mut floats = Vec::new();
    let rows = (BLOCK / k).max(1);
    for first in (0..n).step_by(rows) {
        let last = (first + rows).min(n);
        floats.clear();
        raw.floats_into(first * k..last * k, &mut floats)
            .ok_or_else(|| raw.describe())?;
        let block: Vec<Row> = floats
            .par_chunks(k)
            .map(|x| row(x, size, raw.dtype, options.calibration))
            .collect();
        let mut bytes = Vec::with_capacity(floats.len());
        for (j, (row, x)) in block.iter().zip(floats.chunks(k)).enumerate() {
            if !row.signal.is_finite() {
                return Err(format!("NaN or infinity in row {}", first + j));
            }
            report.signal += row.signal;
            report.noise += row.noise;
            report.clipped += row.clipped;
            row.q.iter().for_each(|q| report.count(*q));
            for (channel, x) in channels.iter_mut().zip(x) {
                *channel = channel.max(x.abs());
            }
            bytes.extend(row.q.iter().map(|q| *q as u8));
            for scale in &row.scales {
                match raw.dtype {
                    Dtype::F16 => scales.extend(<f16 as Element>::from_f32(*scale).to_le_bytes()),
                    Dtype::BF16 => scales.extend(<bf16 as Element>::from_f32(*scale).to_le_bytes()),
                    _ => scales.extend(scale.to_le_bytes()),
                }
            }
        }
        if let Err(e) = write(Part::Weight, (first * k) as u64, &bytes) {
            return Ok(Err(e));
        }
    }
    report.channels(&channels);
    Ok(write(Part::Scale, 0, &scales).map(|()| report))
}

fn row(x: &[f32], size: usize, dtype: Dtype, calibration: Calibration) -> Row {
    let mut row = Row::default();
    for group in x.chunks(size) {
        row.add(group, dtype, calibration);
    }
    row
}

impl Row {
    /// Quantises what shares a scale.
    fn add(&mut self, x: &[f32], dtype: Dtype, calibration: Calibration) {
        let bound = numerics::bound(calibration.magnitude(x));
        let exact = numerics::scale(bound);
        let scale = rounded(exact, dtype);
        let multiplier = if scale == exact {
            numerics::multiplier(bound)
        } else {
            1.0 / scale
        };
        for x in x {
            let q = numerics::quantize(x * multiplier);
            let e = f64::from(f32::from(q) * scale) - f64::from(*x);
            self.signal += f64::from(*x).powi(2);
            self.noise += e * e;
            // The slack covers the roundings of the product and of the dequantised value.
            let beyond = e.abs() > f64::from(scale) * (0.5 + 1e-4);
            self.clipped += u64::from(matches!(q, -127 | 127) && beyond);
            self.q.push(q);
        }
        self.scales.push(scale);
    }
}

/// A scale as its type stores it; never zero, so that its inverse is finite.
fn rounded(scale: f32, dtype: Dtype) -> f32 {
    let (rounded, least) = match dtype {
        Dtype::F16 => (
            Element::to_f32(<f16 as Element>::from_f32(scale)),
            Element::to_f32(f16::from_bits(1)),
        ),
        Dtype::BF16 => (
            Element::to_f32(<bf16 as Element>::from_f32(scale)),
            f32::MIN_POSITIVE,
        ),
        _ => (scale, 0.0),
    };
    rounded.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_rounded_before_the_integers_are_made() {
        // absmax / 127 is no bfloat16: the integers belong to the rounded scale.
        let x: Vec<f32> = (0..64).map(|i| (i as f32 - 31.0) * 0.37).collect();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            for size in [64, 32] {
                let row = row(&x, size, dtype, Calibration::AbsMax);
                assert_eq!(row.scales.len(), 64 / size);
                for (i, (x, q)) in x.iter().zip(&row.q).enumerate() {
                    let scale = row.scales[i / size];
                    let off = (f32::from(*q) * scale - x).abs();
                    // At the very end a scale that was rounded down may clip a little.
                    assert!(off <= scale * 0.76, "{dtype}: {x} {q} {scale}");
                    assert_eq!(rounded(scale, dtype), scale);
                }
            }
        }
        assert!(1.0 / rounded(1e-30, Dtype::F16) < f32::INFINITY);
        let zeros = row(&[0.0; 3], 3, Dtype::F16, Calibration::AbsMax);
        assert_eq!((zeros.q, zeros.noise), (vec![0; 3], 0.0));
        assert!(!row(&[1.0, f32::NAN], 2, Dtype::F32, Calibration::AbsMax)
            .signal
            .is_finite());
    }
}
