//! Layers over several devices through NCCL: the bits of one device and of the CPU, and a sentence for what goes wrong.
//!
//! Each test runs in a process of its own, with as many emulated devices as it needs.

use crate::support::{alone, hardware, same, Random};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::parallel::{Group, ShardedLinear, UniqueId};
use imma::cuda::{nccl_status, Device, DeviceElement, Matrix};
use imma::element::{FloatSlice, FloatView};
use imma::epilogue::Output;
use imma::gemm::{ActivationQuant, Gemm, Lhs, Split, Weights};
use imma::{Backend, Cpu, Element, Epilogue, Result};
use ndarray::{s, Array2};
use std::sync::Arc;

/// One layer and what it is called with.
struct Case {
    weight: Array2<f32>,
    /// Integers with their scales in place of the floats.
    int8: Option<(Array2<i8>, Vec<f32>)>,
    bias: Option<Vec<f32>>,
    residual: Option<Array2<f32>>,
    quant: ActivationQuant,
    activation: Activation,
    x: Array2<f32>,
}

impl Case {
    fn random(
        random: &mut Random,
        (m, n, k): (usize, usize, usize),
        quant: ActivationQuant,
    ) -> Self {
        let mut matrix = |rows, cols| Array2::from_shape_simple_fn((rows, cols), || random.unit());
        let (weight, mut x, residual) = (matrix(n, k), matrix(m, k), matrix(m, n));
        if m > 4 {
            x[[1, k - 1]] = f32::NAN;
            x[[2, 0]] = f32::INFINITY;
            x.row_mut(3).fill(0.0);
        }
        let integers = Array2::from_shape_simple_fn((n, k), || random.next() as i8);
        let scales = (0..n).map(|_| random.fraction()).collect();
        Case {
            weight,
            int8: (random.below(2) == 0).then_some((integers, scales)),
            bias: (random.below(2) == 0).then(|| (0..n).map(|_| random.unit()).collect()),
            residual: (random.below(2) == 0).then_some(residual),
            quant,
            activation: random.pick(&[Activation::None, Activation::Silu]),
            x,
        }
    }

    /// On the CPU, undivided.
    fn product<T: Element>(&self) -> Array2<T> {
        let cpu = Cpu::new();
        let weights = match &self.int8 {
            None => cpu.pack(Weights::Float(FloatView::F32(self.weight.t()))),
            Some((q, scales)) => cpu
                .pack(Weights::Int8(q.t()))
                .and_then(|packed| packed.with_scales(scales)),
        };
        let residual = self.residual.as_ref().map(|r| r.mapv(T::from_f32));
        let epilogue = Epilogue {
            bias: self.bias.as_deref().map(FloatSlice::F32),
            activation: self.activation,
            residual: residual.as_ref().map(|r| T::tag(r.view())),
            ..Epilogue::to(Output::of::<T>())
        };
        let x = self.x.mapv(T::from_f32);
        let lhs = Lhs::Float {
            data: T::tag(x.view()),
            quant: self.quant,
        };
        let weights = weights.unwrap();
        let gemm = Gemm::new(lhs, &weights, epilogue).unwrap();
        let mut y = Array2::default((x.nrows(), weights.n()));
        cpu.gemm(&gemm, T::tag_mut(y.view_mut())).unwrap();
        y
    }

