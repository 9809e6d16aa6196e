//! What the JAX functions answered, case by case.
//!
//! Reads `index.json` in `tests/golden`, or in the folder that `IMMA_GOLDEN` names. Each kind of entry has a check here;
//! a kind that nobody knows fails the test.

use imma::numerics::{absmax, bound, multiplier, quantize};
use imma::ops::matmul_vjp;
use imma::ops::{
    FloatDotGeneral, MatmulShape, OperandQuant, Precision, ProductQuant, QuantDotGeneral,
};
use imma::quant::Calibration;
use imma::{matmul, matmul_true_int8, q_matmul_int8, quant_int8};
use ndarray::{Array2, ArrayD, Axis, Dimension, Ix2, OwnedRepr};
use ndarray_npy::{NpzReader, ReadableElement};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Relative tolerance against the seed, whose dequantisation divides where ours multiplies.
const RTOL: f32 = 1e-6;
/// The same for products that the seed makes in float.
const RTOL_FLOAT: f32 = 1e-5;
/// The same in units of the last place, from the formula computed here in f32.
const MAX_ULP: u32 = 4;

type Check = Result<(), String>;

#[test]
fn every_golden_case() {
    let folder = match std::env::var_os("IMMA_GOLDEN") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    };
    let index = folder.join("index.json");
    let index = std::fs::read_to_string(&index).unwrap_or_else(|e| panic!("{index:?}: {e}"));
    let index: Vec<Value> = serde_json::from_str(&index).expect("a list of cases");
    assert!(!index.is_empty(), "the index lists no case");

    let mut ran = BTreeMap::new();
    let mut failures = vec![];
    for entry in &index {
        let kind = entry["kind"].as_str().unwrap_or("(none)");
        let case = Case::new(&folder, entry);
        let check = match kind {
            "quant_int8" => case.quant_int8(),
            "matmul_true_int8" => case.matmul_true_int8(),
            "q_matmul_int8" => case.q_matmul_int8(),
            "matmul" => case.matmul(),
            "matmul_errors" => refused_shapes(entry),
            "q_dot_general" => case.q_dot_general(entry["note"].as_str().unwrap_or("")),
            _ => Err("a kind without a check".into()),
        };
        *ran.entry(kind).or_insert(0) += 1;
        if let Err(why) = check {
            failures.push(format!(
                "{kind} {} ({}): {why}",
                entry["file"], entry["note"]
            ));
        }
    }
    for (kind, n) in &ran {
        println!("{kind}: {n} run");
    }
    assert!(!ran.is_empty(), "no case was run");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One entry of the index: the arrays it lists.
