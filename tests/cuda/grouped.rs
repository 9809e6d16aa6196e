//! Grouped products on the device against the oracle, a product a group: every instance, both ways of saying whose rows are
//! whose, all parts of the epilogue, adversarial groups; and numbers on the device that are wrong.

use crate::output::Out;
use crate::support::{self, same, stream, Placed, Random};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::cuda::cudarc::driver::{CudaSlice, CudaStream};
use imma::cuda::kernels::igemm_grouped::{by_name, workspace, Instance, GROUPWISE_TILES, TILES};
use imma::cuda::kernels::{
    igemm_grouped, igemm_sm80, GemmOperands, GroupRows, OnDevice, ScaleGroups, Shape,
};
use imma::cuda::{Device, DeviceOutput, Matrix};
use imma::element::{FloatSlice, FloatView};
use imma::epilogue::{Host, Output, Scales, ZeroPoints};
use imma::gemm::{Lhs, Weights};
use imma::reference::{self, Product};
use imma::{Epilogue, Error};
use ndarray::{s, Array2, Array3, Axis};
use std::ops::Range;
use std::sync::Arc;

/// Whose rows are whose.
#[derive(Debug, Clone)]
enum Rows {
    Offsets(Vec<i32>),
    Counts(Vec<i32>, usize),
}

impl Rows {
    /// Of the groups that are good, in order; the others have none.
    fn spans(&self, m: usize) -> Vec<Range<usize>> {
        match self {
            Rows::Offsets(offsets) => {
                let mut highest = 0;
                let mut spans = Vec::new();
                for pair in offsets.windows(2) {
                    highest = highest.max(pair[0]);
                    let good = pair[0] == highest && pair[0] <= pair[1] && pair[1] <= m as i32;
                    spans.push(if good {
                        pair[0] as usize..pair[1] as usize
                    } else {
                        0..0
                    });
                }
                spans
            }
            Rows::Counts(counts, each) => {
                let span = |(g, count): (usize, &i32)| match usize::try_from(*count) {
                    Ok(count) if count <= *each => g * each..g * each + count,
                    _ => 0..0,
                };
                counts.iter().enumerate().map(span).collect()
            }
        }
    }

    fn groups(&self) -> usize {
        match self {
            Rows::Offsets(offsets) => offsets.len() - 1,
            Rows::Counts(counts, _) => counts.len(),
        }
    }

    /// Rows of so many groups, about `m` in all: the number that there really are comes back too.
    fn new(random: &mut Random, groups: usize, m: usize) -> (Self, usize) {
        if random.below(3) == 0 {
            let each = m.div_ceil(groups);
            let counts = (0..groups).map(|_| match random.below(4) {
                0 => 0,
                1 => each as i32,
                _ => random.below(each + 1) as i32,
            });
            return (Rows::Counts(counts.collect(), each), each * groups);
        }
        let mut offsets: Vec<i32> = match random.below(4) {
            0 => {
                let one = random.below(groups);
                (0..=groups)
                    .map(|g| if g <= one { 0 } else { m as i32 })
                    .collect()
            }
            _ => (0..=groups).map(|_| random.below(m + 1) as i32).collect(),
        };
        offsets.sort_unstable();
        if random.below(2) == 0 {
            (offsets[0], offsets[groups]) = (0, m as i32);
        }
        (Rows::Offsets(offsets), m)
    }

    fn upload(&self, stream: &Arc<CudaStream>) -> CudaSlice<i32> {
        match self {
            Rows::Offsets(numbers) | Rows::Counts(numbers, _) => {
                stream.clone_htod(numbers).unwrap()
            }
        }
    }

    fn on<'a>(&self, numbers: &'a CudaSlice<i32>) -> GroupRows<'a> {
        match self {
            Rows::Offsets(_) => GroupRows::Offsets(numbers.into()),
            Rows::Counts(_, each) => GroupRows::Counts {
                counts: numbers.into(),
                each: *each,
            },
        }
    }
}

