//! `imma matmul`.

use crate::device::DeviceArgs;
use crate::{line, Failure};
use clap::ValueEnum;
use half::f16;
use imma::npy::{self, NpyArray, NpyElement};
use imma::quant::ErrorReport;
use imma::{matmul_true_int8_on, q_matmul_int8_as_on, Backend, Element};
use ndarray::{Array2, ArrayD, ArrayView2, ArrayViewD, Ix2};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// The left matrix, [M, K]: int8, float16 or float32.
    a: PathBuf,
    /// The right matrix, [K, N], of the same type.
    w: PathBuf,
    /// Where the product goes, [M, N].
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
}

pub fn run(args: Args) -> Result<(), Failure> {
    let chosen = args.device.backend()?;
    let backend = chosen.as_backend();
    let (a, w) = (npy::read(&args.a)?, npy::read(&args.w)?);
    let float = match (&a, &w) {
        (NpyArray::I8(a), NpyArray::I8(w)) => {
            if args.out_dtype.is_some() {
                return Err(Failure::new(
                    "--out-dtype was given with int8 operands, expected float operands",
                ));
            }
            let (a, w) = (matrix(&args.a, a)?, matrix(&args.w, w)?);
            check(&args, a.dim(), w.dim())?;
            let start = Instant::now();
            let product = matmul_true_int8_on(backend, a, w)?;
            report(
                &args,
                backend,
                "int8 -> int32",
                [a.nrows(), w.ncols(), a.ncols()],
                start,
            );
            npy::write(&args.output, product.view().into_dyn())?;
            args.reference.then(|| {
                (
                    a.mapv(f32::from),
                    w.mapv(f32::from),
                    product.into_dyn().mapv(|x| x as f32),
                )
            })
        }
        (NpyArray::F32(a), NpyArray::F32(w)) => float(&args, backend, a, w)?,
        (NpyArray::F16(a), NpyArray::F16(w)) => float(&args, backend, a, w)?,
        _ => {
            return Err(Failure::new(format!(
                "{}: found {}, expected {} as in {}",
                args.w.display(),
                w.dtype(),
                a.dtype(),
                args.a.display()
            )))
        }
    };
    if let Some((a, w, product)) = float {
        let start = Instant::now();
        let want = a.dot(&w).into_dyn();
        let seconds = start.elapsed().as_secs_f64();
        let error = ErrorReport::between(want.view(), product.view())?;
        line(format!(
            "error against the float product ({:.3} ms): {error}",
            seconds * 1e3
        ));
    }
    Ok(())
}

type Reference = (Array2<f32>, Array2<f32>, ArrayD<f32>);

/// Quantises, multiplies and writes a float product; its operands and result in f32 where they will be compared.
fn float<T: Element + NpyElement>(
    args: &Args,
    backend: &dyn Backend,
    a: &ArrayD<T>,
    w: &ArrayD<T>,
) -> Result<Option<Reference>, Failure> {
    let (a, w) = (matrix(&args.a, a)?, matrix(&args.w, w)?);
    check(args, a.dim(), w.dim())?;
    let product = match args.out_dtype {
        None => typed::<T, T>(args, backend, a, w)?,
        Some(OutDtype::F32) => typed::<T, f32>(args, backend, a, w)?,
        Some(OutDtype::F16) => typed::<T, f16>(args, backend, a, w)?,
    };
    let widen = |v: ArrayView2<'_, T>| v.mapv(Element::to_f32);
    Ok(args.reference.then(|| (widen(a), widen(w), product)))
}

fn typed<T: Element, O: Element + NpyElement>(
    args: &Args,
    backend: &dyn Backend,
    a: ArrayView2<'_, T>,
    w: ArrayView2<'_, T>,
) -> Result<ArrayD<f32>, Failure> {
    let start = Instant::now();
    let product = q_matmul_int8_as_on::<T, O, _>(backend, a, w)?;
    let kind = format!("{} -> int8 -> {}", T::DTYPE, O::DTYPE);
    report(
        args,
        backend,
        &kind,
        [a.nrows(), w.ncols(), a.ncols()],
        start,
    );
    npy::write(&args.output, product.view().into_dyn())?;
    Ok(product.mapv(Element::to_f32).into_dyn())
}

fn matrix<'a, T>(path: &Path, array: &'a ArrayD<T>) -> Result<ArrayView2<'a, T>, Failure> {
    let view: ArrayViewD<'a, T> = array.view();
    let shape = array.shape().to_vec();
    view.into_dimensionality::<Ix2>().map_err(|_| {
        Failure::new(format!(
            "{}: found shape {shape:?}, expected a matrix of two dimensions",
            path.display()
        ))
    })
}

fn check(args: &Args, a: (usize, usize), w: (usize, usize)) -> Result<(), Failure> {
    if a.1 == w.0 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{}: found shape [{}, {}], expected {} rows to fit {} of shape [{}, {}]",
        args.w.display(),
        w.0,
        w.1,
        a.1,
        args.a.display(),
        a.0,
        a.1
    )))
}

fn report(args: &Args, backend: &dyn Backend, kind: &str, [m, n, k]: [usize; 3], start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let gops = 2.0 * (m * n * k) as f64 / seconds * 1e-9;
    line(format!(
        "[{m}, {k}] x [{k}, {n}] {kind}, {} {}: {:.3} ms, {gops:.1} GOPS (first call) -> {}",
        backend.name(),
        backend.kernel(m, n, k),
        seconds * 1e3,
        args.output.display()
    ));
}