struct Case {
    path: Option<PathBuf>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Case {
    fn new(folder: &Path, entry: &Value) -> Self {
        let arrays = entry["arrays"].as_object().into_iter().flatten();
        let shape = |array: &Value| {
            let axes = array[1].as_array().into_iter().flatten();
            axes.filter_map(|n| n.as_u64().map(|n| n as usize))
                .collect()
        };
        Case {
            path: entry["file"].as_str().map(|f| folder.join(f)),
            shapes: arrays.map(|(name, a)| (name.clone(), shape(a))).collect(),
        }
    }

    fn array<T: ReadableElement>(&self, name: &str) -> Result<ArrayD<T>, String> {
        let path = self.path.as_ref().ok_or("no file")?;
        let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut npz = NpzReader::new(file).map_err(|e| e.to_string())?;
        let array: ArrayD<T> = npz
            .by_name::<OwnedRepr<T>, _>(name)
            .or_else(|_| npz.by_name(&format!("{name}.npy")))
            .map_err(|e| format!("array '{name}': {e}"))?;
        match self.shapes.get(name) {
            Some(shape) if shape == array.shape() => Ok(array),
            listed => Err(format!(
                "array '{name}' is {:?}, the index says {listed:?}",
                array.shape()
            )),
        }
    }

    fn matrix<T: ReadableElement>(&self, name: &str) -> Result<Array2<T>, String> {
        self.array(name)?
            .into_dimensionality::<Ix2>()
            .map_err(|e| e.to_string())
    }

    fn quant_int8(&self) -> Check {
        let x = self.array::<f32>("x")?;
        same(&quant_int8(x.view()), &self.array("q")?)
    }

    fn matmul_true_int8(&self) -> Check {
        let (lhs, rhs) = (self.array::<i8>("lhs")?, self.array::<i8>("rhs")?);
        let out = matmul_true_int8(lhs.view(), rhs.view()).map_err(|e| e.to_string())?;
        same(&out, &self.array("out")?)
    }

    fn q_matmul_int8(&self) -> Check {
        let (a, w) = (self.matrix::<f32>("a")?, self.matrix::<f32>("w")?);
        let (bound_a, qa) = by_lane(&a, Axis(1));
        let (bound_w, qw) = by_lane(&w, Axis(0));
        same(&qa, &self.matrix("qa")?).map_err(|e| format!("qa: {e}"))?;
        same(&qw, &self.matrix("qw")?).map_err(|e| format!("qw: {e}"))?;

        let out = q_matmul_int8(a.view(), w.view()).map_err(|e| e.to_string())?;
        close(&out, &self.matrix("out")?, |want, _| RTOL * want.abs())?;
        // The formula int32 / (127/bound_a * 127/bound_w), in f32.
        let formula = Array2::from_shape_fn(out.dim(), |(m, n)| {
            let sum: i32 = (0..a.ncols())
                .map(|k| i32::from(qa[[m, k]]) * i32::from(qw[[k, n]]))
                .sum();
            sum as f32 / (multiplier(bound_a[m]) * multiplier(bound_w[n]))
        });
        for (at, &want) in formula.indexed_iter() {
            let got = out[at];
            if want.is_nan() != got.is_nan() || !want.is_nan() && ulps(got, want) > MAX_ULP {
                return Err(format!("at {at:?}: {got:e}, the formula gives {want:e}"));
            }
        }
        Ok(())
    }

    fn matmul(&self) -> Check {
        let (a, b) = (self.array::<f32>("a")?, self.array::<f32>("b")?);
        let float = |a: &ArrayD<f32>, b: &ArrayD<f32>| {
            matmul(a.view(), b.view(), Precision::Highest, &FloatDotGeneral)
                .map_err(|e| e.to_string())
        };
        let out = float(&a, &b)?;
        // Two orders of summing K rounded products may each be off by K/2 ulp of the sum of magnitudes, at worst.
        let magnitude = float(&a.mapv(f32::abs), &b.mapv(f32::abs))?;
        let k = a.shape().last().copied().unwrap_or(0) as f32;
        close(&out, &self.array("out")?, |_, at| {
            k * f32::EPSILON * magnitude[at]
        })
    }
}

impl Case {
    fn q_dot_general(&self, note: &str) -> Check {
        let name = note
            .strip_prefix("config ")
            .and_then(|n| n.split(',').next());
        let dot_general = configuration(name.unwrap_or(note))?;
        let array = |name: &str| self.array::<f32>(name);
        let (a, b, g) = (array("a")?, array("b")?, array("g")?);
        let (y, pullback) = matmul_vjp(a.view(), b.view(), Precision::Default, &dot_general)
            .map_err(|e| e.to_string())?;
        let (da, db) = pullback.backward(g.view()).map_err(|e| e.to_string())?;
        let forward = matmul(a.view(), b.view(), Precision::Default, &dot_general);
        same(&forward.map_err(|e| e.to_string())?, &y)?;

        // Terms of a float product cancel, and the two orders of summing them differ by what they add up to.
        let (_, magnitude) = matmul_vjp(
            a.mapv(f32::abs).view(),
            b.mapv(f32::abs).view(),
            Precision::Default,
            &FloatDotGeneral,
        )
        .map_err(|e| e.to_string())?;
        let magnitude = magnitude.backward(g.mapv(f32::abs).view());
        let magnitude = magnitude.map_err(|e| e.to_string())?;
        let tolerances = |product: ProductQuant| match product.is_quantized() {
            true => (RTOL, 0.0),
            false => (RTOL_FLOAT, f32::EPSILON),
        };
        let compare = |got: &ArrayD<f32>, name: &str, product, sums: &ArrayD<f32>| {
            let (relative, cancelled) = tolerances(product);
            let tolerance = |w: f32, at| relative * w.abs() + cancelled * sums[at];
            close(got, &array(name)?, tolerance).map_err(|e| format!("{name}: {e}"))
        };
        compare(&y, "y", dot_general.fwd(), &y)?;
        compare(&da, "da", dot_general.dlhs(), &magnitude.0)?;
        compare(&db, "db", dot_general.drhs(), &magnitude.1)
    }
}

/// The configurations that the cases name.
fn configuration(name: &str) -> Result<QuantDotGeneral, String> {
    let all = |operand: OperandQuant| {
        let product = ProductQuant::new(operand, operand);
        QuantDotGeneral::builder()
            .fwd(product)
            .dlhs(product)
            .drhs(product)
            .build()
    };
    match name {
        "v3" => Ok(QuantDotGeneral::v3()),
        "full8" => QuantDotGeneral::fully_quantized(8, 8),
        "full4" => QuantDotGeneral::fully_quantized(4, 4),
        "static" => all(OperandQuant::int(8).calibration(Calibration::Constant(1.0))),
        "po2" => all(OperandQuant::int(8).power_of_two(true)),
        other => return Err(format!("a configuration '{other}' that nobody knows")),
    }
    .map_err(|e| e.to_string())
}

/// The bounds of the lanes along `axis`, and the matrix quantised with them.
fn by_lane(x: &Array2<f32>, axis: Axis) -> (Vec<f32>, Array2<i8>) {
    let bounds: Vec<f32> = x
        .lanes(axis)
        .into_iter()
        .map(|lane| bound(absmax(lane.iter().copied())))
        .collect();
    let other = 1 - axis.index();
    let q = Array2::from_shape_fn(x.dim(), |at| {
        quantize(x[at] * multiplier(bounds[[at.0, at.1][other]]))
    });
    (bounds, q)
}

fn refused_shapes(entry: &Value) -> Check {
    let shapes: Vec<[Vec<usize>; 2]> =
        serde_json::from_value(entry["shapes"].clone()).map_err(|e| e.to_string())?;
    if shapes.is_empty() {
        return Err("no shapes".into());
    }
    for [lhs, rhs] in shapes {
        let message = |e: Option<imma::Error>| match e {
            Some(e) if e.to_string().contains(&format!("{lhs:?} and {rhs:?}")) => Ok(()),
            Some(e) => Err(format!("{lhs:?} x {rhs:?}: unclear refusal: {e}")),
            None => Err(format!("{lhs:?} x {rhs:?}: not refused")),
        };
        let (a, b) = (
            ArrayD::<f32>::zeros(lhs.clone()),
            ArrayD::<f32>::zeros(rhs.clone()),
        );
        message(matmul(a.view(), b.view(), Precision::Default, &FloatDotGeneral).err())?;
        let (a, b) = (
            ArrayD::<i8>::zeros(lhs.clone()),
            ArrayD::<i8>::zeros(rhs.clone()),
        );
        message(matmul_true_int8(a.view(), b.view()).err())?;
        message(MatmulShape::new("matmul", &lhs, &rhs).err())?;
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug, D: Dimension>(
    got: &ndarray::Array<T, D>,
    want: &ndarray::Array<T, D>,
) -> Check {
    if got.shape() != want.shape() {
        return Err(format!(
            "shape {:?}, expected {:?}",
            got.shape(),
            want.shape()
        ));
    }
    match got.indexed_iter().zip(want).find(|((_, g), w)| g != w) {
        Some(((at, g), w)) => Err(format!("at {at:?}: {g:?}, expected {w:?}")),
        None => Ok(()),
    }
}

/// NaN where the seed has NaN, the same infinity where it has one, else within the tolerance.
fn close<D: Dimension>(
    got: &ndarray::Array<f32, D>,
    want: &ndarray::Array<f32, D>,
    tolerance: impl Fn(f32, D::Pattern) -> f32,
) -> Check {
    if got.shape() != want.shape() {
        return Err(format!(
            "shape {:?}, expected {:?}",
            got.shape(),
            want.shape()
        ));
    }
    for ((at, &g), &w) in got.indexed_iter().zip(want) {
        let place = format!("{at:?}");
        let within = || g.is_finite() && w.is_finite() && (g - w).abs() <= tolerance(w, at);
        let fits = (g.is_nan() && w.is_nan()) || g == w || within();
        if !fits {
            return Err(format!("at {place}: {g:e}, expected {w:e}"));
        }
    }
    Ok(())
}

/// How many floats lie between two numbers.
fn ulps(a: f32, b: f32) -> u32 {
    let ordered = |x: f32| {
        let bits = x.to_bits() as i32;
        i64::from(if bits < 0 {
            i32::MIN.wrapping_sub(bits)
        } else {
            bits
        })
    };
    (ordered(a) - ordered(b)).unsigned_abs() as u32
}