/// A grouped problem on the host.
struct Problem {
    rows: Rows,
    a: Array2<i8>,
    /// `[G, N, K]`.
    w: Array3<i8>,
    /// `[G, scale groups, N]`, and their size.
    groups: Option<(Array3<f32>, usize)>,
    row_scales: Vec<f32>,
    col_scales: Option<Vec<f32>>,
    zeros: Option<Vec<i32>>,
    bias: Option<Vec<f32>>,
    residual: Option<Array2<bf16>>,
    activation: Activation,
    gated: bool,
}

impl Problem {
    fn new(
        random: &mut Random,
        rows: Rows,
        [m, n, k]: [usize; 3],
        size: Option<usize>,
        raw: bool,
    ) -> Self {
        let gated = !raw && n % 2 == 0 && random.below(2) == 0;
        let cols = if gated { n / 2 } else { n };
        let groups = rows.groups();
        let some = |random: &mut Random| random.below(2) == 0;
        let w = Array3::from_shape_simple_fn((groups, n, k), || random.next() as i8);
        let scales = size.map(|size| {
            let shape = (groups, k.div_ceil(size), n);
            (
                Array3::from_shape_simple_fn(shape, || random.unit() * 0.01),
                size,
            )
        });
        let plain = size.is_none();
        Problem {
            a: Array2::from_shape_simple_fn((m, k), || random.next() as i8),
            w,
            row_scales: (0..m).map(|_| random.unit() * 0.1).collect(),
            col_scales: (plain && !raw && some(random))
                .then(|| (0..groups * n).map(|_| random.unit() * 0.1).collect()),
            zeros: (plain && some(random))
                .then(|| (0..m).map(|_| i32::from(random.next() as i8)).collect()),
            bias: (!raw && some(random)).then(|| (0..groups * n).map(|_| random.unit()).collect()),
            residual: (!raw && some(random))
                .then(|| Array2::from_shape_simple_fn((m, cols), || bf16::from_f32(random.unit()))),
            activation: match raw {
                true => Activation::None,
                false => random.pick(&[Activation::None, Activation::Silu, Activation::Gelu]),
            },
            groups: scales,
            rows,
            gated,
        }
    }

    fn n(&self) -> usize {
        self.w.dim().1
    }

    fn cols(&self) -> usize {
        if self.gated {
            self.n() / 2
        } else {
            self.n()
        }
    }

    /// The oracle's rows, by group; nothing for groups without.
    fn want(&self, output: Output) -> Vec<(Range<usize>, Product)> {
        let spans = self.rows.spans(self.a.nrows());
        let busy = spans
            .into_iter()
            .enumerate()
            .filter(|(_, span)| !span.is_empty());
        let product = |(g, span): (usize, Range<usize>)| {
            let n = self.n();
            let columns = g * n..(g + 1) * n;
            let raw = output == Output::Raw;
            let epilogue = Epilogue::<Host<'_>> {
                row_scales: match raw {
                    true => Scales::None,
                    false => Scales::PerVector(&self.row_scales[span.clone()]),
                },
                col_scales: match &self.col_scales {
                    None => Scales::None,
                    Some(all) => Scales::PerVector(&all[columns.clone()]),
                },
                row_zero_points: match &self.zeros {
                    None => ZeroPoints::None,
                    Some(all) => ZeroPoints::PerVector(&all[span.clone()]),
                },
                bias: self.bias.as_ref().map(|b| FloatSlice::F32(&b[columns])),
                activation: self.activation,
                gated: self.gated,
                residual: (self.residual.as_ref())
                    .map(|r| FloatView::BF16(r.slice(s![span.clone(), ..]))),
                output,
            };
            let w = self.w.index_axis(Axis(0), g);
            let weights = match &self.groups {
                None => Weights::Int8(w.t()),
                Some((scales, size)) => Weights::Int8Groupwise {
                    data: w.t(),
                    scales: scales.index_axis(Axis(0), g),
                    size: *size,
                },
            };
            let lhs = Lhs::Int8(self.a.slice(s![span.clone(), ..]));
            (span, reference::gemm(&lhs, &weights, &epilogue))
        };
        busy.map(product).collect()
    }
}

