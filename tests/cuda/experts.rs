//! Mixtures of experts on the device against the CPU: sorting, permuting, combining, whole layers; captured in a graph and
//! replayed while others are chosen. Bits must be equal.

use crate::support::{self, same, stream, Placed, Random, Type};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::cudarc::driver::{CudaSlice, CudaStream};
use imma::cuda::kernels::{moe_combine, moe_permute, moe_sort, moe_sort_workspace};
use imma::cuda::{Device, DeviceChoices, DeviceExperts, Matrix};
use imma::ops::{self, default_backend, Int8Experts, Routing};
use imma::{DType, Error};
use ndarray::{s, Array2, Array3, ArrayView2};
use std::ops::Range;
use std::sync::Arc;

fn choices(random: &mut Random, tokens: usize, k: usize, experts: usize) -> Array2<i32> {
    let favourite = random.below(experts) as i32;
    let skew = random.pick(&[0, 3, 100]);
    Array2::from_shape_simple_fn((tokens, k), || match random.below(100) < skew {
        true => favourite,
        false => random.below(experts) as i32,
    })
}

fn sorted(
    device: &Device,
    stream: &Arc<CudaStream>,
    indices: &Array2<i32>,
    here: Range<usize>,
    total: usize,
) -> (CudaSlice<i32>, CudaSlice<i32>) {
    let pairs = indices.len();
    let on = match pairs {
        0 => stream.alloc_zeros::<i32>(1).unwrap(),
        _ => stream
            .clone_htod(&indices.iter().copied().collect::<Vec<_>>())
            .unwrap(),
    };
    let mut offsets = stream.clone_htod(&vec![-9; here.len() + 1]).unwrap();
    let mut rows = stream.clone_htod(&vec![-9; pairs.max(1)]).unwrap();
    let needed = moe_sort_workspace(pairs, here.len());
    let mut room = stream.clone_htod(&vec![-9; needed.max(1)]).unwrap();
    let mut place = rows.slice_mut(..pairs);
    let (view, mut room) = (on.slice(..pairs), room.slice_mut(..needed));
    moe_sort(
        device,
        stream,
        &view,
        (here, total),
        &mut offsets,
        &mut place,
        &mut room,
    )
    .unwrap();
    (offsets, rows)
}

#[test]
fn sorting_is_the_cpu_s() {
    let own = support::own_device();
    let (stream, random) = (stream(), &mut Random(31));
    for (tokens, k, experts) in [
        (0, 2, 3),
        (1, 1, 1),
        (7, 2, 4),
        (100, 3, 40),
        (31, 8, 129),
        // More than one block.
        (700, 4, 16),
        (1100, 2, 70),
    ] {
        let indices = choices(random, tokens, k, experts);
        for here in [0..experts, experts / 2..experts, 0..experts.div_ceil(3)] {
            if here.is_empty() {
                continue;
            }
            let want = Routing::of_slice(indices.view(), experts, here.clone()).unwrap();
            let (offsets, rows) = sorted(&own, &stream, &indices, here, experts);
            assert_eq!(stream.clone_dtoh(&offsets).unwrap(), want.offsets());
            let want: Vec<i32> = want.rows().iter().copied().collect();
            let rows = stream.clone_dtoh(&rows).unwrap();
            assert_eq!(rows[..want.len()], want);
        }
    }
    permuting_and_combining::<f32>(&own, random);
    permuting_and_combining::<f16>(&own, random);
    permuting_and_combining::<bf16>(&own, random);
    support::check_all_launched(&own, "experts");
}

