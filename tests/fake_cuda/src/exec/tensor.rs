//! Boxes of a tensor: which bytes of global memory lie where in shared memory.
use super::planted::{planted, Planted};
use crate::ptx::ast::Ty;
use crate::ptx::ir::AtomOp;
use crate::tensor_map::{element_bytes, TensorMap};

/// A row of a box that lies inside the tensor, at least in part.
pub(super) struct Run {
    /// Where its first byte inside the tensor stands in the box, rows side by side, before the swizzle.
    pub offset: u64,
    /// The address of that byte.
    pub global: u64,
    /// How many bytes there are.
    pub bytes: u64,
}

/// A box of a tensor.
pub(super) struct Box {
    /// Bytes in shared memory, those outside the tensor included.
    pub bytes: u64,
    pub runs: Vec<Run>,
}

/// What is not emulated about a map.
pub(super) fn objection(map: &TensorMap) -> Option<String> {
    let row = u64::from(map.box_extents[0]) * element_bytes(map.data_type)?;
    if map.interleave != 0 || map.fill != 0 || map.element_strides.iter().any(|s| *s != 1) {
        return Some(String::from(
            "interleaved layouts, NaN fill and element strides are not emulated",
        ));
    }
    if map.swizzle != 0 && row != 16 << map.swizzle {
        return Some(format!(
            "a box row of {row} bytes under a swizzle over {} is not emulated",
            16 << map.swizzle
        ));
    }
    None
}

/// The element type of a reducing store, or why there is none.
pub(super) fn reduction(map: &TensorMap, op: AtomOp) -> Result<(AtomOp, Ty), String> {
    let ty = match map.data_type {
        2 => Ty::U32,
        3 => Ty::S32,
        4 => Ty::U64,
        5 => Ty::S64,
        6 => Ty::F16,
        7 => Ty::F32,
        9 => Ty::Bf16,
        other => return Err(format!("a reduction over elements of data type {other}")),
    };
    let bitwise = matches!(op, AtomOp::And | AtomOp::Or | AtomOp::Xor);
    let allowed = match ty {
        Ty::F16 | Ty::Bf16 | Ty::F32 => op == AtomOp::Add,
        Ty::S64 => op != AtomOp::Add,
        _ => true,
    };
    if !allowed {
        let why = if bitwise {
            "bits of floats"
        } else {
            "no such operation"
        };
        return Err(format!("{op:?} over {ty:?} elements: {why}"));
    }
    Ok((op, ty))
}

/// The box whose first element has these coordinates.
pub(super) fn runs(map: &TensorMap, at: &[i64]) -> Box {
    let element = element_bytes(map.data_type).unwrap_or(1);
    let extent = |axis: usize| map.extents[axis] as i64;
    let row = u64::from(map.box_extents[0]) * element;
    let rows: u64 = map.box_extents[1..].iter().map(|n| u64::from(*n)).product();
    // The part of a row that is inside, in elements.
    let first = at[0].clamp(0, extent(0));
    let last = (at[0] + i64::from(map.box_extents[0])).clamp(0, extent(0));
    let mut list = Vec::new();
    for r in 0..rows {
        let (mut rest, mut global, mut inside) = (r, map.address, last > first);
        for (axis, start) in at.iter().enumerate().skip(1) {
            let n = u64::from(map.box_extents[axis]);
            let c = start + (rest % n) as i64;
            rest /= n;
            inside &= (0..extent(axis)).contains(&c);
            if inside {
                global += c as u64 * map.strides[axis - 1];
            }
        }
        if inside {
            list.push(Run {
                offset: r * row + (first - at[0]) as u64 * element,
                global: global + first as u64 * element,
                bytes: (last - first) as u64 * element,
            });
        }
    }
    Box {
        bytes: rows * row,
        runs: list,
    }
}

/// Where a swizzle (`CUtensorMapSwizzle`: 0 none, 1 over 32 bytes, 2 over 64, 3 over 128) puts the byte that belongs
/// at a shared address: the 16-byte chunk's number within the span, exclusive-or the number of the 128-byte line.
pub(super) fn swizzle(mode: u8, addr: u64) -> u64 {
    let lines = (1 << mode) - 1;
    if planted(Planted::NoSwizzle) {
        return addr;
    }
    let line = if planted(Planted::WrongSwizzleBits) {
        8
    } else {
        7
    };
    addr ^ ((addr >> line & lines) << 4)
}