    /// One rank's call, captured in a graph and replayed twice when asked to.
    fn rank<T: DeviceElement>(
        &self,
        group: Arc<Group>,
        split: &Split,
        graph: bool,
    ) -> Result<Vec<T>> {
        let device = group.device().clone();
        let stream = device.context().new_stream().unwrap();
        let own = s![.., split.range(group.rank())];
        let (m, n) = (self.x.nrows(), self.weight.nrows());
        let k = split.range(group.rank()).len();
        let mut layer = match &self.int8 {
            None => {
                let host: Vec<f32> = self.weight.slice(own).iter().copied().collect();
                let weight = upload(&stream, &host);
                let weight = Matrix::new(&weight, n, k);
                ShardedLinear::from_float(&group, &stream, split, weight)?
            }
            Some((q, scales)) => {
                let host: Vec<i8> = q.slice(own).iter().copied().collect();
                let weight = upload(&stream, &host);
                let weight = Matrix::new(&weight, n, k);
                ShardedLinear::from_int8(&group, &stream, split, weight, scales)?
            }
        };
        if let Some(bias) = &self.bias {
            layer = layer.with_bias(&stream, stream.clone_htod(bias).unwrap())?;
        }
        let layer = layer.with_activation(self.activation);
        let layer = layer.with_activation_quant(self.quant)?;
        let plan = layer.plan(m, T::DTYPE, T::DTYPE)?;
        let mut workspace = plan.workspace(&stream)?;
        let host: Vec<T> = self.x.slice(own).iter().map(|x| T::from_f32(*x)).collect();
        let x = upload(&stream, &host);
        let residual = self.residual.as_ref().map(|r| {
            let host: Vec<T> = r.iter().map(|x| T::from_f32(*x)).collect();
            upload(&stream, &host)
        });
        let mut y = upload(&stream, &vec![T::from_f32(-1.0); m * n]);
        let mut run = || {
            let residual = residual
                .as_ref()
                .map(|r| Matrix::new(T::floats(r.as_view()), m, n));
            let x = Matrix::new(T::floats(x.as_view()), m, k);
            let place = Matrix::new(T::output(y.as_view_mut()), m, n);
            layer.run(&plan, &stream, x, residual, place, &mut workspace)
        };
        if graph {
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            stream.begin_capture(mode).unwrap();
            let enqueued = run();
            let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let graph = stream.end_capture(flags).unwrap();
            enqueued?;
            for _ in 0..2 {
                graph.as_ref().unwrap().launch().unwrap();
            }
        } else {
            run()?;
        }
        let y = stream.clone_dtoh(&y).unwrap();
        stream.synchronize().unwrap();
        Ok(y[..m * n].to_vec())
    }

    fn check<T: DeviceElement>(&self, devices: &[Arc<Device>], split: &Split, graph: bool) {
        let want = self.product::<T>();
        let results = ranks(devices, |group| self.rank::<T>(group, split, graph));
        for (rank, found) in results.into_iter().enumerate() {
            let found = found.unwrap();
            assert_eq!(found.len(), want.len());
            for (i, (found, want)) in found.iter().zip(&want).enumerate() {
                let what = format!("element {i} of rank {rank}, {split:?}, {:?}", self.quant);
                assert!(same(*found, *want), "{found:?}, not {want:?}: {what}");
            }
        }
    }
}

fn upload<T: imma::cuda::cudarc::driver::DeviceRepr + Default + Copy>(
    stream: &Arc<imma::cuda::cudarc::driver::CudaStream>,
    host: &[T],
) -> imma::cuda::cudarc::driver::CudaSlice<T> {
    let nothing = [T::default()];
    let host = if host.is_empty() { &nothing } else { host };
    stream.clone_htod(host).unwrap()
}

fn devices(count: usize) -> Vec<Arc<Device>> {
    if !hardware() {
        fake_cuda::install::install();
    }
    let open = |i| {
        let device = Device::open(i).unwrap();
        // SAFETY: what a stream uses is used on that one alone, and waited for before it is dropped.
        unsafe { device.context().disable_event_tracking() };
        device
    };
    (0..count).map(open).collect()
}

