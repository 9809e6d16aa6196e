//! The command, run as a user runs it.

use crate::folder::Folder;
use half::f16;
use imma::npy::{self, NpyArray};
use imma::reference;
use ndarray::{arr1, Array2, ArrayD, ArrayViewD, Axis, Dimension};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub fn imma<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imma"))
        .args(args)
        .output()
        .unwrap()
}

pub fn ok(out: Output) -> String {
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Exit code 2, nothing on stdout, one line on stderr with these parts (beside the note on the device, which comes
/// before anything is refused).
pub fn refused(out: &Output, parts: &[&str]) {
    let message = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!(out.status.code(), Some(2), "{message}");
    let note = |line: &&str| !line.contains("computing on the CPU");
    let sentences = message.trim_end().lines().filter(note).count();
    assert_eq!(sentences, 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

fn matmul(dir: &Folder, a: &str, w: &str, more: &[&str]) -> Output {
    let paths = [dir.path(a), dir.path(w), dir.path("out.npy")];
    let [a, w, out] = paths.each_ref().map(|p| p.to_str().unwrap());
    imma(&[&["matmul", a, w, "-o", out], more].concat())
}

pub fn bytes(rows: usize, cols: usize, seed: usize) -> Array2<i8> {
    Array2::from_shape_fn((rows, cols), |(i, j)| {
        ((i * 89 + j * 57 + seed) * 31 % 256) as u8 as i8
    })
}

pub fn read_i32(path: &Path) -> Array2<i32> {
    ndarray_npy::read_npy(path).unwrap()
}

#[test]
fn int8_files_give_the_exact_product_in_either_order() {
    let dir = Folder::new("int8");
    let (a, w) = (bytes(7, 19, 1), bytes(19, 5, 2));
    npy::write(dir.path("a.npy"), a.view().into_dyn()).unwrap();
    npy::write(dir.path("w.npy"), w.view().into_dyn()).unwrap();
    // The same values in Fortran order.
    let fortran = w.t().as_standard_layout().into_owned().reversed_axes();
    ndarray_npy::write_npy(dir.path("wf.npy"), &fortran).unwrap();
    let want = a.mapv(i32::from).dot(&w.mapv(i32::from));
    for w in ["w.npy", "wf.npy"] {
        let said = ok(matmul(
            &dir,
            "a.npy",
            w,
            &["--reference", "--device", "cpu", "--threads", "2"],
        ));
        assert!(
            said.contains("[7, 19] x [19, 5] int8 -> int32") && said.contains("max 0"),
            "{said}"
        );
        assert_eq!(read_i32(&dir.path("out.npy")), want);
    }
    assert_eq!(dir.names(), ["a.npy", "out.npy", "w.npy", "wf.npy"]);
}

/// `auto` takes the CPU where no GPU serves; a build made for GPUs says so, once.
#[test]
fn auto_falls_back_to_the_cpu_and_says_so_once() {
    if imma::cuda::status().is_usable() {
        println!("not run: a GPU serves here");
        return;
    }
    let dir = Folder::new("auto");
    npy::write(dir.path("a.npy"), bytes(3, 4, 1).view().into_dyn()).unwrap();
    npy::write(dir.path("w.npy"), bytes(4, 2, 2).view().into_dyn()).unwrap();
    let output = matmul(&dir, "a.npy", "w.npy", &["--device", "auto"]);
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    let notes = errors.matches("computing on the CPU").count();
    assert_eq!(notes, usize::from(cfg!(feature = "cuda")), "{errors}");
    assert!(ok(output).contains(", cpu "));
}

#[test]
fn float_files_give_the_library_s_bits() {
    let dir = Folder::new("float");
    let (a, w) = (
        bytes(9, 33, 1).mapv(|x| f32::from(x) * 0.013),
        bytes(33, 6, 2).mapv(|x| f32::from(x) * 1.7),
    );
    npy::write(dir.path("a.npy"), a.view().into_dyn()).unwrap();
    npy::write(dir.path("w.npy"), w.view().into_dyn()).unwrap();
    let said = ok(matmul(
        &dir,
        "a.npy",
        "w.npy",
        &["--reference", "--threads", "1"],
    ));
    assert!(
        said.contains("SNR") && said.contains("relative Frobenius"),
        "{said}"
    );
    let want = imma::q_matmul_int8(a.view(), w.view()).unwrap();
    assert_eq!(
        npy::read(dir.path("out.npy")).unwrap(),
        NpyArray::F32(want.into_dyn())
    );

    let (a, w) = (a.mapv(f16::from_f32), w.mapv(f16::from_f32));
    npy::write(dir.path("a.npy"), a.view().into_dyn()).unwrap();
    npy::write(dir.path("w.npy"), w.view().into_dyn()).unwrap();
    ok(matmul(&dir, "a.npy", "w.npy", &[]));
    let want = imma::q_matmul_int8(a.view(), w.view()).unwrap();
    assert_eq!(
        npy::read(dir.path("out.npy")).unwrap(),
        NpyArray::F16(want.into_dyn())
    );
    ok(matmul(&dir, "a.npy", "w.npy", &["--out-dtype", "f32"]));
    let want: Array2<f32> = imma::ops::q_matmul_int8_as(a.view(), w.view()).unwrap();
    assert_eq!(
        npy::read(dir.path("out.npy")).unwrap(),
        NpyArray::F32(want.into_dyn())
    );
}

#[test]
fn wrong_input_is_refused_in_one_sentence_and_leaves_nothing() {
    let dir = Folder::new("wrong");
    let write = |name: &str, a: ArrayD<f32>| npy::write(dir.path(name), a.view()).unwrap();
    write("a.npy", ArrayD::zeros(vec![2, 3]));
    write("w.npy", ArrayD::zeros(vec![4, 5]));
    write("cube.npy", ArrayD::zeros(vec![2, 3, 4]));
    write("cubes.npy", ArrayD::zeros(vec![3, 4, 5]));
    write("vector.npy", ArrayD::zeros(vec![4]));
    write("scalar.npy", ArrayD::zeros(vec![]));
    npy::write(dir.path("i.npy"), bytes(3, 2, 0).view().into_dyn()).unwrap();
    ndarray_npy::write_npy(dir.path("i64.npy"), &arr1(&[1i64])).unwrap();
    let whole = std::fs::read(dir.path("a.npy")).unwrap();
    std::fs::write(dir.path("short.npy"), &whole[..whole.len() - 3]).unwrap();
    std::fs::write(dir.path("text.npy"), "hello, this is no array").unwrap();
    std::fs::write(dir.path("empty.npy"), "").unwrap();
    let before = dir.names();
    for (a, w, parts) in [
        (
            "none.npy",
            "w.npy",
            &["none.npy", "no such file", "expected"][..],
        ),
        (
            "a.npy",
            "w.npy",
            &["w.npy", "found shape [4, 5]", "expected 3 rows"],
        ),
        (
            "cube.npy",
            "cubes.npy",
            &[
                "cubes.npy",
                "found shape [3, 4, 5]",
                "expected batch axes of equal length",
                "cube.npy of shape [2, 3, 4]",
            ],
        ),
        (
            "a.npy",
            "vector.npy",
            &["vector.npy", "found shape [4]", "expected 3 elements"],
        ),
        (
            "scalar.npy",
            "w.npy",
            &[
                "w.npy",
                "the left operand needs at least one axis",
                "scalar.npy of shape []",
            ],
        ),
        (
            "a.npy",
            "i.npy",
            &["i.npy", "found int8", "expected float32"],
        ),
        (
            "i64.npy",
            "w.npy",
            &[
                "i64.npy",
                "found elements of type int64",
                "expected int8, float16, bfloat16, float32 or float64",
            ],
        ),
        ("short.npy", "w.npy", &["short.npy", "21 bytes", "24 bytes"]),
        ("text.npy", "w.npy", &["text.npy", "expected a .npy file"]),
        ("empty.npy", "w.npy", &["empty.npy", "found an empty file"]),
        (".", "w.npy", &["found a folder"]),
    ] {
        refused(&matmul(&dir, a, w, &[]), parts);
    }
    refused(
        &matmul(&dir, "i.npy", "i.npy", &["--out-dtype", "f32"]),
        &["--out-dtype", "int8"],
    );
    refused(
        &matmul(&dir, "a.npy", "w.npy", &["--device", "cuda"]),
        &["cuda", "not available"],
    );
    for bad in ["gpu", "cuda:x", "cpu:1"] {
        let output = matmul(&dir, "a.npy", "w.npy", &["--device", bad]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("auto, cpu, cuda or cuda:N"), "{message}");
    }
    refused(
        &matmul(&dir, "a.npy", "w.npy", &["--threads", "0"]),
        &["threads", "found 0", "at least 1"].map(|p| if p == "found 0" { "is 0" } else { p }),
    );
    refused(
        &matmul(&dir, "a.npy", "w.npy", &["--threads", "1000000"]),
        &["threads is 1000000", "at most", "for each CPU"],
    );
    refused(
        &imma(&["bench", "gemm", "--threads", "1000000"]),
        &["threads is 1000000", "at most"],
    );
    refused(
        &matmul(&dir, "a.npy", "w.npy", &["--kernel", "abacus"]),
        &["abacus", "portable"],
    );
    assert_eq!(dir.names(), before);
}

#[test]
fn a_result_without_memory_is_refused() {
    let dir = Folder::new("memory");
    let side = 1 << 23;
    npy::write(dir.path("a.npy"), ArrayD::<i8>::zeros(vec![side, 1]).view()).unwrap();
    npy::write(dir.path("w.npy"), ArrayD::<i8>::zeros(vec![1, side]).view()).unwrap();
    refused(
        &matmul(&dir, "a.npy", "w.npy", &["--device", "cpu"]),
        &["the result takes 281474976710656 bytes"],
    );
    assert_eq!(dir.names(), ["a.npy", "w.npy"]);
}

/// `numpy.matmul` written from its manual: matrices picked one by one, multiplied by `product`.
fn by_numpys_rules<T: Copy, O: Copy + Default>(
    a: &ArrayD<T>,
    w: &ArrayD<T>,
    product: impl Fn(Array2<T>, Array2<T>) -> Array2<O>,
) -> ArrayD<O> {
    let mut left = a.view();
    let mut right = w.view();
    if a.ndim() == 1 {
        left = left.insert_axis(Axis(0));
    }
    if w.ndim() == 1 {
        right = right.insert_axis(Axis(1));
    }
    let axes = left.ndim().max(right.ndim()) - 2;
    while left.ndim() < axes + 2 {
        left = left.insert_axis(Axis(0));
    }
    while right.ndim() < axes + 2 {
        right = right.insert_axis(Axis(0));
    }
    let length = |axis: usize| match (left.shape()[axis], right.shape()[axis]) {
        (1, other) => other,
        (own, _) => own,
    };
    let batch: Vec<usize> = (0..axes).map(length).collect();
    let (m, n) = (left.shape()[axes], right.shape()[axes + 1]);
    let mut out = ArrayD::<O>::default([&batch[..], &[m, n]].concat());
    for index in ndarray::indices(batch) {
        let pick = |x: &ArrayViewD<'_, T>| {
            let mut x = x.clone();
            for &i in index.as_array_view() {
                let i = if x.len_of(Axis(0)) == 1 { 0 } else { i };
                x = x.index_axis_move(Axis(0), i);
            }
            x.into_dimensionality().unwrap().to_owned()
        };
        let mut place = out.view_mut();
        for &i in index.as_array_view() {
            place = place.index_axis_move(Axis(0), i);
        }
        place.assign(&product(pick(&left), pick(&right)));
    }
    if w.ndim() == 1 {
        out = out.index_axis_move(Axis(axes + 1), 0);
    }
    if a.ndim() == 1 {
        out = out.index_axis_move(Axis(axes), 0);
    }
    out
}

/// Numbers that look random and are the same every time.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn bytes(&mut self, shape: &[usize]) -> ArrayD<i8> {
        ArrayD::from_shape_simple_fn(shape, || self.below(256) as u8 as i8)
    }

    /// Shapes that fit: up to three batch axes, some repeated or missing on one side, vectors, now and then nothing.
    fn shapes(&mut self) -> (Vec<usize>, Vec<usize>) {
        let (mut a, mut w) = (vec![], vec![]);
        let (axes, missing) = (self.below(4), self.below(4));
        for axis in 0..axes {
            let len = if self.below(12) == 0 {
                0
            } else {
                1 + self.below(4)
            };
            let (left, right) = match self.below(4) {
                0 => (1, len),
                1 => (len, 1),
                _ => (len, len),
            };
            match (missing, axis < axes / 2 + 1) {
                (0, true) => w.push(right),
                (1, true) => a.push(left),
                _ => {
                    a.push(left);
                    w.push(right);
                }
            }
        }
        let mut length = || match self.below(16) {
            0 => 0,
            1 => 40 + self.below(60),
            _ => 1 + self.below(20),
        };
        let (m, k, n) = (length(), length(), length());
        a.extend([m, k]);
        w.extend([k, n]);
        match self.below(8) {
            0 => (vec![k], w),
            1 => (a, vec![k]),
            2 => (vec![k], vec![k]),
            _ => (a, w),
        }
    }
}

#[test]
fn two_hundred_random_shapes_by_numpys_rules() {
    let dir = Folder::new("numpy");
    let mut noise = Noise(16);
    let mut ranks = std::collections::BTreeSet::new();
    let run = |more: &[&str]| {
        let more = [&["--reference", "--device", "cpu", "--threads", "1"], more].concat();
        let said = ok(matmul(&dir, "a.npy", "w.npy", &more));
        assert!(said.contains("error against the float product"), "{said}");
        said
    };
    for case in 0..200 {
        let (a, w) = noise.shapes();
        let (a, w) = (noise.bytes(&a), noise.bytes(&w));
        npy::write(dir.path("a.npy"), a.view()).unwrap();
        npy::write(dir.path("w.npy"), w.view()).unwrap();
        let said = run(&[]);
        let got: ArrayD<i32> = ndarray_npy::read_npy(dir.path("out.npy")).unwrap();
        let want = by_numpys_rules(&a, &w, |a, w| reference::matmul_i32(a.view(), w.view()));
        assert_eq!(got, want, "{:?} x {:?}", a.shape(), w.shape());
        let shapes = format!("{:?} x {:?} int8 -> int32", a.shape(), w.shape());
        assert!(said.contains(&shapes) && said.contains("max 0"), "{said}");
        ranks.insert((a.ndim(), w.ndim()));
        // And as floats, quantised on the way.
        if case % 2 == 1 {
            continue;
        }
        let half = |x: i8| f16::from_f32(f32::from(x) * 0.37);
        let (a, w) = (a.mapv(half), w.mapv(half));
        let (wide_a, wide_w) = (a.mapv(f16::to_f32), w.mapv(f16::to_f32));
        let product = |a: Array2<f32>, w: Array2<f32>| reference::q_matmul(a.view(), w.view());
        let want = by_numpys_rules(&wide_a, &wide_w, product);
        npy::write(dir.path("a.npy"), a.view()).unwrap();
        npy::write(dir.path("w.npy"), w.view()).unwrap();
        if case % 4 == 0 {
            run(&["--out-dtype", "f32"]);
            let got = npy::read(dir.path("out.npy")).unwrap();
            assert_eq!(
                got,
                NpyArray::F32(want),
                "{:?} x {:?}",
                a.shape(),
                w.shape()
            );
        } else {
            run(&[]);
            let got = npy::read(dir.path("out.npy")).unwrap();
            let want = NpyArray::F16(want.mapv(f16::from_f32));
            assert_eq!(got, want, "{:?} x {:?}", a.shape(), w.shape());
        }
    }
    assert!(ranks.len() > 12, "{ranks:?}");
}

#[test]
fn the_golden_products_go_through_the_command() {
    let dir = Folder::new("golden");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let index: Vec<serde_json::Value> = serde_json::from_str(&index).unwrap();
    let cases = index
        .iter()
        .filter(|case| case["kind"] == "matmul_true_int8");
    let mut ran = 0;
    for case in cases {
        let file = std::fs::File::open(folder.join(case["file"].as_str().unwrap())).unwrap();
        let mut npz = ndarray_npy::NpzReader::new(file).unwrap();
        let (a, w): (ArrayD<i8>, ArrayD<i8>) =
            (npz.by_name("lhs").unwrap(), npz.by_name("rhs").unwrap());
        let want: ArrayD<i32> = npz.by_name("out").unwrap();
        npy::write(dir.path("a.npy"), a.view()).unwrap();
        npy::write(dir.path("w.npy"), w.view()).unwrap();
        ok(matmul(&dir, "a.npy", "w.npy", &["--reference"]));
        let got: ArrayD<i32> = ndarray_npy::read_npy(dir.path("out.npy")).unwrap();
        assert_eq!(got, want, "{}", case["note"]);
        ran += 1;
    }
    assert_eq!(ran, 15);
}

#[test]
fn an_unwritable_output_leaves_what_was_there() {
    let dir = Folder::new("unwritable");
    npy::write(dir.path("a.npy"), bytes(2, 2, 0).view().into_dyn()).unwrap();
    let a = dir.path("a.npy");
    let a = a.to_str().unwrap();
    let missing = dir.path("no/such/out.npy");
    refused(
        &imma(&["matmul", a, a, "-o", missing.to_str().unwrap()]),
        &["out.npy", "no such file", "expected a path"],
    );
    std::fs::create_dir(dir.path("folder")).unwrap();
    let folder = dir.path("folder");
    refused(
        &imma(&["matmul", a, a, "-o", folder.to_str().unwrap()]),
        &["folder", "found a folder"],
    );
    assert_eq!(dir.names(), ["a.npy", "folder"]);
}

#[test]
fn quantize_writes_integers_scales_and_zero_points() {
    let dir = Folder::new("quantize");
    let x = bytes(6, 10, 3).mapv(|v| f32::from(v) * 0.25 + 3.0);
    npy::write(dir.path("x.npy"), x.view().into_dyn()).unwrap();
    let run = |more: &[&str]| {
        let (x, q) = (dir.path("x.npy"), dir.path("q.npz"));
        imma(
            &[
                &["quantize", x.to_str().unwrap(), "-o", q.to_str().unwrap()],
                more,
            ]
            .concat(),
        )
    };
    let open =
        || ndarray_npy::NpzReader::new(std::fs::File::open(dir.path("q.npz")).unwrap()).unwrap();
    let said = ok(run(&["--granularity", "per-channel"]));
    assert!(said.contains("[1, 10]") && said.contains("SNR"), "{said}");
    let (data, scales): (Array2<i8>, Array2<f32>) = (
        open().by_name("data").unwrap(),
        open().by_name("scales").unwrap(),
    );
    for ((i, j), q) in data.indexed_iter() {
        let error = (f32::from(*q) * scales[[0, j]] - x[[i, j]]).abs();
        assert!(error <= scales[[0, j]] * 0.5001);
    }
    ok(run(&[
        "--asymmetric",
        "--calibration",
        "percentile:99",
        "--granularity",
        "per-group:4",
    ]));
    let zero_points: Array2<i32> = open().by_name("zero_points").unwrap();
    assert_eq!(zero_points.dim(), (6, 3));
    for calibration in ["constant:20", "mean-absolute:2.5", "mse:20", "mse"] {
        ok(run(&["--calibration", calibration]));
    }
    let first = {
        ok(run(&["--stochastic", "7"]));
        std::fs::read(dir.path("q.npz")).unwrap()
    };
    ok(run(&["--stochastic", "7"]));
    assert_eq!(first, std::fs::read(dir.path("q.npz")).unwrap());

    refused(
        &run(&["--calibration", "percentile:0"]),
        &["percentile", "0"],
    );
    npy::write(dir.path("x.npy"), bytes(2, 2, 0).view().into_dyn()).unwrap();
    refused(
        &run(&[]),
        &[
            "x.npy",
            "found int8",
            "expected float16, bfloat16, float32 or float64",
        ],
    );
}

#[test]
fn bench_prints_one_json_object_a_line() {
    let said = ok(imma(&[
        "bench",
        "gemm",
        "--shapes",
        "3x64x33,16x32x16",
        "--op",
        "gemm,matmul,linear,q_matmul",
        "--json",
        "--seconds",
        "0.02",
        "--threads",
        "1",
    ]));
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 8);
    for line in &lines {
        for key in [
            "device", "kernel", "op", "m", "n", "k", "threads", "median_s", "tops",
        ] {
            assert!(line.get(key).is_some(), "{key} is missing: {line}");
        }
        assert_eq!(line["threads"], 1);
        assert!(line["median_s"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        (&lines[0]["m"], &lines[0]["k"], &lines[0]["n"]),
        (&3.into(), &64.into(), &33.into())
    );
    ok(imma(&[
        "bench",
        "gemm",
        "--m",
        "2",
        "--n",
        "3",
        "--k",
        "4",
        "--seconds",
        "0.02",
    ]));
    refused(
        &imma(&["bench", "gemm", "--shapes", "3x4"]),
        &["3x4", "MxKxN"],
    );
}

#[test]
fn bench_measures_every_operation_in_every_type() {
    for dtype in ["f32", "f16", "bf16"] {
        let arguments = "bench gemm --op gemm,matmul,linear,q_matmul --shapes 2x8x4 --csv --seconds 0.001 --threads 1";
        let mut arguments: Vec<_> = arguments.split(' ').collect();
        arguments.extend(["--dtype", dtype]);
        let said = ok(imma(&arguments));
        assert_eq!(said.lines().count(), 5, "{dtype}: {said}");
    }
}

#[test]
fn bench_knows_suites_and_draws_its_roofline() {
    let dir = Folder::new("bench");
    let svg = dir.path("roof.svg");
    let arguments = "bench gemm --suite bert-base --m 1,2 --op gemm,linear --csv --seconds 0.01 --threads 1 --plot";
    let mut arguments: Vec<_> = arguments.split(' ').collect();
    arguments.push(svg.to_str().unwrap());
    let said = ok(imma(&arguments));
    let lines: Vec<Vec<&str>> = said.lines().map(|l| l.split(',').collect()).collect();
    assert_eq!(lines.len(), 1 + 4 * 2 * 2, "{said}");
    let column = |name| lines[0].iter().position(|n| *n == name).unwrap();
    for line in &lines[1..] {
        assert_eq!(line.len(), lines[0].len());
        assert!(line[column("percent_of_ceiling")].parse::<f64>().unwrap() > 0.0);
    }
    assert_eq!(lines[16][column("k")], "3072");
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("2x3072x768"));
    assert_eq!(dir.names(), ["roof.svg"]);
    let nowhere = dir.path("no/such/roof.svg");
    let arguments = ["bench", "gemm", "--m", "1", "--plot"];
    refused(
        &imma(
            &[
                &arguments[..],
                &[nowhere.to_str().unwrap(), "--seconds", "0.01"],
            ]
            .concat(),
        ),
        &[],
    );
}

#[test]
fn info_names_the_chosen_kernel() {
    let said = ok(imma(&["info"]));
    let chosen: Vec<_> = said.lines().filter(|l| l.ends_with("chosen")).collect();
    assert_eq!(chosen.len(), 1, "{said}");
    assert!(chosen[0].contains(imma::Cpu::new().kernel_name()), "{said}");
    assert!(said.contains("cuda"), "{said}");
}

#[test]
fn info_measures_what_the_machine_can_do() {
    let measure = ["info", "--peak", "--seconds", "0.01", "--threads", "1"];
    let said = ok(imma(&[&measure[..], &["--json"]].concat()));
    let peaks: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(peaks["threads"], 1);
    let kernels: Vec<_> = imma::Cpu::kernels()
        .into_iter()
        .filter(|l| l.available)
        .collect();
    assert_eq!(peaks["kernels"].as_object().unwrap().len(), kernels.len());
    for kernel in &kernels {
        assert!(
            peaks["kernels"][kernel.name]["gops"].as_f64().unwrap() > 0.0,
            "{said}"
        );
    }
    assert!(peaks["read_gb_per_s"].as_f64().unwrap() > 0.0);
    let said = ok(imma(&measure));
    let peaks = said
        .lines()
        .filter(|l| l.starts_with("peak") && l.ends_with("on 1 thread"));
    assert_eq!(peaks.count(), kernels.len() + 1, "{said}");
    assert!(said.contains("chosen"), "{said}");
    refused(
        &imma(&["info", "--peak", "--threads", "1000000"]),
        &["threads is 1000000", "at most"],
    );
    refused(
        &imma(&["info", "--peak", "--seconds", "0"]),
        &["--seconds is 0"],
    );
}

/// On the emulated driver, which the command finds in place of a GPU's.
#[cfg(feature = "cuda")]
#[test]
fn the_device_computes_what_the_cpu_does() {
    let driver = fake_cuda::install::folder().unwrap();
    let dir = Folder::new("device");
    npy::write(dir.path("a.npy"), bytes(3, 37, 1).view().into_dyn()).unwrap();
    npy::write(dir.path("w.npy"), bytes(37, 5, 2).view().into_dyn()).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_imma"))
            .args(args)
            .env("LD_LIBRARY_PATH", &driver)
            .current_dir(dir.path("."))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut found = Vec::new();
    for device in ["cpu", "cuda:0", "auto"] {
        let said = run(&[
            "matmul", "a.npy", "w.npy", "--device", device, "-o", "out.npy",
        ]);
        assert_eq!(said.contains("igemm_sm"), device != "cpu", "{said}");
        found.push(read_i32(&dir.path("out.npy")));
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], found[2]);
    let x = Array2::from_shape_fn((6, 40), |(i, j)| (i as f32 - 2.5) * (j as f32 - 11.0));
    npy::write(dir.path("x.npy"), x.view().into_dyn()).unwrap();
    for how in [
        &["--granularity", "per-token"][..],
        &["--granularity", "per-tensor", "--asymmetric"],
        &["--granularity", "per-channel"],
        &["--granularity", "per-channel", "--asymmetric"],
        &["--granularity", "per-group:8", "--stochastic", "7"],
    ] {
        let mut files = Vec::new();
        for device in ["cpu", "cuda"] {
            let base = ["quantize", "x.npy", "-o", "q.npz", "--device", device];
            let said = run(&[&base[..], how].concat());
            assert_eq!(said.contains("Emulated"), device == "cuda", "{said}");
            files.push(std::fs::read(dir.path("q.npz")).unwrap());
        }
        assert!(files[0] == files[1], "{how:?}");
    }
    let said = run(&["info"]);
    assert!(said.contains("TOPS by the datasheet, by wgmma"), "{said}");
    let bench = [
        "bench",
        "gemm",
        "--device",
        "cuda",
        "--shapes",
        "3x48x5,16x64x32",
        "--op",
        "gemm,matmul,linear,q_matmul",
        "--dtype",
        "bf16",
        "--seconds",
        "0.001",
        "--json",
        "--peers",
        "--algorithm",
        "heuristic,igemm_sm80:64x64x128/2",
    ];
    let said = run(&bench);
    let mut kernels = std::collections::BTreeSet::new();
    for line in said.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            row["device"].as_str().unwrap().starts_with("cuda:0"),
            "{row}"
        );
        assert!(row["median_s"].as_f64().unwrap() > 0.0 && row["tops"].as_f64().unwrap() > 0.0);
        let kernel = row["kernel"].as_str().unwrap();
        // The model knows our kernels, and what is timed of a plan.
        let planned = kernel.starts_with("igemm")
            && ["gemm", "linear"].contains(&row["op"].as_str().unwrap());
        let predicted = row["predicted_s"].as_f64();
        assert_eq!(
            predicted.is_some_and(|s| s > 1e-6 && s < 1e-3),
            planned,
            "{row}"
        );
        kernels.insert(kernel.to_owned());
    }
    // Two shapes; two operations by two algorithms and beside two peers, two by one alone.
    assert_eq!(said.lines().count(), 2 * (2 * 4 + 2), "{said}");
    assert!(kernels.contains("igemm_sm80 64x64x128/2"), "{kernels:?}");
    assert!(
        kernels.iter().any(|k| k.starts_with("cuBLASLt, candidate")),
        "{kernels:?}"
    );
    let plan = run(&["info", "--plan", "16", "4096", "8192"]);
    assert!(
        plan.contains("sm_90") && plan.contains("workspace"),
        "{plan}"
    );
}

