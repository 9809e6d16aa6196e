//! What is done to a layer's inputs before they are quantised: a multiplier a column, a rotation.

use crate::error::{Error, Result};
use std::sync::Arc;

/// A rotation of a row within blocks of neighbouring columns, `x_block . R / sqrt(block)`, where R is symmetric and its
/// entries are 1 and -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rotation {
    /// Sylvester's Hadamard matrix, by butterflies of stride 1, 2, 4, ...:
    ///
    /// ```text
    /// (a, b) -> (a + b, a - b)
    /// ```
    Hadamard {
        /// Columns of a block: a power of two.
        block: usize,
    },
    /// The Kronecker power of the matrix that ComfyUI's `convrot` starts from, by steps of stride 1, 4, 16, ...:
    ///
    /// ```text
    /// (a, b, c, d) -> ((a + b) + (c - d), (a + b) - (c - d), (a - b) + (c + d), (c + d) - (a - b))
    /// ```
    Hadamard4 {
        /// Columns of a block: a power of four.
        block: usize,
    },
}

impl Rotation {
    /// Columns of a block.
    pub fn block(self) -> usize {
        match self {
            Rotation::Hadamard { block } | Rotation::Hadamard4 { block } => block,
        }
    }

    fn check(self) -> Result<()> {
        let block = self.block();
        let (good, expected) = match self {
            Rotation::Hadamard { .. } => (block.is_power_of_two(), "a power of two"),
            Rotation::Hadamard4 { .. } => (
                block.is_power_of_two() && block.trailing_zeros().is_multiple_of(2),
                "a power of four",
            ),
        };
        if good {
            return Ok(());
        }
        Err(Error::Value {
            what: "the block of a rotation",
            found: block.to_string(),
            expected: expected.into(),
        })
    }

