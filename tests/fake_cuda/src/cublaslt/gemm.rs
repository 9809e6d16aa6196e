//! The arithmetic of a checked product, column by column.
use half::{bf16, f16};
use rayon::prelude::*;

use super::descriptor::{DataType, Layout};
use super::problem::{Arithmetic, Problem};
use super::status::{Result, Status};
use crate::driver::abi::Host;
use crate::driver::note_fault;
use crate::driver::state::Driver;
use crate::driver::status::{Result as DriverResult, Status as DriverStatus};
use crate::memory::{GlobalMemory, MemoryFault};

/// What is left in the workspace: whoever counted on it finds out.
const SCRIBBLE: u8 = 0xA5;

/// Alpha or beta.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    /// Its four bytes, taken when the call was made.
    Known([u8; 4]),
    /// Where they will be in device memory when the product runs.
    At(u64),
}

impl Scalar {
    /// As the problem says where scalars are.
    pub fn new(problem: &Problem, at: Host) -> Result<Self> {
        if at.address() == 0 {
            return Err(Status::INVALID_VALUE.because("null pointer for alpha or beta"));
        }
        if problem.scalars_on_device {
            return Ok(Scalar::At(at.address() as u64));
        }
        Ok(Scalar::Known((at.number::<4>()? as u32).to_le_bytes()))
    }