/// The same in device memory.
struct Placements {
    a: Placed<i8>,
    w: Placed<i8>,
    rows: CudaSlice<i32>,
    row_scales: Placed<f32>,
    col_scales: Option<Placed<f32>>,
    zeros: Option<Placed<i32>>,
    col_sums: Placed<i32>,
    bias: Option<Placed<f32>>,
    residual: Option<Placed<bf16>>,
    groups: Option<Placed<f32>>,
}

impl Placements {
    fn new(stream: &Arc<CudaStream>, random: &mut Random, p: &Problem, aligned: bool) -> Self {
        let (groups, n, k) = p.w.dim();
        let m = p.a.nrows();
        let ints = |random: &mut Random, data: Vec<i8>, rows| match aligned {
            true => {
                let stride = k.next_multiple_of(16) + 16 * random.below(2);
                Placed::at(stream, &data, [rows, k], 0x55, 16 * random.below(3), stride)
            }
            false => Placed::new(stream, random, &data, rows, k, 0x55),
        };
        let vector = |random: &mut Random, data: &[f32]| {
            Placed::new(stream, random, data, 1, data.len(), -3.0)
        };
        let col_sums: Vec<i32> = (p.w.rows().into_iter())
            .map(|row| row.iter().map(|x| i32::from(*x)).sum())
            .collect();
        Placements {
            a: ints(random, p.a.iter().copied().collect(), m),
            w: ints(random, p.w.iter().copied().collect(), groups * n),
            rows: p.rows.upload(stream),
            row_scales: vector(random, &p.row_scales),
            col_scales: p.col_scales.as_ref().map(|s| vector(random, s)),
            zeros: (p.zeros.as_ref()).map(|z| Placed::new(stream, random, z, 1, z.len(), -3)),
            col_sums: Placed::new(stream, random, &col_sums, 1, col_sums.len(), -3),
            bias: p.bias.as_ref().map(|b| vector(random, b)),
            residual: p.residual.as_ref().map(|r| {
                let data: Vec<_> = r.iter().copied().collect();
                Placed::new(stream, random, &data, r.nrows(), r.ncols(), bf16::MAX)
            }),
            groups: p.groups.as_ref().map(|(scales, _)| {
                // [scale groups, G * N]
                let by_group = scales.view().permuted_axes([1, 0, 2]);
                let data: Vec<f32> = by_group.iter().copied().collect();
                Placed::new(stream, random, &data, scales.dim().1, groups * n, f32::MAX)
            }),
        }
    }

    fn epilogue(&self, p: &Problem, output: Output) -> Epilogue<OnDevice<'_>> {
        Epilogue {
            row_scales: match output {
                Output::Raw => Scales::None,
                _ => Scales::PerVector(self.row_scales.view().into()),
            },
            col_scales: match &self.col_scales {
                None => Scales::None,
                Some(scales) => Scales::PerVector(scales.view().into()),
            },
            row_zero_points: match &self.zeros {
                None => ZeroPoints::None,
                Some(zeros) => ZeroPoints::PerVector(zeros.view().into()),
            },
            bias: self.bias.as_ref().map(|b| b.view().into()),
            activation: p.activation,
            gated: p.gated,
            residual: (self.residual.as_ref()).map(|r| r.geometry().over(r.view().into())),
            output,
        }
    }

    fn operands<'a, 'e: 'a>(
        &'a self,
        p: &'a Problem,
        epilogue: &Epilogue<OnDevice<'e>>,
        out: Matrix<DeviceOutput<'a>>,
    ) -> GemmOperands<'a> {
        let (a, w) = (self.a.geometry(), self.w.geometry());
        let operands = GemmOperands::new(
            a.over(self.a.view()),
            w.over(self.w.view()),
            out,
            epilogue.clone(),
        );
        let mut operands = operands.with_group_rows(p.rows.on(&self.rows));
        if self.zeros.is_some() {
            operands = operands.with_col_sums(self.col_sums.view());
        }
        if let (Some(scales), Some((_, size))) = (&self.groups, &p.groups) {
            operands = operands.with_scale_groups(ScaleGroups {
                scales: scales.geometry().over(scales.view()),
                size: *size,
            });
        }
        operands
    }
}

