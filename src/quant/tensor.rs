//! Integers with the scales that give them meaning.

use super::granularity::Blocks;
use super::{ErrorReport, Granularity};
use crate::element::Element;
use crate::epilogue::{Scales, ZeroPoints};
use crate::error::{Error, Result};
use ndarray::{ArrayD, ArrayView, ArrayView2, Dimension, Ix2};

/// A tensor of int8 whose elements stand for `(q - zero_point) * scale`.
///
/// The integers are in row-major order. Scales, and the zero points of an asymmetric tensor, come in the row-major
/// order of [`scales_shape`](Self::scales_shape), one for each slice of the [`Granularity`].
///
/// A quantised pair makes a product by handing its scales to the epilogue:
///
/// ```
/// use imma::element::OutputMut;
/// use imma::gemm::{Gemm, Lhs, Weights};
/// use imma::quant::{Granularity, Quantizer};
/// use imma::{Backend, Cpu, Epilogue};
/// use ndarray::{arr2, Array2};
/// let x = Quantizer::default().quantize(arr2(&[[1.0f32, 0.5], [3.0, -4.0]]).view())?;
/// let per_channel = Quantizer::builder().granularity(Granularity::PerChannel).build()?;
/// let w = per_channel.quantize(arr2(&[[2.0f32], [1.0]]).view())?;
///
/// let cpu = Cpu::new();
/// let weights = cpu.pack(Weights::Int8(w.matrix()?))?;
/// let epilogue = Epilogue {
///     row_scales: x.row_scales()?,
///     row_zero_points: x.row_zero_points()?,
///     col_scales: w.col_scales()?,
///     ..Epilogue::default()
/// };
/// let mut out = Array2::<f32>::zeros((2, 1));
/// cpu.gemm(&Gemm::new(Lhs::Int8(x.matrix()?), &weights, epilogue)?, OutputMut::F32(out.view_mut()))?;
/// assert!((out[[0, 0]] - 2.5).abs() < 0.1 && (out[[1, 0]] - 2.0).abs() < 0.1);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensor {
    data: ArrayD<i8>,
    scales: Vec<f32>,
    zero_points: Option<Vec<i32>>,
    granularity: Granularity,
}

impl QuantizedTensor {
    /// Puts a tensor together from its parts; any strides.
    ///
    /// A scale is never negative; it may be zero, and is NaN or infinite for a slice that held such values.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is one scale, and one zero point if there are any, for each slice;
    /// [`Error::Value`] for a negative scale or a zero point outside -128..=127; those of
    /// [`Granularity::scales_shape`].
    pub fn from_parts(
        data: ArrayD<i8>,
        scales: Vec<f32>,
        zero_points: Option<Vec<i32>>,
        granularity: Granularity,
    ) -> Result<Self> {
        let expected = granularity.blocks(data.shape())?.scales();
        let check = |what, found| {
            if found == expected {
                Ok(())
            } else {
                Err(Error::Length {
                    what,
                    found,
                    expected,
                })
            }
        };
        check("the list of scales", scales.len())?;
        if let Some(bad) = scales.iter().find(|s| **s < 0.0) {
            return Err(Error::Value {
                what: "a scale",
                found: bad.to_string(),
                expected: "a number of at least zero".into(),
            });
        }
        if let Some(zero_points) = &zero_points {
            check("the list of zero points", zero_points.len())?;
            if let Some(bad) = zero_points.iter().find(|z| !(-128..=127).contains(*z)) {
                return Err(Error::Value {
                    what: "a zero point",
                    found: bad.to_string(),
                    expected: "a value in -128..=127".into(),
                });
            }
        }
        let data = if data.is_standard_layout() {
            data
        } else {
            data.as_standard_layout().into_owned()
        };
        Ok(QuantizedTensor {
            data,
            scales,
            zero_points,
            granularity,
        })
    }

    /// Integers, scales and zero points.
    pub fn into_parts(self) -> (ArrayD<i8>, Vec<f32>, Option<Vec<i32>>) {
        (self.data, self.scales, self.zero_points)
    }

    /// The integers, in row-major order.
    pub fn data(&self) -> &ArrayD<i8> {
        &self.data
    }

