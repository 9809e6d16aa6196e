//! Float tensor in, integers and scales out.

use super::granularity::Blocks;
use super::{Calibration, Granularity, QuantizedTensor};
use crate::element::Element;
use crate::error::Result;
use crate::numerics;
use crate::rounding::Rounding;
use ndarray::{ArrayD, ArrayView, Dimension, IxDyn};
use rayon::prelude::*;

/// Quantises float tensors; a checked value, so that only the tensor's shape can be refused later.
///
/// ```text
/// symmetric    q = clip(round(x * (127 / bound)), -127, 127)          scale = bound / 127
/// asymmetric   q = clip(round(x * (255 / (hi - lo))) + zp, -128, 127)   scale = (hi - lo) / 255
/// ```
///
/// with bound, lo and hi from the [`Calibration`] of each slice that the [`Granularity`] makes, and the rules of
/// [`numerics`]. The default is symmetric, per token, absmax, to nearest even: how products quantise
/// their left operand.
///
/// ```
/// use imma::quant::{Calibration, Granularity, Quantizer};
/// use ndarray::arr2;
/// let quantizer = Quantizer::builder()
///     .granularity(Granularity::PerChannel)
///     .calibration(Calibration::AbsMax)
///     .build()?;
/// let q = quantizer.quantize(arr2(&[[1.0f32, -2.0], [-0.5, 2.0]]).view())?;
/// assert_eq!(q.data().as_slice(), Some(&[127i8, -127, -64, 127][..]));
/// assert_eq!(q.scales(), [1.0 / 127.0, 2.0 / 127.0]);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quantizer {
    granularity: Granularity,
    calibration: Calibration,
    asymmetric: bool,
    rounding: Rounding,
}

/// A [`Quantizer`] that has not been checked yet; see [`Quantizer::builder`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[must_use = "call build() to get the quantizer"]
pub struct QuantizerBuilder(Quantizer);

impl QuantizerBuilder {
    /// Which elements share a scale; per token by default.
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.0.granularity = granularity;
        self
    }

    /// How each slice's range is found; absmax by default.
    pub fn calibration(mut self, calibration: Calibration) -> Self {
        self.0.calibration = calibration;
        self
    }

    /// Whether each slice gets a zero point, from its own minimum and maximum; off by default.
    pub fn asymmetric(mut self, asymmetric: bool) -> Self {
        self.0.asymmetric = asymmetric;
        self
    }

    /// How scaled values become integers; to nearest even by default.
    pub fn rounding(mut self, rounding: Rounding) -> Self {
        self.0.rounding = rounding;
        self
    }

    /// Checks the parts.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) that names the part: a group size of zero, a constant bound or
    /// factor that is not a finite number above zero, a percentile outside (0, 100] (below 50 when asymmetric),
    /// zero steps
    pub fn build(self) -> Result<Quantizer> {
        self.0.granularity.check()?;
        self.0.calibration.check(self.0.asymmetric)?;
        Ok(self.0)
    }
}

impl Quantizer {
    /// Starts from the default: symmetric, per token, absmax, to nearest even.
    pub fn builder() -> QuantizerBuilder {
        QuantizerBuilder::default()
    }

    /// Which elements share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// How each slice's range is found.
    pub fn calibration(&self) -> Calibration {
        self.calibration
    }

    /// Whether slices get a zero point.
    pub fn is_asymmetric(&self) -> bool {
        self.asymmetric
    }

    /// How scaled values become integers.
    pub fn rounding(&self) -> Rounding {
        self.rounding
    }