/// One product by one instance, to one type and to int8 with a scale a row.
fn check<O: Out>(device: &Device, random: &mut Random, instance: Instance, p: &Problem) {
    let stream = stream();
    let (m, cols) = (p.a.nrows(), p.cols());
    let placed = Placements::new(&stream, random, p, instance.tile.aligned);
    let case = format!(
        "{instance}: {:?} of {m}, [{}, {}] -> {}",
        p.rows,
        p.n(),
        p.a.ncols(),
        O::TYPE
    );
    let mut out = Placed::filled(&stream, random, m, cols, O::POISON, O::GAP);
    let epilogue = placed.epilogue(p, O::OUTPUT);
    let g = out.geometry();
    let operands = placed.operands(p, &epilogue, g.over(O::place(out.view_mut())));
    igemm_grouped(device, &stream, instance, operands).unwrap_or_else(|e| panic!("{case}: {e}"));
    let mut want = vec![O::POISON; m * cols];
    for (span, product) in p.want(O::OUTPUT) {
        want[span.start * cols..span.end * cols].copy_from_slice(&O::of(product));
    }
    let found = out.read(&stream);
    let wrong = (0..want.len()).find(|i| !O::equal(found[*i], want[*i]));
    if let Some(i) = wrong {
        let (row, col) = (i / cols, i % cols);
        panic!(
            "{case}: [{row}, {col}] is {:?}, expected {:?}",
            found[i], want[i]
        );
    }
    if O::OUTPUT == Output::Raw {
        return;
    }
    let epilogue = placed.epilogue(p, Output::Int8PerRow);
    let mut q = Placed::filled(&stream, random, m, cols, -77, -78);
    let mut scales = Placed::filled(&stream, random, 1, m, -77.0, -78.0);
    let room = workspace(m, cols, Output::Int8PerRow).max(1);
    // SAFETY: what no group has is not read: the emulated driver says so.
    let mut room = unsafe { stream.alloc::<i32>(room) }.unwrap();
    let g = q.geometry();
    let place = DeviceOutput::I8PerRow {
        data: q.view_mut(),
        scales: scales.view_mut(),
    };
    let operands = placed.operands(p, &epilogue, g.over(place));
    let operands = operands.with_workspace(room.as_view_mut());
    igemm_grouped(device, &stream, instance, operands).unwrap_or_else(|e| panic!("{case}: {e}"));
    let (mut want, mut want_scales) = (vec![-77i8; m * cols], vec![-77f32; m]);
    for (span, product) in p.want(Output::Int8PerRow) {
        let Product::I8PerRow { q, scales } = product else {
            panic!("the oracle answered {product:?}");
        };
        let q: Vec<i8> = q.iter().copied().collect();
        want[span.start * cols..span.end * cols].copy_from_slice(&q);
        want_scales[span].copy_from_slice(&scales);
    }
    assert!(q.read(&stream) == want, "{case}: int8 by row");
    for (found, want) in scales.read(&stream).iter().zip(&want_scales) {
        assert!(
            same(*found, *want),
            "{case}: a scale is {found}, expected {want}"
        );
    }
}

fn check_any(
    device: &Device,
    random: &mut Random,
    instance: Instance,
    rows: Rows,
    shape: [usize; 3],
) {
    let size = instance.is_groupwise().then(|| random.pick(&[32, 64, 128]));
    let kind = random.below(5);
    let raw = kind == 3 && size.is_none();
    let p = Problem::new(random, rows, shape, size, raw);
    match kind {
        0 => check::<f32>(device, random, instance, &p),
        1 => check::<f16>(device, random, instance, &p),
        2 => check::<bf16>(device, random, instance, &p),
        3 if raw => check::<i32>(device, random, instance, &p),
        _ => check::<i8>(device, random, instance, &p),
    }
}