/// A thread a device, each with its place in a new group.
fn ranks<R: Send>(devices: &[Arc<Device>], work: impl Fn(Arc<Group>) -> R + Sync) -> Vec<R> {
    let id = UniqueId::new().unwrap();
    let id = UniqueId::from_bytes(id.to_bytes());
    let (work, count) = (&work, devices.len());
    std::thread::scope(|scope| {
        let spawn = |(rank, device): (usize, &'_ Arc<Device>)| {
            let device = device.clone();
            scope.spawn(move || work(Arc::new(Group::new(&device, id, rank, count).unwrap())))
        };
        let threads: Vec<_> = devices.iter().enumerate().map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

const QUANTS: [ActivationQuant; 4] = [
    ActivationQuant::PerToken,
    ActivationQuant::PerTokenAsymmetric,
    ActivationQuant::Static { scale: 0.01 },
    ActivationQuant::StaticAsymmetric {
        scale: 0.02,
        zero_point: 5,
    },
];

#[test]
fn any_number_of_devices_gives_the_bits_of_one() {
    let name = "parallel::any_number_of_devices_gives_the_bits_of_one";
    if !alone(name, &[("IMMA_FAKE_DEVICES", "4")]) {
        return;
    }
    let (devices, random) = (devices(4), &mut Random(12));
    assert!(nccl_status().is_usable(), "{}", nccl_status());
    for (i, (m, n, k)) in [
        (17, 33, 129),
        (1, 64, 70),
        (5, 1, 3),
        (0, 8, 16),
        (40, 50, 260),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, quant) in QUANTS.into_iter().enumerate() {
            let case = Case::random(random, (m, n, k), quant);
            for shards in [1, 2, 3, 4] {
                let mut cuts: Vec<_> = (1..shards).map(|_| random.below(k + 1)).collect();
                cuts.extend([0, k]);
                cuts.sort_unstable();
                let split = Split::at(&cuts).unwrap();
                let (devices, graph) = (&devices[..shards], (i + j + shards) % 2 == 0);
                match (i + j) % 3 {
                    0 => case.check::<f32>(devices, &split, graph),
                    1 => case.check::<f16>(devices, &split, graph),
                    _ => case.check::<bf16>(devices, &split, graph),
                }
            }
        }
    }
}

#[test]
fn a_run_allocates_nothing_and_waits_for_nothing() {
    let name = "parallel::a_run_allocates_nothing_and_waits_for_nothing";
    if hardware() || !alone(name, &[("IMMA_FAKE_DEVICES", "2")]) {
        return;
    }
    let split = Split::even(64, 2).unwrap();
    ranks(&devices(2), |group| {
        let fake = fake_cuda::install::install();
        let stream = group.device().context().new_stream().unwrap();
        let weight = stream.alloc_zeros::<f32>(8 * 32).unwrap();
        let weight = Matrix::new(&weight, 8, 32);
        let layer = ShardedLinear::from_float(&group, &stream, &split, weight).unwrap();
        let plan = layer.plan(3, f32::DTYPE, f32::DTYPE).unwrap();
        let mut workspace = plan.workspace(&stream).unwrap();
        assert!(plan.workspace_bytes() >= 4 * 3 * 8 + 3 * 32);
        let x = stream.alloc_zeros::<f32>(3 * 32).unwrap();
        let mut y = stream.alloc_zeros::<f32>(3 * 8).unwrap();
        stream.synchronize().unwrap();
        fake.mark();
        let (x, y) = (Matrix::new(&x, 3, 32), Matrix::new(&mut y, 3, 8));
        layer
            .run(&plan, &stream, x, None, y, &mut workspace)
            .unwrap();
        assert_eq!(fake.allocations_since_mark(), 0);
        assert_eq!(fake.synchronisations_since_mark(), 0);
        // What docs/invariance.md counts.
        assert_eq!(fake.calls_since_mark("ncclAllReduce"), 2);
        assert_eq!(
            fake.launches_since_mark(Some("quantize_rows_extents_f32")),
            1
        );
        assert_eq!(fake.launches_since_mark(Some("quantize_rows_by_f32")), 1);
        assert_eq!(fake.launches_since_mark(Some("epilogue_i32")), 1);
        assert_eq!(fake.launches_since_mark(None), 4);
    });
}

#[test]
fn ranks_that_disagree_or_fail_are_told_and_none_waits_for_ever() {
    let name = "parallel::ranks_that_disagree_or_fail_are_told_and_none_waits_for_ever";
    let variables = [("IMMA_FAKE_DEVICES", "3"), ("IMMA_FAKE_NCCL_MS", "3000")];
    if hardware() || !alone(name, &variables) {
        return;
    }
    let devices = devices(3);
    let layer = |group: &Arc<Group>, n: usize, k: usize| {
        let split = Split::even(k, 3)?;
        let stream = group.device().context().new_stream().unwrap();
        let own = split.range(group.rank()).len();
        let weight = upload(&stream, &vec![1f32; n * own]);
        ShardedLinear::from_float(group, &stream, &split, Matrix::new(&weight, n, own))
    };
    // What they disagree about is named with both values.
    for (other, part) in [
        ((7, 12), "the number of outputs: 8 and 7"),
        ((8, 9), "inputs: 12 and 9"),
    ] {
        for result in ranks(&devices, |group| {
            let (n, k) = if group.rank() == 1 { other } else { (8, 12) };
            layer(&group, n, k)
        }) {
            let message = result.unwrap_err().to_string();
            assert!(
                message.contains("ranks 0 and 1") && message.contains(part),
                "{message}"
            );
        }
    }
    // A slice that is none, on one rank: it says why, the others' wait ends.
    let results = ranks(&devices, |group| {
        let split = Split::even(12, 3).unwrap();
        let stream = group.device().context().new_stream().unwrap();
        let columns = if group.rank() == 2 { 5 } else { 4 };
        let weight = upload(&stream, &[1f32; 40]);
        let weight = Matrix::new(&weight, 8, columns);
        let made = ShardedLinear::from_float(&group, &stream, &split, weight);
        let first = made.map(|_| ()).unwrap_err().to_string();
        // The group is of no more use, and says so.
        let mut values = upload(&stream, &[1i32]);
        let later = group
            .all_reduce_sum(&stream, &mut values)
            .unwrap_err()
            .to_string();
        (first, later)
    });
    assert!(results[2].0.contains("[8, 5]"), "{}", results[2].0);
    for (first, later) in &results[..2] {
        assert!(first.contains("ncclAllGather gave"), "{first}");
        assert!(later.contains("ended earlier"), "{later}");
    }
    // Other numbers of rows, and a rank that never comes.
    let uneven = |group: &Arc<Group>, m: usize| {
        let layer = layer(group, 8, 12)?;
        let stream = group.device().context().new_stream().unwrap();
        let plan = layer.plan(m, f32::DTYPE, f32::DTYPE)?;
        let mut workspace = plan.workspace(&stream)?;
        let x = upload(&stream, &vec![1f32; m * 4]);
        let mut y = upload(&stream, &vec![1f32; m * 8]);
        let (x, y) = (Matrix::new(&x, m, 4), Matrix::new(&mut y, m, 8));
        layer.run(&plan, &stream, x, None, y, &mut workspace)
    };
    for result in ranks(&devices, |group| uneven(&group, 2 + group.rank() / 2)) {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("ncclAllReduce gave"), "{message}");
    }
    let results = ranks(&devices, |group| {
        let done = (group.rank() != 1).then(|| uneven(&group, 2).unwrap_err().to_string());
        // Its place is kept until the others have given up.
        if done.is_none() {
            std::thread::sleep(std::time::Duration::from_secs(5));
        }
        done
    });
    for message in results.into_iter().flatten() {
        assert!(message.contains("gave"), "{message}");
    }
    // Two ranks on one device.
    let id = UniqueId::new().unwrap();
    let device = &devices[0];
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads = [0, 1].map(|rank| scope.spawn(move || Group::new(device, id, rank, 2)));
        threads.map(|t| t.join().unwrap()).into_iter().collect()
    });
    assert!(results.iter().any(|r| r.is_err()));
}