    /// Quantises a tensor of one or more dimensions and any strides; f16 and bf16 are widened first.
    ///
    /// Empty dimensions are legal. The result depends on the elements and the configuration alone, not on
    /// strides or threads; stochastic rounding is keyed by an element's row-major index.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a tensor without dimensions, or without the axis that groups
    /// lie along.
    pub fn quantize<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
    ) -> Result<QuantizedTensor> {
        let blocks = self.granularity.blocks(x.shape())?;
        let shape = IxDyn(x.shape());
        // Other layouts are brought into row-major order once; a view in that order is not copied.
        let x = x.as_standard_layout();
        let x = x.as_slice().expect("standard layout was asked for");
        let mut data = vec![0i8; x.len()];
        let mut scales = vec![0f32; blocks.scales()];
        let mut zero_points = vec![0i32; if self.asymmetric { scales.len() } else { 0 }];
        let (elements, per_outer) = blocks.per_outer();
        let job = |o: usize, (out, scales): (&mut [i8], &mut [f32]), zero_points: &mut [i32]| {
            let x = &x[o * elements..][..elements];
            let fits = self.fits(x, &blocks);
            self.round(x, &blocks, &fits, o * elements, out);
            for (scale, fit) in scales.iter_mut().zip(&fits) {
                *scale = fit.scale;
            }
            for (zero_point, fit) in zero_points.iter_mut().zip(&fits) {
                *zero_point = fit.zero_point;
            }
        };
        if per_outer > 0 && elements == 0 {
            // Slices without elements: each has the scale of an empty one.
            for o in 0..blocks.outer {
                let zero_points = zero_points.chunks_mut(per_outer).nth(o);
                let scales = &mut scales[o * per_outer..][..per_outer];
                job(o, (&mut [], scales), zero_points.unwrap_or_default());
            }
        } else if per_outer > 0 && self.asymmetric {
            data.par_chunks_mut(elements)
                .zip(scales.par_chunks_mut(per_outer))
                .zip(zero_points.par_chunks_mut(per_outer))
                .enumerate()
                .for_each(|(o, (slices, zero_points))| job(o, slices, zero_points));
        } else if per_outer > 0 {
            data.par_chunks_mut(elements)
                .zip(scales.par_chunks_mut(per_outer))
                .enumerate()
                .for_each(|(o, slices)| job(o, slices, &mut []));
        }
        let data = ArrayD::from_shape_vec(shape, data).expect("one integer an element");
        let zero_points = self.asymmetric.then_some(zero_points);
        QuantizedTensor::from_parts(data, scales, zero_points, self.granularity)
    }

    /// How every slice of one outer index is mapped onto integers, in the order of its scales.
    fn fits<T: Element>(&self, x: &[T], blocks: &Blocks) -> Vec<Fit> {
        let mut fits = Vec::with_capacity(blocks.groups * blocks.inner);
        if blocks.inner == 1 {
            fits.extend((0..blocks.groups).map(|g| self.fit(&x[blocks.span(g)])));
            return fits;
        }
        // Columns are gathered a cache line's worth at a time, so that memory is read in whole lines.
        const COLUMNS: usize = 16;
        let mut gathered = vec![T::default(); COLUMNS * blocks.size.min(blocks.len)];
        for g in 0..blocks.groups {
            let span = blocks.span(g);
            for first in (0..blocks.inner).step_by(COLUMNS) {
                let columns = COLUMNS.min(blocks.inner - first);
                for (r, l) in span.clone().enumerate() {
                    let row = &x[l * blocks.inner + first..][..columns];
                    for (c, value) in row.iter().enumerate() {
                        gathered[c * span.len() + r] = *value;
                    }
                }
                fits.extend(
                    (0..columns).map(|c| self.fit(&gathered[c * span.len()..][..span.len()])),
                );
            }
        }
        fits
    }

    /// How one slice is mapped onto integers.
    fn fit<T: Element>(&self, slice: &[T]) -> Fit {
        if self.asymmetric {
            let (lo, hi) = self.calibration.range(slice);
            let a = numerics::asymmetric(lo, hi);
            Fit {
                multiplier: a.multiplier,
                scale: a.scale,
                zero_point: a.zero_point,
            }
        } else {
            let bound = numerics::bound(self.calibration.magnitude(slice));
            Fit {
                multiplier: numerics::multiplier(bound),
                scale: numerics::scale(bound),
                zero_point: 0,
            }
        }
    }

    /// Rounds the elements of one outer index; `index` is the linear index of the first.
    fn round<T: Element>(
        &self,
        x: &[T],
        blocks: &Blocks,
        fits: &[Fit],
        index: usize,
        out: &mut [i8],
    ) {
        let inner = blocks.inner;
        for g in 0..blocks.groups {
            let fits = &fits[g * inner..][..inner];
            if inner == 1 {
                let span = blocks.span(g);
                let fit = std::iter::repeat(&fits[0]);
                self.round_run(&x[span.clone()], fit, index + span.start, &mut out[span]);
            } else {
                for l in blocks.span(g) {
                    let line = l * inner..(l + 1) * inner;
                    self.round_run(
                        &x[line.clone()],
                        fits.iter(),
                        index + line.start,
                        &mut out[line],
                    );
                }
            }
        }
    }

    #[inline(always)]
    fn round_run<'s, T: Element>(
        &self,
        x: &[T],
        fits: impl Iterator<Item = &'s Fit>,
        index: usize,
        out: &mut [i8],
    ) {
        let pairs = out.iter_mut().zip(x).zip(fits);
        match (self.asymmetric, self.rounding) {
            (false, Rounding::NearestEven) => {
                pairs.for_each(|((q, x), s)| *q = numerics::quantize(x.to_f32() * s.multiplier));
            }
            (true, Rounding::NearestEven) => pairs.for_each(|((q, x), s)| {
                *q = numerics::quantize_asymmetric(x.to_f32(), s.multiplier, s.zero_point);
            }),
            (false, rounding) => pairs.zip(index as u64..).for_each(|(((q, x), s), i)| {
                *q = rounding.quantize(x.to_f32(), s.multiplier, i);
            }),
            (true, rounding) => pairs.zip(index as u64..).for_each(|(((q, x), s), i)| {
                *q = rounding.quantize_asymmetric(x.to_f32(), s.multiplier, s.zero_point, i);
            }),
        }
    }
}