/// Every instance: groups of less than a tile, of a tile, of several; tiles that begin in the middle of another's.
#[test]
fn every_instance_gives_the_oracle_s_bits() {
    let own = support::own_device();
    let random = &mut Random(21);
    for tile in TILES.iter().chain(&GROUPWISE_TILES) {
        let instance = Instance { tile };
        let (m, n, k) = (tile.m, tile.n, tile.k);
        for (groups, shape) in [
            (1, [m, n, k * (tile.stages + 1)]),
            (3, [2 * m + 7, n + 1, k + 1]),
            (5, [m + 3, 2 * n, 2 * k + 16]),
            (2, [3, 5, 1]),
            (4, [9, 6, 0]),
        ] {
            let (rows, m) = Rows::new(random, groups, shape[0]);
            check_any(&own, random, instance, rows, [m, shape[1], shape[2]]);
        }
        let offsets = Rows::Offsets(vec![0, 1, m as i32 + 1, m as i32 + 1, m as i32 + 3]);
        check_any(&own, random, instance, offsets, [m + 4, n + 6, k]);
    }
    support::check_all_launched(&own, "grouped");
}

/// More groups than a warp looks at together, most of them empty, and more tiles than blocks.
#[test]
fn many_groups_are_walked_through() {
    let own = support::own_device();
    let random = &mut Random(22);
    let tile = by_name("16x64x128").unwrap();
    for groups in [31, 32, 33, 70] {
        let (rows, m) = Rows::new(random, groups, 60);
        check_any(&own, random, Instance { tile }, rows, [m, 70, 40]);
    }
    let mut offsets = vec![0; 65];
    offsets[64] = 5;
    check_any(
        &own,
        random,
        Instance { tile },
        Rows::Offsets(offsets),
        [5, 66, 33],
    );
    let blocks = own.properties().multiprocessors as usize * tile.blocks;
    let groups = blocks / 4 + 3;
    let counts = Rows::Counts((0..groups).map(|g| (g % 2) as i32).collect(), 1);
    check_any(
        &own,
        random,
        Instance { tile },
        counts,
        [groups, 64 * 10, 16],
    );
}