    fn apply(self, row: &mut [f32]) {
        let block = self.block();
        // Exact for the powers of four, rounded once for the others.
        let factor = 1.0 / (block as f32).sqrt();
        for x in row.chunks_exact_mut(block) {
            match self {
                Rotation::Hadamard { .. } => butterflies(x),
                Rotation::Hadamard4 { .. } => steps_of_four(x),
            }
            x.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

fn butterflies(x: &mut [f32]) {
    let mut stride = 1;
    while stride < x.len() {
        for pair in x.chunks_exact_mut(2 * stride) {
            let (low, high) = pair.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride *= 2;
    }
}

fn steps_of_four(x: &mut [f32]) {
    let mut stride = 1;
    while stride < x.len() {
        for four in x.chunks_exact_mut(4 * stride) {
            for i in 0..stride {
                let [a, b, c, d] = [0, 1, 2, 3].map(|j| four[j * stride + i]);
                let (ab, cd) = (a + b, c + d);
                let (a_b, c_d) = (a - b, c - d);
                for (j, y) in [ab + c_d, ab - c_d, a_b + cd, cd - a_b]
                    .into_iter()
                    .enumerate()
                {
                    four[j * stride + i] = y;
                }
            }
        }
        stride *= 4;
    }
}

/// What a layer does to each row `x [K]` of its inputs before absmax and quantising, in f32; its weights are stored for
/// inputs that were so transformed.
///
/// ```text
/// x[k] = x[k] * multiplier[k]        where there is a multiplier (SmoothQuant's division, for instance)
/// x    = rotated(x)                  where there is a rotation, block by block along K
/// ```
///
/// Every product, sum, difference and the last multiplication by `f32(1 / sqrt(block))` is rounded to nearest even, in the
/// order that [`Rotation`] draws, so that the bits are those of any backend. What is not finite stays in its row.
///
/// ```
/// use imma::quant::{InputTransform, Rotation};
/// let transform = InputTransform::default()
///     .with_multiplier(&[1.0, 0.5, 1.0, 1.0])?
///     .with_rotation(Rotation::Hadamard { block: 2 })?;
/// let mut x = [3.0f32, 2.0, 0.0, 1.0];
/// transform.apply(&mut x)?;
/// let h = 0.5f32.sqrt();
/// assert_eq!(x, [4.0 * h, 2.0 * h, 1.0 * h, -1.0 * h]);
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InputTransform {
    multiplier: Option<Arc<[f32]>>,
    rotation: Option<Rotation>,
}

impl InputTransform {
    /// The same with a multiplier for each of K columns.
    ///
    /// # Errors
    /// [`Error::Value`] for one that is not finite.
    pub fn with_multiplier(self, multiplier: &[f32]) -> Result<Self> {
        if let Some(bad) = multiplier.iter().find(|m| !m.is_finite()) {
            return Err(Error::Value {
                what: "a multiplier of the inputs",
                found: bad.to_string(),
                expected: "a finite number".into(),
            });
        }
        Ok(InputTransform {
            multiplier: Some(multiplier.into()),
            ..self
        })
    }

    /// The same with a rotation after the multiplier.
    ///
    /// # Errors
    /// [`Error::Value`] for a block that the rotation can't have.
    pub fn with_rotation(self, rotation: Rotation) -> Result<Self> {
        rotation.check()?;
        Ok(InputTransform {
            rotation: Some(rotation),
            ..self
        })
    }

    /// The multiplier of each column, where there is one.
    pub fn multiplier(&self) -> Option<&[f32]> {
        self.multiplier.as_deref()
    }

    /// The rotation, where there is one.
    pub fn rotation(&self) -> Option<Rotation> {
        self.rotation
    }

    /// Whether rows stay as they are.
    pub fn is_identity(&self) -> bool {
        self.multiplier.is_none() && self.rotation.is_none()
    }

    /// Refuses rows that it does not fit.
    ///
    /// # Errors
    /// [`Error::Length`] when there are not K multipliers, [`Error::Value`] when a rotation's block does not divide K.
    pub fn check(&self, k: usize) -> Result<()> {
        if let Some(multiplier) = self.multiplier.as_deref().filter(|m| m.len() != k) {
            return Err(Error::Length {
                what: "the list of input multipliers",
                found: multiplier.len(),
                expected: k,
            });
        }
        match self.rotation {
            Some(rotation) if !k.is_multiple_of(rotation.block()) => Err(Error::Value {
                what: "the block of a rotation",
                found: rotation.block().to_string(),
                expected: format!("a divisor of the {k} inputs"),
            }),
            _ => Ok(()),
        }
    }

    /// Transforms a row in place.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn apply(&self, row: &mut [f32]) -> Result<()> {
        self.check(row.len())?;
        if let Some(multiplier) = &self.multiplier {
            row.iter_mut()
                .zip(multiplier.iter())
                .for_each(|(x, m)| *x *= m);
        }
        if let Some(rotation) = self.rotation {
            rotation.apply(row);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matrix by its definition, in f64.
    fn matrix(rotation: Rotation) -> Vec<Vec<f64>> {
        let seed: Vec<Vec<f64>> = match rotation {
            Rotation::Hadamard { .. } => vec![vec![1., 1.], vec![1., -1.]],
            Rotation::Hadamard4 { .. } => vec![
                vec![1., 1., 1., -1.],
                vec![1., 1., -1., 1.],
                vec![1., -1., 1., 1.],
                vec![-1., 1., 1., 1.],
            ],
        };
        let mut h = vec![vec![1.0]];
        while h.len() < rotation.block() {
            let (n, s) = (h.len(), seed.len());
            let at = |i: usize, j: usize| h[i / s][j / s] * seed[i % s][j % s];
            h = (0..n * s)
                .map(|i| (0..n * s).map(|j| at(i, j)).collect())
                .collect();
        }
        let scale = (rotation.block() as f64).sqrt();
        h.iter_mut().flatten().for_each(|x| *x /= scale);
        h
    }

    #[test]
    fn rotations_are_their_matrices_and_their_own_inverses() {
        for rotation in [1, 2, 8, 64, 256]
            .map(|block| Rotation::Hadamard { block })
            .into_iter()
            .chain([1, 4, 16, 64, 256].map(|block| Rotation::Hadamard4 { block }))
        {
            let (k, h) = (512, matrix(rotation));
            let x: Vec<f32> = (0..k)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0)
                .collect();
            let transform = InputTransform::default().with_rotation(rotation).unwrap();
            let mut y = x.clone();
            transform.apply(&mut y).unwrap();
            let block = rotation.block();
            for (b, x) in x.chunks(block).enumerate() {
                for j in 0..block {
                    let want: f64 = (0..block).map(|i| f64::from(x[i]) * h[i][j]).sum();
                    let off = (f64::from(y[b * block + j]) - want).abs();
                    assert!(off < 2e-5, "{rotation:?} {j}: {off}");
                }
            }
            transform.apply(&mut y).unwrap();
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 2e-5));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let none = InputTransform::default;
        for bad in [0, 3, 48] {
            assert!(none()
                .with_rotation(Rotation::Hadamard { block: bad })
                .is_err());
        }
        for bad in [0, 2, 8, 12, 128] {
            let made = none().with_rotation(Rotation::Hadamard4 { block: bad });
            assert!(made.unwrap_err().to_string().contains("a power of four"));
        }
        assert!(none().with_multiplier(&[1.0, f32::NAN]).is_err());
        let rotation = none()
            .with_rotation(Rotation::Hadamard { block: 8 })
            .unwrap();
        assert!(rotation.apply(&mut [0.0; 12]).is_err());
        let multiplier = none().with_multiplier(&[1.0; 3]).unwrap();
        assert!(multiplier.apply(&mut [0.0; 4]).is_err());
    }
}
