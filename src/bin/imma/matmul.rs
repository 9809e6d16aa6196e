//! `imma matmul`.

use crate::device::DeviceArgs;
use crate::say::{self, Reports};
use crate::timing::Best;
use crate::Failure;
use clap::ValueEnum;
use half::{bf16, f16};
use imma::npy::{self, NpyArray, NpyElement};
use imma::ops::{matmul_float, matmul_true_int8_on, q_matmul_int8_broadcast_on, MatmulShape};
use imma::quant::ErrorReport;
use imma::{Backend, Element, Error};
use ndarray::{ArrayD, ArrayViewD};
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// The left operand, [.., M, K] or [K]: int8, float16, bfloat16 or float32 (float64 is rounded to it).
    a: PathBuf,
    /// The right operand, [.., K, N] or [K], of the same type.
    w: PathBuf,
    /// Where the product goes: [.., M, N], vectors' axes left out, as numpy.matmul has it.
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// Type of a float product (default: that of the operands).
    #[arg(long, value_enum)]
    out_dtype: Option<OutDtype>,
    /// Also print the error against the float product.
    #[arg(long)]
    reference: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutDtype {
    F32,
    F16,
    /// As ml_dtypes has it, which numpy writes as `V2`.
    Bf16,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let chosen = args.device.backend()?;
    let (a, a_note) = npy::read_with_note(&args.a)?;
    let (w, w_note) = npy::read_with_note(&args.w)?;
    if a.dtype() != w.dtype() {
        let noted = |note: Option<&str>| note.map_or(String::new(), |note| format!(" ({note})"));
        return Err(Failure::new(format!(
            "{}: found {}{}, expected {} as in {}{}",
            args.w.display(),
            w.dtype(),
            noted(w_note),
            a.dtype(),
            args.a.display(),
            noted(a_note)
        )));
    }
    if let (NpyArray::I8(_), Some(_)) = (&a, args.out_dtype) {
        return Err(Failure::new(
            "--out-dtype was given with int8 operands, expected float operands",
        ));
    }
    let product = Product {
        shape: shape(&args, a.shape(), w.shape())?,
        backend: chosen.as_backend(),
        args: &args,
    };
    for (path, note) in [(&args.a, a_note), (&args.w, w_note)] {
        if let Some(note) = note {
            say::note(format!("{}: {note}", path.display()));
        }
    }
    match (&a, &w) {
        (NpyArray::I8(a), NpyArray::I8(w)) => product.write(
            a,
            w,
            "int8 -> int32",
            f32::from,
            |x: i32| x as f32,
            || matmul_true_int8_on(product.backend, a.view(), w.view()),
        ),
        (NpyArray::F32(a), NpyArray::F32(w)) => product.float(a, w),
        (NpyArray::F16(a), NpyArray::F16(w)) => product.float(a, w),
        (NpyArray::BF16(a), NpyArray::BF16(w)) => product.float(a, w),
        _ => Err(Failure::new(format!(
            "{}: found {}, expected int8, float16, bfloat16 or float32",
            args.a.display(),
            a.dtype()
        ))),
    }
}

/// The shapes, or a sentence that names the files.
fn shape(args: &Args, a: &[usize], w: &[usize]) -> Result<MatmulShape, Failure> {
    MatmulShape::new("matmul", a, w).map_err(|error| {
        let rows = w.len().saturating_sub(2);
        let expected = match (a.last(), w.get(rows), error) {
            (Some(k), Some(found), _) if k != found => match w.len() {
                1 => format!("{k} elements"),
                _ => format!("{k} rows"),
            },
            (.., Error::ShapeMismatch { expected, .. }) => expected,
            (.., other) => return other.into(),
        };
        Failure::new(format!(
            "{}: found shape {w:?}, expected {expected} to fit {} of shape {a:?}",
            args.w.display(),
            args.a.display(),
        ))
    })
}

struct Product<'a> {
    args: &'a Args,
    backend: &'a dyn Backend,
    shape: MatmulShape,
}

impl Product<'_> {
    /// Quantises, multiplies and writes a float product.
    fn float<T: Element + NpyElement>(&self, a: &ArrayD<T>, w: &ArrayD<T>) -> Result<(), Failure> {
        match self.args.out_dtype {
            None => self.float_as::<T, T>(a, w),
            Some(OutDtype::F32) => self.float_as::<T, f32>(a, w),
            Some(OutDtype::F16) => self.float_as::<T, f16>(a, w),
            Some(OutDtype::Bf16) => self.float_as::<T, bf16>(a, w),
        }
    }

    fn float_as<T: Element, O: Element + NpyElement>(
        &self,
        a: &ArrayD<T>,
        w: &ArrayD<T>,
    ) -> Result<(), Failure> {
        let kind = format!("{} -> int8 -> {}", T::DTYPE, O::DTYPE);
        self.write(a, w, &kind, T::to_f32, O::to_f32, || {
            q_matmul_int8_broadcast_on::<T, O, _, _>(self.backend, a.view(), w.view())
        })
    }

    /// Times the product, writes it, and compares it if asked.
    fn write<T: Copy, O: NpyElement>(
        &self,
        a: &ArrayD<T>,
        w: &ArrayD<T>,
        kind: &str,
        widen: impl Fn(T) -> f32,
        widen_product: impl Fn(O) -> f32,
        multiply: impl Fn() -> imma::Result<ArrayD<O>>,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let product = multiply()?;
        let seconds = start.elapsed().as_secs_f64();
        let mut reports = Reports::about(&self.args.output);
        npy::write(&self.args.output, product.view())?;
        reports.line(self.report(a.shape(), w.shape(), kind, seconds));
        if self.args.reference {
            // Three arrays widened, the float product, and the difference of the two products.
            let floats = (a.len() + w.len() + 3 * product.len()) as u64;
            let what = "the comparison with the float product";
            imma::memory::check("matmul", what, floats * 4)?;
            let (a, w) = (a.mapv(&widen), w.mapv(&widen));
            let widened = product.mapv(widen_product);
            drop(product);
            let int8 = Best::of(seconds, || multiply().map(drop))?;
            reports.line(compare(a.view(), w.view(), widened.view(), &int8)?);
        }
        Ok(())
    }

    fn report(&self, a: &[usize], w: &[usize], kind: &str, seconds: f64) -> String {
        let MatmulShape { batch, m, k, n, .. } = &self.shape;
        let products = batch.iter().product::<usize>() as f64;
        let operations = 2.0 * products * *m as f64 * *n as f64 * *k as f64;
        format!(
            "{a:?} x {w:?} {kind}, {} {}: {:.3} ms, {:.1} GOPS (first call) -> {}",
            self.backend.name(),
            self.backend.kernel(*m, *n, *k),
            seconds * 1e3,
            operations / seconds * 1e-9,
            self.args.output.display()
        )
    }
}

fn compare(
    a: ArrayViewD<'_, f32>,
    w: ArrayViewD<'_, f32>,
    product: ArrayViewD<'_, f32>,
    int8: &Best,
) -> Result<String, Failure> {
    let start = Instant::now();
    let want = matmul_float(a.view(), w.view())?;
    let first = start.elapsed().as_secs_f64();
    let error = ErrorReport::between(want.view(), product)?;
    drop(want);
    let float = Best::of(first, || matmul_float(a.view(), w.view()).map(drop))?;
    let times = float.seconds / int8.seconds.max(1e-9);
    Ok(format!(
        "in all {int8}; the float32 product {float}: {times:.2} times as long\nerror against the float product: {error}"
    ))
}
