//! What the caller sets: the operation, the layouts, the preferences. Attributes go by NVIDIA's numbers,
//! each with its exact size.
use super::status::{Result, Status};
use crate::driver::abi::Host;

/// `cudaDataType_t`, as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataType(pub u32);

impl DataType {
    /// f32.
    pub const F32: DataType = DataType(0);
    /// f16.
    pub const F16: DataType = DataType(2);
    /// i8.
    pub const I8: DataType = DataType(3);
    /// i32.
    pub const I32: DataType = DataType(10);
    /// bf16.
    pub const BF16: DataType = DataType(14);

    /// Size of an element; none for a type that is not emulated.
    pub fn bytes(self) -> Option<u64> {
        match self {
            DataType::I8 => Some(1),
            DataType::F16 | DataType::BF16 => Some(2),
            DataType::F32 | DataType::I32 => Some(4),
            _ => None,
        }
    }
}

/// Reads an attribute's value of exactly so many bytes.
fn value<const N: usize>(from: Host, bytes: usize) -> Result<u64> {
    if bytes != N {
        return Err(Status::INVALID_VALUE
            .because(format!("an attribute of {N} bytes was passed with {bytes}")));
    }
    Ok(from.number::<N>()?)
}

fn unknown(what: &str, which: u32) -> Result {
    Err(Status::INVALID_VALUE.because(format!("there is no {what} attribute {which}")))
}

/// `CUBLAS_OP_*`.
pub const OP_N: u32 = 0;
/// Transposed.
pub const OP_T: u32 = 1;
/// No epilogue.
pub const EPILOGUE_DEFAULT: u32 = 1;

/// `cublasLtMatmulDesc_t`.
#[derive(Clone, Debug)]
pub struct MatmulDesc {
    /// `cublasComputeType_t`.
    pub compute: u32,
    /// Type of alpha and beta.
    pub scale: DataType,
    /// Where alpha and beta are: 0 host, 1 device, 2 and up device vectors.
    pub pointer_mode: u32,
    /// Operations on A, B, C.
    pub trans: [u32; 3],
    /// Part of the result: 2 is all of it.
    pub fill: u32,
    /// What follows the product.
    pub epilogue: u32,
    /// Attributes that no product here takes, set to something: bias, auxiliary output, scales.
    pub extras: Vec<u32>,
}

impl MatmulDesc {
    /// With the defaults of `cublasLtMatmulDescCreate`.
    pub fn new(compute: u32, scale: u32) -> Result<Self> {
        if !(64..=79).contains(&compute) {
            return Err(Status::INVALID_VALUE.because(format!("compute type {compute}")));
        }
        Ok(MatmulDesc {
            compute,
            scale: DataType(scale),
            pointer_mode: 0,
            trans: [OP_N; 3],
            fill: 2,
            epilogue: EPILOGUE_DEFAULT,
            extras: Vec::new(),
        })
    }

    /// `cublasLtMatmulDescSetAttribute`.
    pub fn set(&mut self, which: u32, from: Host, bytes: usize) -> Result {
        let word = |n| n as u32;
        match which {
            0 => self.compute = word(value::<4>(from, bytes)?),
            1 => self.scale = DataType(word(value::<4>(from, bytes)?)),
            2 => self.pointer_mode = word(value::<4>(from, bytes)?),
            3..=5 => self.trans[which as usize - 3] = word(value::<4>(from, bytes)?),
            6 => self.fill = word(value::<4>(from, bytes)?),
            7 => self.epilogue = word(value::<4>(from, bytes)?),
            // Pointers and strides of bias, auxiliary output, scales and absolute maxima.
            8 | 10..=14 | 17..=21 | 23 | 24 => self.extra(which, value::<8>(from, bytes)?),
            // Number of multiprocessors to plan for: a hint.
            15 => drop(value::<4>(from, bytes)?),
            22 | 26 => drop(value::<4>(from, bytes)?),
            25 => drop(value::<1>(from, bytes)?),
            31..=36 => self.extra(which, value::<4>(from, bytes)?),
            _ => return unknown("matmul", which),
        }
        Ok(())
    }

    fn extra(&mut self, which: u32, value: u64) {
        self.extras.retain(|w| *w != which);
        if value != 0 {
            self.extras.push(which);
        }
    }
}

/// `cublasLtMatrixLayout_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the elements.
    pub data_type: DataType,
    /// `cublasLtOrder_t`: 0 columns, 1 rows, others interleaved.
    pub order: u32,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Elements from one column to the next.
    pub ld: i64,
    /// Matrices.
    pub batch: i32,
    /// Elements from one matrix to the next.
    pub batch_stride: i64,
    plane_offset: u64,
}

impl Layout {
    /// One matrix in column order.
    pub fn new(data_type: u32, rows: u64, cols: u64, ld: i64) -> Self {
        Layout {
            data_type: DataType(data_type),
            order: 0,
            rows,
            cols,
            ld,
            batch: 1,
            batch_stride: 0,
            plane_offset: 0,
        }
    }

    /// `cublasLtMatrixLayoutSetAttribute`.
    pub fn set(&mut self, which: u32, from: Host, bytes: usize) -> Result {
        match which {
            0 => self.data_type = DataType(value::<4>(from, bytes)? as u32),
            1 => self.order = value::<4>(from, bytes)? as u32,
            2 => self.rows = value::<8>(from, bytes)?,
            3 => self.cols = value::<8>(from, bytes)?,
            4 => self.ld = value::<8>(from, bytes)? as i64,
            5 => self.batch = value::<4>(from, bytes)? as i32,
            6 => self.batch_stride = value::<8>(from, bytes)? as i64,
            7 => self.plane_offset = value::<8>(from, bytes)?,
            _ => return unknown("layout", which),
        }
        Ok(())
    }
}

/// `cublasLtMatmulPreference_t`.
#[derive(Clone, Debug)]
pub struct Preference {
    /// Workspace that a candidate may need.
    pub max_workspace: u64,
    /// Alignment in bytes that A, B, C, D will have at least.
    pub min_alignment: [u32; 4],
}

impl Default for Preference {
    fn default() -> Self {
        Preference {
            max_workspace: 0,
            min_alignment: [256; 4],
        }
    }
}

impl Preference {
    /// `cublasLtMatmulPreferenceSetAttribute`.
    pub fn set(&mut self, which: u32, from: Host, bytes: usize) -> Result {
        match which {
            0 | 3 | 9 => drop(value::<4>(from, bytes)?),
            1 => self.max_workspace = value::<8>(from, bytes)?,
            5..=8 => self.min_alignment[which as usize - 5] = value::<4>(from, bytes)? as u32,
            12 => drop(value::<8>(from, bytes)?),
            _ => return unknown("preference", which),
        }
        Ok(())
    }
}