fn permuting_and_combining<T: Type>(device: &Device, random: &mut Random) {
    let stream = stream();
    for (tokens, k, experts, width) in [(1, 1, 1, 1), (5, 2, 3, 40), (9, 3, 8, 77), (3, 4, 2, 2600)]
    {
        let indices = choices(random, tokens, k, experts);
        let here = random.below(2).min(experts - 1)..experts;
        let routing = Routing::of_slice(indices.view(), experts, here).unwrap();
        let all = tokens * k;
        let x = support::floats::<T>(random, tokens, width, true);
        let placed = Placed::new(&stream, random, &x, tokens, width, T::from_f32(9.0));
        let pairs: Vec<i32> = routing.rows().iter().copied().collect();
        let pairs = stream.clone_htod(&pairs).unwrap();
        let padded = width + random.below(20);
        let mut q = Placed::filled(&stream, random, all, padded, -77i8, -78);
        let mut scales = Placed::filled(&stream, random, 1, all, -77f32, -78.0);
        let (g, view) = (q.geometry(), placed.view());
        let (mut place, mut scales_place) = (q.view_mut(), scales.view_mut());
        moe_permute::<T>(
            device,
            &stream,
            placed.geometry().over(&view),
            &pairs,
            g.over(&mut place),
            &mut scales_place,
        )
        .unwrap();
        let want = ops::moe_permute(
            ArrayView2::from_shape((tokens, width), &x).unwrap(),
            &routing,
        )
        .unwrap();
        let (q, scales) = (q.read(&stream), scales.read(&stream));
        for row in 0..all {
            let found = &q[row * padded..(row + 1) * padded];
            if row < routing.len() {
                assert_eq!(found[..width], want.matrix().unwrap().row(row).to_vec());
                assert!(found[width..].iter().all(|q| *q == 0));
                assert!(same(scales[row], want.scales()[row]));
            } else {
                assert!(found.iter().all(|q| *q == -77) && scales[row] == -77.0);
            }
        }

        let results = support::floats::<T>(random, routing.len(), width, true);
        let weights = Array2::from_shape_simple_fn((tokens, k), || random.unit());
        let on = stream
            .clone_htod(&weights.iter().copied().collect::<Vec<_>>())
            .unwrap();
        let y = Placed::new(
            &stream,
            random,
            &results,
            routing.len(),
            width,
            T::from_f32(9.0),
        );
        let mut out = Placed::filled(
            &stream,
            random,
            tokens,
            width,
            T::from_f32(7.0),
            T::from_f32(8.0),
        );
        let (g, view) = (out.geometry(), y.view());
        let mut place = out.view_mut();
        moe_combine::<T>(
            device,
            &stream,
            y.geometry().over(&view),
            &pairs,
            &on,
            g.over(&mut place),
        )
        .unwrap();
        let results = ArrayView2::from_shape((routing.len(), width), &results).unwrap();
        let want = ops::moe_combine(results, &routing, weights.view()).unwrap();
        assert!(out
            .read(&stream)
            .iter()
            .zip(&want)
            .all(|(a, b)| same(*a, *b)));
    }
}

/// Rows and indices that there are not are left out, and told.
#[test]
fn wrong_numbers_are_left_out_and_told_by_the_next_call() {
    let own = support::own_device();
    let stream = stream();
    let indices = ndarray::arr2(&[[0, 3], [-1, 1]]);
    let (offsets, rows) = sorted(&own, &stream, &indices, 0..3, 3);
    assert_eq!(stream.clone_dtoh(&offsets).unwrap(), [0, 1, 2, 2]);
    assert_eq!(stream.clone_dtoh(&rows).unwrap(), [0, -1, -1, 1]);
    let text = own.check_faults().unwrap_err().to_string();
    assert!(
        text.contains("pair 1,") || text.contains("pair 2,"),
        "{text}"
    );
    assert_eq!(own.check_faults(), Ok(()));

    let x = stream.clone_htod(&[1f32, 2.0]).unwrap();
    let bad = stream.clone_htod(&[0, 2]).unwrap();
    let mut q = stream.clone_htod(&[7i8; 2]).unwrap();
    let mut scales = stream.clone_htod(&[7f32; 2]).unwrap();
    let output = Matrix::new(&mut q, 2, 1);
    moe_permute::<f32>(
        &own,
        &stream,
        Matrix::new(&x, 2, 1),
        &bad,
        output,
        &mut scales,
    )
    .unwrap();
    assert_eq!(stream.clone_dtoh(&q).unwrap(), [127, 7]);
    let mut y = stream.clone_htod(&[5f32; 2]).unwrap();
    let weights = stream.clone_htod(&[2f32; 2]).unwrap();
    let mut combine = || {
        let output = Matrix::new(&mut y, 2, 1);
        moe_combine::<f32>(&own, &stream, Matrix::new(&x, 2, 1), &bad, &weights, output)
    };
    let text = combine().unwrap_err().to_string();
    assert!(
        text.contains("a row of an earlier permutation is 2"),
        "{text}"
    );
    combine().unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [2.0, 0.0]);
    assert!(own.check_faults().is_err());

    let three = stream.clone_htod(&[0, 1, 0]).unwrap();
    let output = Matrix::new(&mut q, 2, 1);
    let error = moe_permute::<f32>(
        &own,
        &stream,
        Matrix::new(&x, 2, 1),
        &three,
        output,
        &mut scales,
    );
    assert!(matches!(error, Err(Error::Length { .. })), "{error:?}");
}