/// Bad groups are left out, the others are right, nothing else is touched, and the next call says so.
#[test]
fn bad_groups_write_nothing_and_are_told_by_the_next_call() {
    let own = support::own_device();
    let random = &mut Random(23);
    let m = 40;
    let cases: &[(Rows, &[usize])] = &[
        (Rows::Offsets(vec![0, 10, 5, 20, 40]), &[1, 2]),
        (Rows::Offsets(vec![-3, 10, 20, 30, 40]), &[0]),
        (Rows::Offsets(vec![0, 41, 41, 41, 41]), &[0, 1, 2, 3]),
        (Rows::Offsets(vec![0, 10, 20, 30, i32::MAX]), &[3]),
        (Rows::Offsets(vec![0, i32::MIN, 20, 30, 40]), &[0, 1]),
        (Rows::Offsets(vec![7, 7, 7, 3, 3]), &[2, 3]),
        (Rows::Counts(vec![10, -1, 11, 3], 10), &[1, 2]),
        (Rows::Counts(vec![i32::MIN, i32::MAX, 0, 10], 10), &[0, 1]),
    ];
    for (rows, bad) in cases {
        for name in ["16x64x128", "64x64x128"] {
            let instance: Instance = name.parse().unwrap();
            let p = Problem::new(random, rows.clone(), [m, 70, 48], None, false);
            // The second call in there is the next: to int8 by row.
            let stream = stream();
            let placed = Placements::new(&stream, random, &p, true);
            let cols = p.cols();
            let mut out = Placed::filled(&stream, random, m, cols, f32::POISON, f32::GAP);
            let epilogue = placed.epilogue(&p, Output::F32);
            let g = out.geometry();
            let operands = placed.operands(&p, &epilogue, g.over(f32::place(out.view_mut())));
            igemm_grouped(&own, &stream, instance, operands).unwrap();
            let mut want = vec![f32::POISON; m * cols];
            for (span, product) in p.want(Output::F32) {
                want[span.start * cols..span.end * cols].copy_from_slice(&f32::of(product));
            }
            let found = out.read(&stream);
            let equal = found.iter().zip(&want).all(|(a, b)| same(*a, *b));
            assert!(equal, "{name}: {rows:?}");
            let again = placed.operands(&p, &epilogue, g.over(f32::place(out.view_mut())));
            let error = igemm_grouped(&own, &stream, instance, again).unwrap_err();
            let text = error.to_string();
            let named = bad
                .iter()
                .any(|g| text.contains(&format!("wrong for group {g},")));
            assert!(
                matches!(error, Error::Value { .. }) && named,
                "{rows:?}: {text}"
            );
            // Told once.
            assert_eq!(own.check_faults(), Ok(()), "{rows:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let own = support::own_device();
    let (stream, random) = (stream(), &mut Random(24));
    let rows = Rows::Offsets(vec![0, 4, 9]);
    let p = Problem::new(random, rows, [9, 20, 48], None, false);
    let placed = Placements::new(&stream, random, &p, true);
    let epilogue = placed.epilogue(&p, Output::F32);
    let cols = p.cols();
    let mut out = stream.alloc_zeros::<f32>(9 * cols).unwrap();
    let instance: Instance = "16x64x128".parse().unwrap();
    let run = |instance: Instance, rows: Option<GroupRows<'_>>| {
        let mut out = stream.alloc_zeros::<f32>(9 * cols).unwrap();
        let place = Matrix::new((&mut out).into(), 9, cols);
        let mut operands = placed.operands(&p, &epilogue, place);
        if let Some(rows) = rows {
            operands = operands.with_group_rows(rows);
        }
        let error = igemm_grouped(&own, &stream, instance, operands);
        error.unwrap_err().to_string()
    };
    let single = igemm_sm80::Instance::new(&igemm_sm80::TILES[0]);
    let place = Matrix::new((&mut out).into(), 9, cols);
    let error = igemm_sm80(&own, &stream, single, placed.operands(&p, &epilogue, place));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("igemm_grouped"), "{text}");
    let text = run("16x64x128_groupwise".parse().unwrap(), None);
    assert!(text.contains("without _groupwise"), "{text}");
    let three = stream.clone_htod(&[0, 1, 2, 3]).unwrap();
    let text = run(instance, Some(GroupRows::Offsets((&three).into())));
    assert!(text.contains("3 groups"), "{text}");
    let none = stream.clone_htod(&[0]).unwrap();
    let text = run(instance, Some(GroupRows::Offsets((&none).into())));
    assert!(text.contains("at least 1"), "{text}");
    let counts = stream.clone_htod(&[1, 2]).unwrap();
    let counts = GroupRows::Counts {
        counts: (&counts).into(),
        each: 4,
    };
    let text = run(instance, Some(counts));
    assert!(text.contains("9 in all"), "{text}");
    // No rows of groups at all.
    let (a, w) = (placed.a.geometry(), placed.w.geometry());
    let place = Matrix::new((&mut out).into(), 9, 40);
    let plain = GemmOperands::new(
        a.over(placed.a.view()),
        w.over(placed.w.view()),
        place,
        Epilogue::to(Output::F32),
    );
    assert!(igemm_grouped(&own, &stream, instance, plain).is_err());
    assert!("17x64x128".parse::<Instance>().is_err());
}

/// A pure function of what the host knows, and one that fits what it is asked for.
#[test]
fn instances_are_chosen_by_rows_a_group() {
    let device = support::device();
    let choose = |m, groups, groupwise, aligned| {
        let shape = Shape::new(m, 4096, 2048);
        Instance::choose(shape, groups, groupwise, aligned, device.properties())
    };
    for m in [0, 1, 8, 100, 1000, 100_000] {
        for groups in [1, 8, 128] {
            for groupwise in [false, true] {
                for aligned in [false, true] {
                    let instance = choose(m, groups, groupwise, aligned);
                    assert_eq!(instance.is_groupwise(), groupwise);
                    assert_eq!(instance.tile.aligned, aligned, "{instance}");
                    let same: Instance = instance.to_string().parse().unwrap();
                    assert_eq!(same, instance);
                }
            }
        }
    }
    assert_eq!(choose(8, 128, false, true).tile.m, 16);
    assert_eq!(choose(100_000, 8, false, true).tile.m, 128);
    assert_eq!(workspace(3, 5, Output::Int8PerRow), 15);
    assert_eq!(workspace(3, 5, Output::F32), 0);
}
