//! A product over random operands, to be timed.

use super::checked::{DeviceLhs, Operands, ScalesView, WeightsView};
use super::choose::asked;
use super::instance::Instance;
use super::plan::Plan;
use super::problem::{Input, Problem, PAD};
use crate::cuda::runtime::{
    driver, time_graph, time_launches, upload, Device, DeviceOutput, FloatBuffer, Matrix, Sampling,
};
use crate::element::{DType, Element};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use half::{bf16, f16};
use std::sync::Arc;

/// Most sets of operands, and most runs that one graph holds.
const MOST_SETS: usize = 32;
const MOST_RUNS: usize = 64;
/// Seconds that a graph takes at least, where its runs allow: so that launching it is nothing beside it.
const GRAPH: f64 = 4e-4;

/// A product, with as many sets of operands as no run finds its own of in the L2 cache.
pub(super) struct Job {
    stream: Arc<CudaStream>,
    sets: Vec<Set>,
    /// Runs in a graph.
    runs: usize,
    row_scales: CudaSlice<f32>,
    zero_points: CudaSlice<i32>,
    /// One an output, or `[groups, N]`.
    weight_scales: CudaSlice<f32>,
    col_sums: CudaSlice<i32>,
    bias: Option<FloatBuffer>,
}

/// Operands of full range: zeros draw less power and run faster.
struct Set {
    integers: CudaSlice<i8>,
    floats: FloatBuffer,
    weights: CudaSlice<i8>,
    residual: Option<FloatBuffer>,
}

fn random(len: usize) -> Vec<i8> {
    let byte = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as i8;
    (0..len as u32).map(byte).collect()
}

fn random_floats(stream: &Arc<CudaStream>, dtype: DType, len: usize) -> Result<FloatBuffer> {
    fn of<T: Element>(bytes: &[i8]) -> Vec<T> {
        bytes.iter().map(|b| T::from_f32(f32::from(*b))).collect()
    }
    let bytes = random(len);
    Ok(match dtype {
        DType::F16 => FloatBuffer::F16(upload(stream, &of::<f16>(&bytes))?),
        DType::BF16 => FloatBuffer::BF16(upload(stream, &of::<bf16>(&bytes))?),
        _ => FloatBuffer::F32(upload(stream, &of::<f32>(&bytes))?),
    })
}

impl Set {
    fn new(stream: &Arc<CudaStream>, problem: &Problem) -> Result<Self> {
        let (m, n, k) = (problem.m, problem.n, problem.k);
        let (integers, floats) = match problem.input {
            Input::Float(dtype, _) => (0, random_floats(stream, dtype, m * k)?),
            Input::Int8 { stride, .. } => {
                ((m - 1) * stride + k, random_floats(stream, DType::F32, 0)?)
            }
        };
        let residual = problem.epilogue.residual;
        Ok(Set {
            integers: upload(stream, &random(integers))?,
            floats,
            weights: upload(
                stream,
                &random(n.next_multiple_of(PAD) * k.next_multiple_of(PAD)),
            )?,
            residual: residual
                .map(|dtype| random_floats(stream, dtype, m * problem.output_columns()))
                .transpose()?,
        })
    }

    /// The same data somewhere else.
    fn copy(&self, stream: &Arc<CudaStream>) -> Result<Self> {
        fn of<T: DeviceRepr>(
            stream: &Arc<CudaStream>,
            from: &CudaSlice<T>,
        ) -> Result<CudaSlice<T>> {
            stream.clone_dtod(from).map_err(driver("cuMemcpyDtoD"))
        }
        let floats = |buffer: &FloatBuffer| {
            Ok::<_, Error>(match buffer {
                FloatBuffer::F32(from) => FloatBuffer::F32(of(stream, from)?),
                FloatBuffer::F16(from) => FloatBuffer::F16(of(stream, from)?),
                FloatBuffer::BF16(from) => FloatBuffer::BF16(of(stream, from)?),
            })
        };
        Ok(Set {
            integers: of(stream, &self.integers)?,
            floats: floats(&self.floats)?,
            weights: of(stream, &self.weights)?,
            residual: self.residual.as_ref().map(floats).transpose()?,
        })
    }
}

impl Job {
    /// For a product that is one of the heuristic's choice `first` about as long by any other.
    pub fn new(device: &Device, problem: &Problem, first: Instance) -> Result<Self> {
        let (m, n, k) = (problem.m, problem.n, problem.k);
        let stream = device.untracked_stream()?;
        let groups = problem.scale_group.map_or(1, |size| k.div_ceil(size));
        let bias = problem.epilogue.bias;
        let mut job = Job {
            sets: vec![Set::new(&stream, problem)?],
            runs: 1,
            row_scales: upload(&stream, &vec![1e-3f32; m])?,
            zero_points: upload(&stream, &vec![3i32; m])?,
            weight_scales: upload(&stream, &vec![1e-3f32; groups * n])?,
            col_sums: upload(&stream, &vec![0i32; n])?,
            bias: bias
                .map(|dtype| random_floats(&stream, dtype, n))
                .transpose()?,
            stream,
        };
        let once = job.once(device, problem, first)?;
        job.runs = ((GRAPH / once).ceil() as usize).clamp(1, MOST_RUNS);
        // Twice the cache: what a run read is gone when its turn comes again.
        let cache = 2 * device.properties().l2 as usize;
        let sets = cache.div_ceil((m * k + n * k).max(1));
        let sets = sets.clamp(1, MOST_SETS.min(job.runs));
        for _ in 1..sets {
            job.sets.push(job.sets[0].copy(&job.stream)?);
        }
        Ok(job)
    }