/// Weights of some experts.
struct Model {
    gate: Array3<f32>,
    up: Array3<f32>,
    down: Array3<f32>,
    biases: Option<[Array2<f32>; 3]>,
}

impl Model {
    fn new(random: &mut Random, experts: usize, outer: usize, inner: usize) -> Self {
        let mut weights = |n, k| Array3::from_shape_simple_fn((experts, n, k), || random.unit());
        let (gate, up, down) = (
            weights(inner, outer),
            weights(inner, outer),
            weights(outer, inner),
        );
        let mut bias = |n| Array2::from_shape_simple_fn((experts, n), || random.unit());
        let biases = [bias(inner), bias(inner), bias(outer)];
        let biases = (random.below(2) == 0).then_some(biases);
        Model {
            gate,
            up,
            down,
            biases,
        }
    }

    fn host(&self, size: Option<usize>) -> Int8Experts {
        let (gate, up, down) = (self.gate.view(), self.up.view(), self.down.view());
        let backend = default_backend().clone();
        let layer = match size {
            None => Int8Experts::from_float(gate, up, down),
            Some(size) => Int8Experts::from_float_groupwise_on(backend, gate, up, down, size),
        };
        match &self.biases {
            None => layer,
            Some([g, u, d]) => layer.and_then(|l| l.with_biases(g.view(), u.view(), d.view())),
        }
        .unwrap()
    }

    fn on(
        &self,
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        size: Option<usize>,
    ) -> DeviceExperts {
        let parts = [self.gate.view(), self.up.view(), self.down.view()];
        let layer = match size {
            None => DeviceExperts::from_float(device, stream, parts[0], parts[1], parts[2]),
            Some(size) => DeviceExperts::from_float_groupwise(device, stream, parts, size),
        };
        match &self.biases {
            None => layer,
            Some([g, u, d]) => {
                layer.and_then(|l| l.with_biases(stream, g.view(), u.view(), d.view()))
            }
        }
        .unwrap()
    }
}

struct Batch<T> {
    x: Array2<T>,
    indices: Array2<i32>,
    weights: Array2<f32>,
}

impl<T: Type> Batch<T> {
    fn new(random: &mut Random, [tokens, k, experts, outer]: [usize; 4]) -> Self {
        Batch {
            x: Array2::from_shape_simple_fn((tokens, outer), || T::from_f32(random.unit())),
            indices: choices(random, tokens, k, experts),
            weights: Array2::from_shape_simple_fn((tokens, k), || random.unit()),
        }
    }

    fn upload(&self, stream: &Arc<CudaStream>) -> (CudaSlice<T>, CudaSlice<i32>, CudaSlice<f32>) {
        fn put<T: Copy + Default + imma::cuda::cudarc::driver::DeviceRepr>(
            stream: &Arc<CudaStream>,
            x: &Array2<T>,
        ) -> CudaSlice<T> {
            stream
                .clone_htod(&x.iter().copied().collect::<Vec<_>>())
                .unwrap()
        }
        (
            put(stream, &self.x),
            put(stream, &self.indices),
            put(stream, &self.weights),
        )
    }

