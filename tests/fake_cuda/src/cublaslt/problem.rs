//! A product that passed every check: `D = alpha * op(A) op(B) + beta * C`.
use super::descriptor::{DataType, Layout, MatmulDesc, EPILOGUE_DEFAULT, OP_N, OP_T};
use super::status::{Refusal, Result, Status};

const COMPUTE_32F: u32 = 68;
const COMPUTE_32F_PEDANTIC: u32 = 69;
const COMPUTE_32I: u32 = 72;
const COMPUTE_32I_PEDANTIC: u32 = 73;
const FILL_FULL: u32 = 2;

/// What is multiplied and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// i8 operands, exact i32 sums.
    Int8,
    /// Float operands, f32 sums.
    Float,
}

/// A checked product.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Operands and sums.
    pub arithmetic: Arithmetic,
    /// Type of alpha and beta.
    pub scale: DataType,
    /// Whether alpha and beta are in device memory.
    pub scalars_on_device: bool,
    /// Rows of D.
    pub m: u64,
    /// Columns of D.
    pub n: u64,
    /// Length of the sums.
    pub k: u64,
    /// Whether A and B are transposed.
    pub transposed: [bool; 2],
    /// As the caller described them, checked.
    pub a: Layout,
    /// The second operand.
    pub b: Layout,
    /// What is added.
    pub c: Layout,
    /// The result.
    pub d: Layout,
}

fn unsupported(why: impl std::fmt::Display) -> Refusal {
    Status::NOT_SUPPORTED.because(why)
}

fn invalid(why: impl std::fmt::Display) -> Refusal {
    Status::INVALID_VALUE.because(why)
}

impl Problem {
    /// Checks a descriptor with four layouts.
    ///
    /// # Errors
    /// `CUBLAS_STATUS_INVALID_VALUE` for what contradicts itself, `NOT_SUPPORTED` for what no kernel computes.
    pub fn new(desc: &MatmulDesc, a: &Layout, b: &Layout, c: &Layout, d: &Layout) -> Result<Self> {
        for (name, layout) in [("A", a), ("B", b), ("C", c), ("D", d)] {
            check_layout(name, layout)?;
        }
        let transposed = match desc.trans {
            [ta @ (OP_N | OP_T), tb @ (OP_N | OP_T), OP_N] => [ta == OP_T, tb == OP_T],
            other => return Err(unsupported(format!("operations {other:?}"))),
        };
        let turn = |l: &Layout, t| {
            if t {
                (l.cols, l.rows)
            } else {
                (l.rows, l.cols)
            }
        };
        let ((m, k), (k_of_b, n)) = (turn(a, transposed[0]), turn(b, transposed[1]));
        if k != k_of_b || (c.rows, c.cols) != (m, n) || (d.rows, d.cols) != (m, n) {
            return Err(invalid(format!(
                "op(A) is {m}x{k}, op(B) {k_of_b}x{n}, C {}x{}, D {}x{}",
                c.rows, c.cols, d.rows, d.cols
            )));
        }
        if [b, c, d].iter().any(|l| l.batch != a.batch) {
            return Err(invalid("batch counts differ"));
        }
        if d.batch > 1 && (d.batch_stride == 0 || a.batch_stride < 0 || b.batch_stride < 0) {
            return Err(invalid(
                "a batch whose results share memory, or a negative stride",
            ));
        }
        if desc.fill != FILL_FULL || desc.epilogue != EPILOGUE_DEFAULT {
            return Err(unsupported(format!(
                "epilogue {} (fill mode {})",
                desc.epilogue, desc.fill
            )));
        }
        if !desc.extras.is_empty() {
            return Err(unsupported(format!(
                "matmul attributes {:?} (bias, auxiliary output or scales)",
                desc.extras
            )));
        }
        if desc.pointer_mode > 1 {
            return Err(unsupported(format!("pointer mode {}", desc.pointer_mode)));
        }
        let problem = Problem {
            arithmetic: arithmetic(desc, [a, b, c, d].map(|l| l.data_type))?,
            scale: desc.scale,
            scalars_on_device: desc.pointer_mode == 1,
            m,
            n,
            k,
            transposed,
            a: a.clone(),
            b: b.clone(),
            c: c.clone(),
            d: d.clone(),
        };
        if problem.arithmetic == Arithmetic::Int8 {
            problem.check_int8()?;
        }
        Ok(problem)
    }

    /// The rules of int8 in regular data ordering.
    fn check_int8(&self) -> Result {
        if self.transposed != [true, false] {
            return Err(unsupported("int8 wants A transposed and B not (TN)"));
        }
        for (name, n) in [("m", self.m), ("k", self.k)] {
            if n % 4 != 0 {
                return Err(unsupported(format!(
                    "int8 with {name} = {n}: want a multiple of 4"
                )));
            }
        }
        for (name, layout) in [
            ("A", &self.a),
            ("B", &self.b),
            ("C", &self.c),
            ("D", &self.d),
        ] {
            if layout.ld % 4 != 0 {
                let ld = layout.ld;
                return Err(unsupported(format!(
                    "int8 with a leading dimension of {ld} for {name}: want a multiple of 4"
                )));
            }
        }
        Ok(())
    }

    /// Alignment in bytes that A, B, C and D need.
    pub fn alignment(&self) -> [u64; 4] {
        match self.arithmetic {
            Arithmetic::Int8 => [4; 4],
            Arithmetic::Float => {
                [&self.a, &self.b, &self.c, &self.d].map(|l| l.data_type.bytes().unwrap_or(1))
            }
        }
    }
}

fn check_layout(name: &str, layout: &Layout) -> Result {
    if layout.order != 0 {
        return Err(unsupported(format!(
            "order {} of {name}: want columns",
            layout.order
        )));
    }
    if layout.rows == 0 || layout.cols == 0 || layout.batch < 1 {
        return Err(invalid(format!(
            "{name} is {}x{} times {}",
            layout.rows, layout.cols, layout.batch
        )));
    }
    if u64::try_from(layout.ld).map_or(true, |ld| ld < layout.rows) {
        return Err(invalid(format!(
            "{name} has {} rows and a leading dimension of {}",
            layout.rows, layout.ld
        )));
    }
    Ok(())
}

/// The combinations of types in the table under `cublasLtMatmul`, as far as they are emulated.
fn arithmetic(desc: &MatmulDesc, types: [DataType; 4]) -> Result<Arithmetic> {
    use DataType as T;
    let refuse = || {
        Err(unsupported(format!(
            "compute type {}, scale type {}, A, B, C, D of types {types:?}",
            desc.compute, desc.scale.0
        )))
    };
    match (desc.compute, desc.scale, types) {
        (COMPUTE_32I | COMPUTE_32I_PEDANTIC, T::I32, [T::I8, T::I8, T::I32, T::I32])
        | (COMPUTE_32I | COMPUTE_32I_PEDANTIC, T::F32, [T::I8, T::I8, T::I8, T::I8]) => {
            Ok(Arithmetic::Int8)
        }
        (COMPUTE_32F | COMPUTE_32F_PEDANTIC, T::F32, [a, b, c, d]) => {
            let operand = matches!(a, T::F16 | T::BF16 | T::F32) && a == b;
            let result = c == d && (d == a || d == T::F32);
            match operand && result {
                true => Ok(Arithmetic::Float),
                false => refuse(),
            }
        }
        _ => refuse(),
    }
}
