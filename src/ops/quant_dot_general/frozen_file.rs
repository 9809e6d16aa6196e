//! A frozen operand in an `.npz` file, which numpy reads too.
//!
//! ```text
//!   integers      int8, the operand's shape (with a contraction in shards: its first axis cut in two)
//!   scales        float32, as many axes, of length 1 where a scale is shared (older files call them `steps`)
//!   bits          int8 [1]
//!   side          int8 [1]: 0 left, 1 right
//!   contracting   int8, the operand's contracted axes         batch   int8, its batch axes
//!   sharded       int8 [1]: 1 when the contraction is in shards
//! ```

use super::frozen::{FrozenOperand, Side};
use super::quantized::Quantized;
use super::shards;
use crate::npy::{write_npz, NpyArray, NpyError};
use crate::npz::{self, Npz};
use ndarray::{Array1, ArrayD};
use std::path::Path;
use std::sync::Arc;

impl FrozenOperand {
    /// Writes the operand to an `.npz` file.
    ///
    /// # Errors
    /// When the file can't be written; then nothing is left of it, and an old one is unchanged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), NpyError> {
        let path = path.as_ref();
        if let Some(axis) = self
            .contracting
            .iter()
            .chain(&self.batch)
            .find(|a| **a > 127)
        {
            return Err(NpyError::new(
                path,
                format!("axis {axis} to write"),
                "axes up to 127",
            ));
        }
        let axes = |axes: &[usize]| axes.iter().map(|&a| a as i8).collect::<Array1<i8>>();
        let side = match self.side {
            Side::Lhs => 0i8,
            Side::Rhs => 1,
        };
        write_npz(path, |npz| {
            npz.add_array("integers", &self.quantized.data.as_standard_layout())?;
            npz.add_array("scales", &self.quantized.scales.as_standard_layout())?;
            npz.add_array("bits", &Array1::from_elem(1, self.bits as i8))?;
            npz.add_array("side", &Array1::from_elem(1, side))?;
            npz.add_array("contracting", &axes(&self.contracting))?;
            npz.add_array("batch", &axes(&self.batch))?;
            npz.add_array("sharded", &Array1::from_elem(1, i8::from(self.shards > 1)))
        })
    }

    /// Reads an operand that was [saved](Self::save).
    ///
    /// # Errors
    /// When the file is missing, is not such an archive, or its arrays do not fit together.
    ///
    /// ```
    /// use imma::ops::{DimensionNumbers, FrozenOperand, QuantDotGeneral};
    /// use ndarray::arr2;
    /// let w = arr2(&[[0.5f32, -1.0], [0.25, 2.0]]).into_dyn();
    /// let dims = DimensionNumbers::matmul();
    /// let frozen = QuantDotGeneral::int8_inference().freeze_rhs(w.view(), &dims)?;
    /// let path = std::env::temp_dir().join(format!("imma-frozen-{}.npz", std::process::id()));
    /// frozen.save(&path)?;
    /// assert_eq!(FrozenOperand::load(&path)?, frozen);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: impl AsRef<Path>) -> Result<Self, NpyError> {
        let mut npz = npz::read(path)?;
        let data = int8(&mut npz, "integers")?;
        let scales = scales(&mut npz)?;
        let bits = one(&mut npz, "bits", 2..=8)? as u8;
        let side = match one(&mut npz, "side", 0..=1)? {
            0 => Side::Lhs,
            _ => Side::Rhs,
        };
        let sharded = one(&mut npz, "sharded", 0..=1)? == 1;
        let rank = data.ndim() - usize::from(sharded && data.ndim() > 0);
        let contracting = axes(&mut npz, "contracting", rank)?;
        let batch = axes(&mut npz, "batch", rank)?;
        if let Some(axis) = batch.iter().find(|a| contracting.contains(a)) {
            return Err(npz.refuse(
                format!("axis {axis} among contracting and batch"),
                "each axis once",
            ));
        }
        let (shape, shards) = match sharded {
            false => (data.shape().to_vec(), 1),
            true => uncut(&npz, data.shape(), &contracting)?,
        };
        let shared = match sharded {
            false => contracting.clone(),
            true => shards::cut_axes(&contracting, &batch).0,
        };
        let quantized = Quantized {
            data,
            scales,
            inside: None,
        };
        check_scales(&npz, &quantized, &shared)?;
        check_integers(&npz, &quantized, bits)?;
        Ok(FrozenOperand {
            side,
            bits,
            contracting,
            batch,
            shards,
            shape,
            quantized,
            packed: Arc::default(),
        })
    }
}

/// The scales, whatever the file's age.
fn scales(npz: &mut Npz) -> Result<ArrayD<f32>, NpyError> {
    let has = |name: &str| npz.names().any(|n| n == name);
    let name = match has("steps") && !has("scales") {
        true => "steps",
        false => "scales",
    };
    match npz.take(name)? {
        NpyArray::F32(scales) => Ok(scales),
        other => Err(wrong_type(npz, name, &other, "float32")),
    }
}