    fn want(&self, layer: &Int8Experts) -> Array2<T> {
        layer
            .forward(self.x.view(), self.indices.view(), self.weights.view())
            .unwrap()
    }
}

fn layers_are_the_cpu_s<T: Type>(device: &Arc<Device>, random: &mut Random) {
    let stream = stream();
    for (experts, outer, inner, size) in
        [(1, 16, 8, None), (4, 70, 33, None), (3, 64, 48, Some(32))]
    {
        let model = Model::new(random, experts, outer, inner);
        let (host, on) = (model.host(size), model.on(device, &stream, size));
        assert_eq!(
            (on.experts(), on.features(), on.intermediate()),
            (experts, outer, inner)
        );
        for (tokens, k) in [(1, 1), (5, 2), (23, 3)] {
            let batch = Batch::<T>::new(random, [tokens, k, experts, outer]);
            let (x, indices, weights) = batch.upload(&stream);
            let choices = DeviceChoices::new(&indices, &weights);
            let x = Matrix::new(x.as_view(), tokens, outer);
            let y = on.forward::<T>(&stream, x, choices).unwrap();
            let y = stream.clone_dtoh(&y).unwrap();
            let want = batch.want(&host);
            assert!(
                y.iter().zip(&want).all(|(a, b)| same(*a, *b)),
                "{experts} experts, {tokens} tokens"
            );
        }
    }
    device.check_faults().unwrap();
}

#[test]
fn layers_have_the_bits_of_the_cpu() {
    let own = support::own_device();
    let random = &mut Random(32);
    layers_are_the_cpu_s::<f32>(&own, random);
    layers_are_the_cpu_s::<f16>(&own, random);
    layers_are_the_cpu_s::<bf16>(&own, random);
}

#[test]
fn slices_of_experts_do_their_own_tokens() {
    let own = support::own_device();
    let (stream, random) = (stream(), &mut Random(33));
    let (experts, outer, inner) = (5, 32, 16);
    let model = Model {
        biases: None,
        ..Model::new(random, experts, outer, inner)
    };
    let all = model.host(None).with_activation(Activation::Gelu);
    let batch = Batch::<bf16>::new(random, [9, 2, experts, outer]);
    let (x, indices, weights) = batch.upload(&stream);
    for range in [0..2, 2..5] {
        let at = s![range.clone(), .., ..];
        let (gate, up, down) = (
            model.gate.slice(at),
            model.up.slice(at),
            model.down.slice(at),
        );
        let layer = DeviceExperts::from_float(&own, &stream, gate, up, down).unwrap();
        let layer = layer.with_activation(Activation::Gelu);
        let layer = layer.with_place(range.start, experts).unwrap();
        assert_eq!(layer.place(), (range.clone(), experts));
        let x = Matrix::new(x.as_view(), 9, outer);
        let y = layer
            .forward::<bf16>(&stream, x, DeviceChoices::new(&indices, &weights))
            .unwrap();
        let want = batch.want(&all.slice(range).unwrap());
        let y = stream.clone_dtoh(&y).unwrap();
        assert!(y.iter().zip(&want).all(|(a, b)| same(*a, *b)));
    }
}