    fn bytes(self, memory: &GlobalMemory) -> std::result::Result<[u8; 4], MemoryFault> {
        match self {
            Scalar::Known(bytes) => Ok(bytes),
            Scalar::At(address) => {
                let mut bytes = [0; 4];
                memory.read(address, &mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

/// A product with its operands.
pub struct Gemm {
    /// What to compute.
    pub problem: Problem,
    /// Factor of the product.
    pub alpha: Scalar,
    /// Factor of C.
    pub beta: Scalar,
    /// Device addresses.
    pub a: u64,
    /// Of B.
    pub b: u64,
    /// Of C, which is not read where beta is zero.
    pub c: u64,
    /// Of D.
    pub d: u64,
    /// Memory to overwrite.
    pub workspace: (u64, u64),
}

impl Gemm {
    /// Checks what can be checked before the product runs.
    ///
    /// # Errors
    /// Null or misaligned matrices; a workspace that is no device memory.
    pub fn check_pointers(&self, driver: &Driver) -> Result {
        let all = [("A", self.a), ("B", self.b), ("C", self.c), ("D", self.d)];
        for ((name, address), align) in all.into_iter().zip(self.problem.alignment()) {
            // Without C nothing is added, which is for beta to say.
            if address == 0 && name != "C" {
                return Err(Status::INVALID_VALUE.because(format!("{name} is null")));
            }
            if !address.is_multiple_of(align) {
                return Err(Status::INVALID_VALUE.because(format!(
                    "{name} at {address:#x}, want {align}-byte alignment"
                )));
            }
        }
        let (address, bytes) = self.workspace;
        let holds = |(base, size)| address + bytes <= base + size;
        if bytes > 0 && !driver.memory.allocation(address).is_some_and(holds) {
            return Err(Status::INVALID_VALUE.because("the workspace is no device memory"));
        }
        if self.c == self.d && self.c != 0 && self.problem.c != self.problem.d {
            return Err(Status::INVALID_VALUE.because("C is D, with another layout"));
        }
        Ok(())
    }

    /// Computes it.
    ///
    /// # Errors
    /// An operand outside its allocation or never written: as a kernel's fault, which sticks.
    pub fn run(&self, driver: &Driver) -> DriverResult {
        driver.check_poison()?;
        self.compute(&driver.memory).map_err(|fault| {
            let p = &self.problem;
            note_fault(&format!(
                "cublasLtMatmul m={} n={} k={}: {fault}",
                p.m, p.n, p.k
            ));
            let status = match fault {
                MemoryFault::OutOfBounds { .. } | MemoryFault::UseAfterFree { .. } => {
                    DriverStatus::ILLEGAL_ADDRESS
                }
                _ => DriverStatus::LAUNCH_FAILED,
            };
            driver.poison(status);
            status.because(fault)
        })
    }

    fn compute(&self, memory: &GlobalMemory) -> std::result::Result<(), MemoryFault> {
        let (address, bytes) = self.workspace;
        memory.fill(address, SCRIBBLE, bytes)?;
        let (alpha, beta) = (self.alpha.bytes(memory)?, self.beta.bytes(memory)?);
        // Both 0 and -0.0, and i32 zero: the same test on the bits without the sign.
        let adds = u32::from_le_bytes(beta) << 1 != 0;
        let p = &self.problem;
        for i in 0..p.d.batch as u64 {
            let a = read(memory, batch(self.a, &p.a, i), &p.a)?;
            let b = read(memory, batch(self.b, &p.b, i), &p.b)?;
            let c = match adds {
                true => read(memory, batch(self.c, &p.c, i), &p.c)?,
                false => Vec::new(),
            };
            let d = match p.arithmetic {
                Arithmetic::Int8 => int8(p, &a, &b, &c, alpha, beta),
                Arithmetic::Float => float(p, &a, &b, &c, alpha, beta),
            };
            write(memory, batch(self.d, &p.d, i), &p.d, &d)?;
        }
        Ok(())
    }
}

fn element_bytes(layout: &Layout) -> u64 {
    layout.data_type.bytes().unwrap_or(1)
}

/// Address of a matrix of a batch.
fn batch(base: u64, layout: &Layout, i: u64) -> u64 {
    base.wrapping_add(
        (layout.batch_stride as u64)
            .wrapping_mul(i)
            .wrapping_mul(element_bytes(layout)),
    )
}

/// The elements in column order without gaps; what lies between columns is not touched.
fn read(
    memory: &GlobalMemory,
    base: u64,
    layout: &Layout,
) -> std::result::Result<Vec<u8>, MemoryFault> {
    let (column, step) = column_bytes(layout);
    let mut out = vec![0; column * layout.cols as usize];
    for (j, to) in out.chunks_exact_mut(column).enumerate() {
        memory.read(base + j as u64 * step, to)?;
    }
    Ok(out)
}

fn write(
    memory: &GlobalMemory,
    base: u64,
    layout: &Layout,
    data: &[u8],
) -> std::result::Result<(), MemoryFault> {
    let (column, step) = column_bytes(layout);
    for (j, from) in data.chunks_exact(column).enumerate() {
        memory.write(base + j as u64 * step, from)?;
    }
    Ok(())
}

/// Bytes of a column, and from one column to the next.
fn column_bytes(layout: &Layout) -> (usize, u64) {
    let size = element_bytes(layout);
    ((layout.rows * size) as usize, layout.ld as u64 * size)
}

fn four(bytes: &[u8], i: usize) -> [u8; 4] {
    [0, 1, 2, 3].map(|b| bytes[4 * i + b])
}

/// int8: columns of A (it is transposed) times columns of B.
fn int8(p: &Problem, a: &[u8], b: &[u8], c: &[u8], alpha: [u8; 4], beta: [u8; 4]) -> Vec<u8> {
    let (m, k) = (p.m as usize, p.k as usize);
    let columns = (0..p.n as usize).into_par_iter();
    columns
        .flat_map_iter(|j| (0..m).map(move |i| (i, j)))
        .flat_map_iter(|(i, j)| {
            let products = a[i * k..][..k].iter().zip(&b[j * k..][..k]);
            let sum = products.fold(0i32, |sum, (x, y)| {
                sum.wrapping_add(i32::from(*x as i8) * i32::from(*y as i8))
            });
            let at = j * m + i;
            if p.scale == DataType::I32 {
                let (alpha, beta) = (i32::from_le_bytes(alpha), i32::from_le_bytes(beta));
                let old = match c.is_empty() {
                    true => 0,
                    false => beta.wrapping_mul(i32::from_le_bytes(four(c, at))),
                };
                alpha
                    .wrapping_mul(sum)
                    .wrapping_add(old)
                    .to_le_bytes()
                    .to_vec()
            } else {
                let (alpha, beta) = (f32::from_le_bytes(alpha), f32::from_le_bytes(beta));
                let old = match c.is_empty() {
                    true => 0.0,
                    false => beta * f32::from(c[at] as i8),
                };
                // A float becomes an i8 by saturation, NaN by 0.
                vec![(alpha * sum as f32 + old).round_ties_even() as i8 as u8]
            }
        })
        .collect()
}

/// An element of a float type.
fn widen(data_type: DataType, bytes: &[u8], i: usize) -> f32 {
    let two = || [bytes[2 * i], bytes[2 * i + 1]];
    match data_type {
        DataType::F16 => f16::from_le_bytes(two()).to_f32(),
        DataType::BF16 => bf16::from_le_bytes(two()).to_f32(),
        _ => f32::from_le_bytes(four(bytes, i)),
    }
}

fn narrow(data_type: DataType, value: f32) -> Vec<u8> {
    match data_type {
        DataType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        DataType::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

fn float(p: &Problem, a: &[u8], b: &[u8], c: &[u8], alpha: [u8; 4], beta: [u8; 4]) -> Vec<u8> {
    let (m, k) = (p.m as usize, p.k as usize);
    let (alpha, beta) = (f32::from_le_bytes(alpha), f32::from_le_bytes(beta));
    let row = |i: usize, x: usize| match p.transposed[0] {
        true => i * k + x,
        false => x * m + i,
    };
    let column = |x: usize, j: usize| match p.transposed[1] {
        true => x * p.n as usize + j,
        false => j * k + x,
    };
    let columns = (0..p.n as usize).into_par_iter();
    columns
        .flat_map_iter(|j| (0..m).map(move |i| (i, j)))
        .flat_map_iter(|(i, j)| {
            let sum = (0..k).fold(0.0f32, |sum, x| {
                let (x, y) = (
                    widen(p.a.data_type, a, row(i, x)),
                    widen(p.b.data_type, b, column(x, j)),
                );
                x.mul_add(y, sum)
            });
            let old = match c.is_empty() {
                true => 0.0,
                false => beta * widen(p.c.data_type, c, j * m + i),
            };
            narrow(p.d.data_type, alpha * sum + old)
        })
        .collect()
}