#[test]
fn quantize_takes_a_models_folder() {
    let dir = Folder::new("model");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints/floats");
    let out = dir.path("w8a8");
    let quantize = |more: &[&str]| {
        let paths = [model.to_str().unwrap(), "-o", out.to_str().unwrap()];
        imma(&[&["quantize"], &paths[..], more].concat())
    };
    refused(
        &quantize(&["--asymmetric"]),
        &["--asymmetric", "for a tensor only"],
    );
    refused(
        &quantize(&["--granularity", "per-token"]),
        &["--granularity"],
    );
    assert!(!out.exists());
    let bad = quantize(&["--include", "re:("]);
    assert_eq!(bad.status.code(), Some(2));
    let shown = ok(quantize(&[
        "--include",
        "*",
        "--no-default-excludes",
        "--exclude",
        "embed",
        "--calibration",
        "mse:20",
    ]));
    for part in [
        "| down ",
        "| up ",
        "| lm_head ",
        "3 layers quantised, 1 matrices left as they were",
    ] {
        assert!(shown.contains(part), "'{part}' is not in: {shown}");
    }
    let checkpoint = imma::checkpoint::Checkpoint::open(&out).unwrap();
    assert_eq!(checkpoint.int8_layers(), ["down", "lm_head", "up"]);
    refused(&quantize(&[]), &["a folder that is not empty"]);
    let x = dir.path("x.npy");
    npy::write(&x, arr1(&[1.0f32]).into_dyn().view()).unwrap();
    let paths = [x.to_str().unwrap(), "-o", "y.npz", "--include", "*"];
    refused(
        &imma(&[&["quantize"], &paths[..]].concat()),
        &["for a model's folder only"],
    );
}