    /// The shape of the integers.
    pub fn shape(&self) -> &[usize] {
        self.data.shape()
    }

    /// Which elements share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The scales, one per slice.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The shape that the scales broadcast with; see [`Granularity`].
    pub fn scales_shape(&self) -> Vec<usize> {
        let shape = self.granularity.scales_shape(self.shape());
        shape.expect("checked when the tensor was made")
    }

    /// The integers that stand for 0.0, one per slice, when the tensor is asymmetric.
    pub fn zero_points(&self) -> Option<&[i32]> {
        self.zero_points.as_deref()
    }

    /// The integers of a two-dimensional tensor, as a product takes them.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other number of dimensions.
    pub fn matrix(&self) -> Result<ArrayView2<'_, i8>> {
        self.data
            .view()
            .into_dimensionality::<Ix2>()
            .map_err(|_| Error::Shape {
                op: "matrix",
                what: "the quantised tensor",
                found: self.shape().to_vec(),
                expected: "two dimensions".into(),
            })
    }

    /// The scales of a left operand, per tensor or per token.
    ///
    /// # Errors
    /// [`Error::Value`] for another granularity: its scales change along K and can't be applied to the sums.
    pub fn row_scales(&self) -> Result<Scales<&[f32]>> {
        match self.granularity {
            Granularity::PerTensor => Ok(Scales::PerTensor(self.scales[0])),
            Granularity::PerToken => Ok(Scales::PerVector(&self.scales)),
            other => Err(self.refuse(
                "the left operand's granularity",
                other,
                "PerTensor or PerToken",
            )),
        }
    }

    /// The zero points of a left operand, per tensor or per token.
    ///
    /// # Errors
    /// As [`row_scales`](Self::row_scales), for asymmetric tensors.
    pub fn row_zero_points(&self) -> Result<ZeroPoints<&[i32]>> {
        let Some(zero_points) = self.zero_points() else {
            return Ok(ZeroPoints::None);
        };
        Ok(match self.row_scales()? {
            Scales::PerVector(_) => ZeroPoints::PerVector(zero_points),
            Scales::PerTensor(_) | Scales::None => ZeroPoints::PerTensor(zero_points[0]),
        })
    }

    /// The scales of weights `[K, N]`, per tensor or per channel.
    ///
    /// # Errors
    /// [`Error::Value`] for another granularity, and for asymmetric weights: a zero point there would need the
    /// row sums of the left operand.
    pub fn col_scales(&self) -> Result<Scales<&[f32]>> {
        if self.zero_points.is_some() {
            return Err(Error::Value {
                what: "the weights' scheme",
                found: "asymmetric".into(),
                expected: "symmetric: only the left operand may have zero points".into(),
            });
        }
        match self.granularity {
            Granularity::PerTensor => Ok(Scales::PerTensor(self.scales[0])),
            Granularity::PerChannel => Ok(Scales::PerVector(&self.scales)),
            other => Err(self.refuse("the weights' granularity", other, "PerTensor or PerChannel")),
        }
    }

    fn refuse(&self, what: &'static str, found: Granularity, expected: &str) -> Error {
        Error::Value {
            what,
            found: format!("{found:?}"),
            expected: expected.into(),
        }
    }

    /// `(q - zero_point) * scale`, rounded once: the difference is exact.
    pub fn dequantize(&self) -> ArrayD<f32> {
        let mut out = vec![0f32; self.data.len()];
        let blocks = self.blocks();
        let integers = self.data.as_slice().expect("kept in row-major order");
        self.for_each_line(&blocks, |line, scale| {
            for (i, (o, q)) in out[line.clone()]
                .iter_mut()
                .zip(&integers[line])
                .enumerate()
            {
                let (scale, zero_point) = scale(i);
                *o = (i32::from(*q) - zero_point) as f32 * scale;
            }
        });
        ArrayD::from_shape_vec(self.data.raw_dim(), out).expect("one float for each integer")
    }

    /// How far this tensor is from the floats it was made of, with the number of elements that clipped: those at
    /// an end of the range whose error exceeds half a step.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the shapes differ.
    pub fn error<T: Element, D: Dimension>(&self, of: ArrayView<'_, T, D>) -> Result<ErrorReport> {
        let of = of.mapv(|x| x.to_f32()).into_dyn();
        let of = of.as_standard_layout();
        let dequantized = self.dequantize();
        let mut report = ErrorReport::between(of.view(), dequantized.view())?;
        let (x, y) = (of.as_slice(), dequantized.as_slice());
        let (x, y) = (x.expect("row-major"), y.expect("row-major"));
        let integers = self.data.as_slice().expect("kept in row-major order");
        let mut clipped = 0;
        self.for_each_line(&self.blocks(), |line, scale| {
            for (i, at) in line.enumerate() {
                let edge = matches!(integers[at], -128 | -127 | 127);
                // The slack covers the roundings of the product and of the dequantised value.
                let half = f64::from(scale(i).0) * (0.5 + 1e-4);
                let distance = (f64::from(x[at]) - f64::from(y[at])).abs();
                clipped += u64::from(edge && distance > half);
            }
        });
        report.clipped = Some(clipped);
        Ok(report)
    }

    fn blocks(&self) -> Blocks {
        let blocks = self.granularity.blocks(self.shape());
        blocks.expect("checked when the tensor was made")
    }

    /// Calls `f` with each run of elements and a function that gives the scale and zero point of the i-th of them.
    fn for_each_line(
        &self,
        blocks: &Blocks,
        mut f: impl FnMut(std::ops::Range<usize>, &dyn Fn(usize) -> (f32, i32)),
    ) {
        let step = |at: usize| {
            (
                self.scales[at],
                self.zero_points.as_ref().map_or(0, |z| z[at]),
            )
        };
        for o in 0..blocks.outer {
            for g in 0..blocks.groups {
                let first = (o * blocks.groups + g) * blocks.inner;
                let span = blocks.span(g);
                if blocks.inner == 1 {
                    let base = o * blocks.len;
                    let one = step(first);
                    f(base + span.start..base + span.end, &|_| one);
                } else {
                    for l in span {
                        let base = (o * blocks.len + l) * blocks.inner;
                        f(base..base + blocks.inner, &|i| step(first + i));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr2, Array2};

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let data = || Array2::<i8>::zeros((2, 3)).into_dyn();
        let new = |scales, zero_points| {
            let made =
                QuantizedTensor::from_parts(data(), scales, zero_points, Granularity::PerToken);
            made.map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(new(vec![1.0, f32::NAN], Some(vec![-128, 127])), Ok(()));
        assert_eq!(
            new(vec![1.0; 3], None).unwrap_err(),
            "the list of scales has 3 elements, expected 2"
        );
        assert!(new(vec![1.0, -1.0], None)
            .unwrap_err()
            .starts_with("a scale is -1"));
        assert!(new(vec![1.0; 2], Some(vec![0]))
            .unwrap_err()
            .starts_with("the list of zero points has 1"));
        assert!(new(vec![1.0; 2], Some(vec![0, 128]))
            .unwrap_err()
            .contains("-128..=127"));
    }

    #[test]
    fn dequantising_subtracts_the_zero_point_exactly() {
        let data = arr2(&[[-128i8, 127], [0, 5]]).into_dyn().reversed_axes();
        let zero_points = Some(vec![127, -128]);
        let q =
            QuantizedTensor::from_parts(data, vec![0.5, 2.0], zero_points, Granularity::PerChannel);
        let want = arr2(&[[-127.5f32, 256.0], [0.0, 266.0]]).into_dyn();
        assert_eq!(q.unwrap().dequantize(), want);
    }

    #[test]
    fn scales_that_vary_along_k_are_no_epilogue() {
        let quantizer = crate::quant::Quantizer::builder();
        let quantizer = quantizer
            .granularity(Granularity::PerGroup { size: 2 })
            .build()
            .unwrap();
        let q = quantizer
            .quantize(arr2(&[[1.0f32, 2.0, 3.0]]).view())
            .unwrap();
        assert!(q.row_scales().unwrap_err().to_string().contains("PerGroup"));
        assert!(q.col_scales().is_err());
    }
}