/// The shape of an operand whose first contracted axis lies in the file as two, and the number of shards.
fn uncut(
    npz: &Npz,
    shape: &[usize],
    contracting: &[usize],
) -> Result<(Vec<usize>, usize), NpyError> {
    let Some(&axis) = contracting.first() else {
        return Err(npz.refuse("shards without contracting axes", "a contraction to cut"));
    };
    let mut shape = shape.to_vec();
    let shards = shape.remove(axis);
    let whole = shape[axis].checked_mul(shards).filter(|_| shards > 1);
    let Some(whole) = whole else {
        return Err(npz.refuse(format!("{shards} shards"), "at least 2"));
    };
    shape[axis] = whole;
    Ok((shape, shards))
}

/// Refuses scales that do not broadcast along the axes `shared`, or are negative.
fn check_scales(npz: &Npz, quantized: &Quantized, shared: &[usize]) -> Result<(), NpyError> {
    let Quantized { data, scales, .. } = quantized;
    let fits = scales.ndim() == data.ndim()
        && (scales.shape().iter().zip(data.shape()).enumerate())
            .all(|(axis, (n, len))| *n == 1 || n == len && !shared.contains(&axis));
    if !fits {
        return Err(npz.refuse(
            format!("scales of shape {:?}", scales.shape()),
            format!(
                "the shape {:?} of the integers with 1 along the contracted axes",
                data.shape()
            ),
        ));
    }
    match scales.iter().find(|s| **s < 0.0) {
        Some(bad) => Err(npz.refuse(format!("a scale of {bad}"), "scales of at least zero")),
        None => Ok(()),
    }
}

/// Refuses integers that `bits` bits do not hold.
fn check_integers(npz: &Npz, quantized: &Quantized, bits: u8) -> Result<(), NpyError> {
    let limit = (1i16 << (bits - 1)) - 1;
    let beyond = |q: &&i8| i16::from(**q).abs() > limit;
    match quantized.data.iter().find(beyond) {
        Some(bad) => Err(npz.refuse(
            format!("the integer {bad}"),
            format!("{bits} bits: -{limit} to {limit}"),
        )),
        None => Ok(()),
    }
}

fn wrong_type(npz: &Npz, name: &str, found: &NpyArray, expected: &str) -> NpyError {
    npz.refuse(format!("'{name}' of {}", found.dtype()), expected)
}

fn int8(npz: &mut Npz, name: &str) -> Result<ArrayD<i8>, NpyError> {
    match npz.take(name)? {
        NpyArray::I8(array) => Ok(array),
        other => Err(wrong_type(npz, name, &other, "int8")),
    }
}

/// A number in an array of one element.
fn one(npz: &mut Npz, name: &str, valid: std::ops::RangeInclusive<i8>) -> Result<i8, NpyError> {
    let array = int8(npz, name)?;
    match array.as_slice().unwrap_or_default() {
        [x] if valid.contains(x) => Ok(*x),
        _ => Err(npz.refuse(
            format!("'{name}' = {:?}", array.iter().take(4).collect::<Vec<_>>()),
            format!("one number in {valid:?}"),
        )),
    }
}

/// Axes of an operand with `rank` axes, each once.
fn axes(npz: &mut Npz, name: &str, rank: usize) -> Result<Vec<usize>, NpyError> {
    let array = int8(npz, name)?;
    let mut axes = vec![];
    for &axis in &array {
        match usize::try_from(axis) {
            Ok(a) if a < rank && !axes.contains(&a) => axes.push(a),
            _ => {
                return Err(npz.refuse(
                    format!("axis {axis} in '{name}'"),
                    format!("axes below {rank}, each once"),
                ))
            }
        }
    }
    Ok(axes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{DimensionNumbers, QuantDotGeneral};

    #[test]
    fn files_call_scales_by_their_name_and_older_ones_are_read() {
        let w = ndarray::arr2(&[[0.5f32, -1.0], [0.25, 2.0]]).into_dyn();
        let dot_general = QuantDotGeneral::int8_inference();
        let frozen = dot_general.freeze_rhs(w.view(), &DimensionNumbers::matmul());
        let frozen = frozen.unwrap();
        let name = format!("imma-frozen-names-{}.npz", std::process::id());
        let path = std::env::temp_dir().join(name);
        frozen.save(&path).unwrap();
        let names = |npz: Npz| npz.names().map(String::from).collect::<Vec<_>>();
        let found = names(npz::read(&path).unwrap());
        assert!(found.contains(&"scales".into()) && !found.contains(&"steps".into()));

        let mut npz = npz::read(&path).unwrap();
        let scales = scales(&mut npz).unwrap();
        write_npz(&path, |out| {
            out.add_array("steps", &scales)?;
            for name in found.iter().filter(|name| *name != "scales") {
                out.add_array(name, &int8(&mut npz, name).unwrap())?;
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(FrozenOperand::load(&path).unwrap(), frozen);
        std::fs::remove_file(path).unwrap();
    }
}
