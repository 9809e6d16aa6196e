//! Tensor maps: what `cuTensorMapEncodeTiled` writes and a TMA instruction reads.
//!
//! The real 128 bytes are secret; these hold the same facts in an order of our own:
//!
//! ```text
//! word 0   "TENSRMAP"
//! word 1   bytes: data type, rank, interleave, swizzle, L2 promotion, out-of-bounds fill
//! word 2   address           words 3-7   extents in elements, innermost first
//! words 8-11   strides in bytes of axes 1..rank
//! words 12-13  box extents, 16 bits each      word 14   element strides, 8 bits each
//! ```

/// Words of a tensor map.
pub const WORDS: usize = 16;
const MARK: u64 = u64::from_le_bytes(*b"TENSRMAP");
/// Most axes.
pub const MAX_RANK: usize = 5;

/// A tiled view of a tensor in global memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// `CUtensorMapDataType`.
    pub data_type: u8,
    /// `CUtensorMapInterleave`: 0 none, 1 of 16 bytes, 2 of 32.
    pub interleave: u8,
    /// `CUtensorMapSwizzle`: 0 none, 1 over 32 bytes, 2 over 64, 3 over 128.
    pub swizzle: u8,
    /// `CUtensorMapL2promotion`.
    pub l2_promotion: u8,
    /// `CUtensorMapFloatOOBfill`: 0 zeros, 1 NaN.
    pub fill: u8,
    /// First element.
    pub address: u64,
    /// Extents in elements, innermost first.
    pub extents: Vec<u64>,
    /// Strides in bytes of axes 1 and up.
    pub strides: Vec<u64>,
    /// Extents of the box that one instruction moves.
    pub box_extents: Vec<u32>,
    /// Steps between the elements taken, per axis.
    pub element_strides: Vec<u32>,
}

/// Size of an element of a `CUtensorMapDataType`; none for one that is not known.
pub fn element_bytes(data_type: u8) -> Option<u64> {
    match data_type {
        0 => Some(1),
        1 | 6 | 9 => Some(2),
        2 | 3 | 7 | 10..=12 => Some(4),
        4 | 5 | 8 => Some(8),
        _ => None,
    }
}

impl TensorMap {
    /// What is wrong with it by the rules of `cuTensorMapEncodeTiled`; none if it may be used.
    pub fn objection(&self) -> Option<String> {
        let rank = self.extents.len();
        let Some(element) = element_bytes(self.data_type) else {
            return Some(format!("data type {} is not emulated", self.data_type));
        };
        if rank == 0 || rank > MAX_RANK || (self.interleave != 0 && rank < 3) {
            return Some(format!("rank {rank}"));
        }
        if self.interleave > 2 || self.swizzle > 3 || self.l2_promotion > 3 || self.fill > 1 {
            return Some(String::from(
                "interleave, swizzle, promotion or fill out of range",
            ));
        }
        if self.fill == 1 && !matches!(self.data_type, 6..=12) {
            return Some(String::from("NaN fill of an integer type"));
        }
        let align = if self.interleave == 2 { 32 } else { 16 };
        if !self.address.is_multiple_of(align) {
            return Some(format!(
                "address {:#x} is not {align}-byte aligned",
                self.address
            ));
        }
        if let Some(n) = self.extents.iter().find(|n| **n == 0 || **n > 1 << 32) {
            return Some(format!("extent {n}"));
        }
        if let Some(s) = self
            .strides
            .iter()
            .find(|s| !s.is_multiple_of(align) || **s >= 1 << 40)
        {
            return Some(format!(
                "stride of {s} bytes, want a multiple of {align} below 2^40"
            ));
        }
        if self
            .strides
            .first()
            .is_some_and(|s| *s < self.extents[0] * element)
        {
            return Some(String::from(
                "rows overlap: the first stride is shorter than a row",
            ));
        }
        if let Some(n) = self.box_extents.iter().find(|n| **n == 0 || **n > 256) {
            return Some(format!("box extent {n}, want 1 to 256"));
        }
        if let Some(n) = self.element_strides.iter().find(|n| **n == 0 || **n > 8) {
            return Some(format!("element stride {n}, want 1 to 8"));
        }
        let row = u64::from(self.box_extents[0]) * element;
        if self.interleave == 0 && !row.is_multiple_of(16) {
            return Some(format!("a box row of {row} bytes, want a multiple of 16"));
        }
        let span = 16 << self.swizzle;
        if self.interleave == 0 && self.swizzle != 0 && row > span {
            return Some(format!(
                "a box row of {row} bytes under a swizzle over {span}"
            ));
        }
        None
    }

    /// The 128 bytes.
    pub fn encode(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let rank = self.extents.len() as u8;
        words[0] = MARK;
        words[1] = u64::from_le_bytes([
            self.data_type,
            rank,
            self.interleave,
            self.swizzle,
            self.l2_promotion,
            self.fill,
            0,
            0,
        ]);
        words[2] = self.address;
        words[3..3 + self.extents.len()].copy_from_slice(&self.extents);
        words[8..8 + self.strides.len()].copy_from_slice(&self.strides);
        for (i, n) in self.box_extents.iter().enumerate() {
            words[12 + i / 4] |= u64::from(*n) << (16 * (i % 4));
        }
        for (i, n) in self.element_strides.iter().enumerate() {
            words[14] |= u64::from(*n) << (8 * i);
        }
        words
    }

    /// Of the 128 bytes; none if `cuTensorMapEncodeTiled` did not write them.
    pub fn decode(words: &[u64; WORDS]) -> Option<Self> {
        let [data_type, rank, interleave, swizzle, l2_promotion, fill, ..] = words[1].to_le_bytes();
        let rank = usize::from(rank);
        if words[0] != MARK || rank == 0 || rank > MAX_RANK {
            return None;
        }
        let box_extent = |i: usize| (words[12 + i / 4] >> (16 * (i % 4))) as u32 & 0xFFFF;
        Some(TensorMap {
            data_type,
            interleave,
            swizzle,
            l2_promotion,
            fill,
            address: words[2],
            extents: words[3..3 + rank].to_vec(),
            strides: words[8..7 + rank].to_vec(),
            box_extents: (0..rank).map(box_extent).collect(),
            element_strides: (0..rank)
                .map(|i| (words[14] >> (8 * i)) as u32 & 0xFF)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TensorMap {
        TensorMap {
            data_type: 0,
            interleave: 0,
            swizzle: 3,
            l2_promotion: 2,
            fill: 0,
            address: 0x7000_0000_0000,
            extents: vec![4096, 300, 7, 2, 5],
            strides: vec![4096, 1 << 21, 1 << 24, 1 << 26],
            box_extents: vec![128, 256, 1, 1, 2],
            element_strides: vec![1, 1, 2, 1, 8],
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let map = example();
        assert_eq!(map.objection(), None);
        assert_eq!(TensorMap::decode(&map.encode()), Some(map));
        assert_eq!(TensorMap::decode(&[0; WORDS]), None);
    }

    #[test]
    fn what_the_hardware_can_t_do_is_refused() {
        let broken: [fn(&mut TensorMap); 7] = [
            |m| m.address += 8,
            |m| m.strides[0] = 4100,
            |m| m.strides[0] = 2048,
            |m| m.box_extents[0] = 144,
            |m| m.box_extents[1] = 257,
            |m| m.fill = 1,
            |m| m.extents[1] = 0,
        ];
        for (i, change) in broken.iter().enumerate() {
            let mut map = example();
            change(&mut map);
            assert!(map.objection().is_some(), "change {i}");
        }
    }
}