/// A checkpoint's layers are measured on the emulated driver, once: a second run reads what the first kept.
#[cfg(feature = "cuda")]
#[test]
fn tuning_a_checkpoint_goes_on_where_it_stopped() {
    let driver = fake_cuda::install::folder().unwrap();
    let dir = Folder::new("tune");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints/floats");
    let tune = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_imma"))
            .arg("tune")
            .arg(&model)
            .args(more)
            .env("LD_LIBRARY_PATH", &driver)
            .env("IMMA_CHOICES", dir.path("choices.txt"))
            .output()
            .unwrap()
    };
    let first = ok(tune(&["--m", "1"]));
    let last = first.lines().rev().nth(1).unwrap();
    assert!(last.contains("(0 measured earlier)"), "{first}");
    assert!(first.contains("best of "), "{first}");
    let kept = std::fs::read_to_string(dir.path("choices.txt")).unwrap();
    assert!(kept.starts_with("imma choices 4\n"), "{kept}");
    // One line a product, one for all, one for the file; two lines head the file.
    let products = first.lines().count() - 2;
    assert_eq!(kept.lines().count(), products + 2, "{kept}");
    let second = ok(tune(&["--m", "1"]));
    let all = format!("{products} products ({products} measured earlier)");
    assert!(
        second.contains(&all) && !second.contains("best of"),
        "{second}"
    );
    refused(&tune(&["--m", "0"]), &["--m has 0"]);
    refused(&tune(&["--device", "cpu"]), &["--device is cpu"]);
}

#[test]
fn bench_moe_prints_grouped_products_beside_single_ones() {
    let arguments =
        "bench moe --model qwen3-30b-a3b --experts 2 --tokens 3 --routing uniform,skewed \
        --seconds 0.001 --threads 1 --device cpu --json";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let output = imma(&arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 6);
    for (row, op) in rows
        .iter()
        .zip(["gate_up", "down", "experts"].iter().cycle())
    {
        assert_eq!(row["op"], *op);
        assert_eq!((&row["experts"], &row["here"]), (&128.into(), &2.into()));
        assert!(row["median_s"].as_f64().unwrap() > 0.0);
        assert_eq!(row["single_s"].is_null(), *op == "experts");
    }
    refused(
        &imma(&["bench", "moe", "--experts", "129"]),
        &["--experts is 129", "1 to the 128 of qwen3-30b-a3b"],
    );
}