    fn weights<'a>(&'a self, problem: &Problem, set: &'a Set) -> WeightsView<'a> {
        let (n, k) = (problem.n, problem.k);
        let scales = self.weight_scales.as_view();
        WeightsView {
            data: Matrix::new((&set.weights).into(), n, k).with_stride(k.next_multiple_of(PAD)),
            scales: match problem.scale_group {
                Some(size) => ScalesView::PerGroup {
                    scales: Matrix::new(scales.into(), k.div_ceil(size), n),
                    size,
                },
                None => ScalesView::PerColumn(scales.slice(..n).into()),
            },
            col_sums: self.col_sums.slice(..n).into(),
        }
    }

    fn lhs<'a>(&'a self, problem: &Problem, set: &'a Set) -> DeviceLhs<'a> {
        let (m, k) = (problem.m, problem.k);
        match problem.input {
            Input::Float(..) => DeviceLhs::Float(Matrix::new(set.floats.view(), m, k)),
            Input::Int8 { stride, .. } => DeviceLhs::Int8 {
                data: Matrix::new(set.integers.as_view(), m, k).with_stride(stride),
                scales: (!problem.epilogue.row_scales.is_none()).then(|| (&self.row_scales).into()),
                zero_points: (!problem.epilogue.row_zero_points.is_none())
                    .then(|| (&self.zero_points).into()),
            },
        }
    }

    /// Enqueues the run of a set of operands.
    fn run(
        &self,
        plan: &Plan,
        set: usize,
        result: &mut Place,
        workspace: &mut CudaSlice<u8>,
    ) -> Result<()> {
        let problem = plan.problem();
        let set = &self.sets[set];
        let (m, columns) = (problem.m, problem.output_columns());
        let out = Matrix::new(result.output(), m, columns);
        let mut operands = Operands::new(self.lhs(problem, set), self.weights(problem, set), out);
        if let Some(bias) = &self.bias {
            operands = operands.with_bias(bias.view());
        }
        if let Some(residual) = &set.residual {
            operands = operands.with_residual(Matrix::new(residual.view(), m, columns));
        }
        plan.run(&self.stream, operands, workspace)
    }

    /// What one run takes about, in seconds.
    fn once(&self, device: &Device, problem: &Problem, instance: Instance) -> Result<f64> {
        let plan = Plan::with_choice(device, problem.clone(), asked(instance))?;
        let mut result = Place::new(device, &self.stream, problem)?;
        let mut workspace = device.fresh::<u8>(&self.stream, plan.workspace_bytes())?;
        let one = Sampling {
            seconds: 0.0,
            least: 1,
            most: 1,
            sample: 0.0,
        };
        let run = |_| self.run(&plan, 0, &mut result, &mut workspace);
        Ok(time_launches(&self.stream, 1, one, run)?.median.max(1e-6))
    }

    /// The median time of a whole run in microseconds.
    pub fn measure(
        &self,
        device: &Device,
        problem: &Problem,
        instance: Instance,
        sampling: Sampling,
    ) -> Result<f64> {
        let plan = Plan::with_choice(device, problem.clone(), asked(instance))?;
        let places = self.sets.iter();
        let mut results = places
            .map(|_| Place::new(device, &self.stream, problem))
            .collect::<Result<Vec<_>>>()?;
        let mut workspace = device.fresh::<u8>(&self.stream, plan.workspace_bytes())?;
        let run = |i: usize| {
            let set = i % self.sets.len();
            self.run(&plan, set, &mut results[set], &mut workspace)
        };
        let time = time_graph(&self.stream, self.runs, sampling, run)?;
        Ok(time.median * 1e6)
    }
}

/// Memory for a result of any type.
enum Place {
    F32(CudaSlice<f32>),
    F16(CudaSlice<f16>),
    BF16(CudaSlice<bf16>),
    I32(CudaSlice<i32>),
    I8(CudaSlice<i8>),
    I8PerRow(CudaSlice<i8>, CudaSlice<f32>),
}

impl Place {
    fn new(device: &Device, stream: &Arc<CudaStream>, problem: &Problem) -> Result<Self> {
        let (m, columns) = (problem.m, problem.output_columns());
        let len = m.checked_mul(columns).ok_or_else(|| Error::Value {
            what: "the result",
            found: format!("[{m}, {columns}]"),
            expected: "a size that the address space holds".into(),
        })?;
        Ok(match problem.epilogue.output {
            Output::Raw => Place::I32(device.fresh(stream, len)?),
            Output::F32 => Place::F32(device.fresh(stream, len)?),
            Output::F16 => Place::F16(device.fresh(stream, len)?),
            Output::BF16 => Place::BF16(device.fresh(stream, len)?),
            Output::Int8 { .. } => Place::I8(device.fresh(stream, len)?),
            Output::Int8PerRow => {
                Place::I8PerRow(device.fresh(stream, len)?, device.fresh(stream, m)?)
            }
        })
    }

    fn output(&mut self) -> DeviceOutput<'_> {
        match self {
            Place::F32(out) => out.into(),
            Place::F16(out) => out.into(),
            Place::BF16(out) => out.into(),
            Place::I32(out) => out.into(),
            Place::I8(out) => out.into(),
            Place::I8PerRow(out, scales) => DeviceOutput::I8PerRow {
                data: out.as_view_mut(),
                scales: scales.as_view_mut(),
            },
        }
    }
}