/// How one slice is mapped onto integers.
struct Fit {
    multiplier: f32,
    scale: f32,
    zero_point: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr2, Array3};

    #[test]
    fn every_granularity_takes_its_own_slices() {
        let x = arr2(&[[1.0f32, 4.0, -2.0], [8.0, 0.0, 0.5]]);
        let scales = |granularity| {
            let quantizer = Quantizer::builder()
                .granularity(granularity)
                .build()
                .unwrap();
            let q = quantizer.quantize(x.view()).unwrap();
            q.scales()
                .iter()
                .map(|s| (s * 127.0).round())
                .collect::<Vec<_>>()
        };
        assert_eq!(scales(Granularity::PerTensor), [8.0]);
        assert_eq!(scales(Granularity::PerToken), [4.0, 8.0]);
        assert_eq!(scales(Granularity::PerChannel), [8.0, 4.0, 2.0]);
        assert_eq!(
            scales(Granularity::PerGroup { size: 2 }),
            [4.0, 2.0, 8.0, 1.0]
        );
        let along = Granularity::PerGroupAlong { size: 1, axis: 0 };
        assert_eq!(scales(along), [1.0, 4.0, 2.0, 8.0, 1.0, 1.0]);
    }

    #[test]
    fn empty_tensors_have_the_scales_of_empty_slices() {
        for shape in [(0, 2, 3), (2, 0, 3), (2, 3, 0)] {
            let x = Array3::<f32>::zeros(shape);
            for granularity in [
                Granularity::PerTensor,
                Granularity::PerToken,
                Granularity::PerChannel,
                Granularity::PerGroup { size: 2 },
                Granularity::PerGroupAlong { size: 2, axis: 1 },
            ] {
                for asymmetric in [false, true] {
                    let builder = Quantizer::builder().granularity(granularity);
                    let quantizer = builder.asymmetric(asymmetric).build().unwrap();
                    let q = quantizer.quantize(x.view()).unwrap();
                    assert_eq!(q.shape(), x.shape());
                    let step = if asymmetric { 1.0 } else { 1.0 / 127.0 };
                    assert!(
                        q.scales().iter().all(|s| *s == step),
                        "{granularity:?} {shape:?}"
                    );
                    assert_eq!(q.dequantize().shape(), x.shape());
                }
            }
        }
    }
}