/// Captured once, replayed over other tokens and other choices; a bad choice is told after the replay.
#[test]
fn a_graph_is_replayed_while_others_are_chosen() {
    let own = support::own_device();
    let (stream, random) = (stream(), &mut Random(34));
    let (experts, outer, inner, tokens, k) = (6, 48, 32, 12, 2);
    let model = Model::new(random, experts, outer, inner);
    let (host, layer) = (model.host(None), model.on(&own, &stream, None));
    let plan = layer.plan(tokens, k, DType::BF16).unwrap();
    println!("{plan}");
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes()).unwrap();
    let mut y = stream.alloc_zeros::<bf16>(tokens * outer).unwrap();
    let first = Batch::<bf16>::new(random, [tokens, k, experts, outer]);
    let (mut x, mut indices, mut weights) = first.upload(&stream);
    stream.synchronize().unwrap();
    if let Some(fake) = support::fake() {
        fake.mark();
    }
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).unwrap();
    let place = Matrix::new(&mut y, tokens, outer);
    let choices = DeviceChoices::new(&indices, &weights);
    layer
        .run(
            &plan,
            &stream,
            Matrix::new(&x, tokens, outer),
            choices,
            place,
            &mut workspace,
        )
        .unwrap();
    if let Some(fake) = support::fake() {
        assert_eq!(fake.allocations_since_mark(), 0);
        assert_eq!(fake.synchronisations_since_mark(), 0);
    }
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    for round in 0..4 {
        let mut batch = Batch::<bf16>::new(random, [tokens, k, experts, outer]);
        if round == 1 {
            // All to one.
            batch.indices.fill(3);
        }
        stream
            .memcpy_htod(batch.x.as_slice().unwrap(), &mut x)
            .unwrap();
        stream
            .memcpy_htod(batch.indices.as_slice().unwrap(), &mut indices)
            .unwrap();
        stream
            .memcpy_htod(batch.weights.as_slice().unwrap(), &mut weights)
            .unwrap();
        graph.launch().unwrap();
        let found = stream.clone_dtoh(&y).unwrap();
        let want = batch.want(&host);
        assert!(
            found.iter().zip(&want).all(|(a, b)| same(*a, *b)),
            "round {round}"
        );
        own.check_faults().unwrap();
    }
    stream
        .memcpy_htod(&[experts as i32], &mut indices.slice_mut(7..8))
        .unwrap();
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    let place = Matrix::new(&mut y, tokens, outer);
    let choices = DeviceChoices::new(&indices, &weights);
    let next = layer.run(
        &plan,
        &stream,
        Matrix::new(&x, tokens, outer),
        choices,
        place,
        &mut workspace,
    );
    let text = next.unwrap_err().to_string();
    assert!(text.contains("for pair 7,"), "{text}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let own = support::own_device();
    let (stream, random) = (stream(), &mut Random(35));
    let model = Model::new(random, 2, 16, 8);
    let layer = model.on(&own, &stream, None);
    let (gate, down) = (model.gate.view(), model.down.view());
    assert!(matches!(
        DeviceExperts::from_float(&own, &stream, gate, down, down),
        Err(Error::Shape { .. })
    ));
    let none = s![..0, .., ..];
    let (gate, down) = (model.gate.slice(none), model.down.slice(none));
    assert!(matches!(
        DeviceExperts::from_float(&own, &stream, gate, gate, down),
        Err(Error::Value { .. })
    ));
    assert!(layer.plan(3, 2, DType::I8).is_err());
    assert!(layer.plan(1 << 31, 2, DType::F32).is_err());
    assert!(layer.plan(usize::MAX, 2, DType::F32).is_err());
    let plan = layer.plan(3, 2, DType::F32).unwrap();
    let x = stream.alloc_zeros::<f32>(64).unwrap();
    let (indices, weights) = (
        stream.alloc_zeros::<i32>(6).unwrap(),
        stream.alloc_zeros::<f32>(6).unwrap(),
    );
    let run = |rows: usize, pairs: usize, bytes: usize| {
        let mut y = stream.alloc_zeros::<f32>(64).unwrap();
        let mut workspace = stream.alloc_zeros::<u8>(bytes).unwrap();
        let choices = DeviceChoices::new(indices.slice(..pairs), weights.slice(..pairs));
        let (x, y) = (Matrix::new(&x, rows, 16), Matrix::new(&mut y, 3, 16));
        layer.run(&plan, &stream, x, choices, y, &mut workspace)
    };
    let all = plan.workspace_bytes();
    assert_eq!(run(3, 6, all), Ok(()));
    assert!(matches!(run(2, 6, all), Err(Error::Shape { .. })));
    assert!(matches!(run(3, 5, all), Err(Error::Length { .. })));
    assert!(matches!(run(3, 6, all - 1), Err(Error::Length { .. })));
    assert!(layer.with_place(1, 2).is_err());
}
