//! The fastest instance for a product, measured once a shape and remembered in a file.

use super::cache::{CacheKey, ChoiceCache};
use super::candidates::Ours;
use super::checked::{DeviceLhs, Operands, ScalesView, WeightsView};
use super::choose::{choose, Choice, Reason};
use super::instance::{Algorithm, Instance};
use super::plan::Plan;
use super::problem::{Input, Problem, PAD};
use crate::cuda::kernels::igemm_sm90;
use crate::cuda::runtime::{driver, upload, Device, DeviceOutput, FloatBuffer, Matrix};
use crate::element::{DType, Element};
use crate::epilogue::Output;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaSlice, CudaStream};
use half::{bf16, f16};
use std::sync::{Arc, Mutex, PoisonError};

const WARM_UP: usize = 2;
const SAMPLES: usize = 9;

/// Of the tiles of each kernel, the model's favourites.
const TILES: usize = 6;

/// What was measured on a device, read from its file by the first use.
#[derive(Default)]
struct Known(Mutex<Option<ChoiceCache>>);

impl Known {
    /// The cache, read from its file by the first call.
    fn with<R>(&self, device: &Device, use_it: impl FnOnce(&mut ChoiceCache) -> R) -> R {
        let properties = device.properties();
        let read = || match ChoiceCache::path(properties) {
            Some(path) => {
                let (cache, warning) = ChoiceCache::load(&path, properties);
                if let Some(warning) = warning {
                    eprintln!("imma: {warning}");
                }
                cache
            }
            None => ChoiceCache::new(properties),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        use_it(known.get_or_insert_with(read))
    }
}

/// The choice for a product: from the cache where its answer still holds, else measured and written there.
pub(super) fn choice(device: &Device, problem: &Problem) -> Result<Choice> {
    let properties = device.properties();
    let has_sm90 = igemm_sm90::available(device).is_ok();
    let first = choose(problem, Algorithm::Heuristic, properties, has_sm90);
    if problem.shape().outputs() == 0 {
        return Ok(first);
    }
    let key = CacheKey {
        m: problem.m,
        n: problem.n,
        k: problem.k,
        kind: problem.kind(),
    };
    let known = device.attached(Known::default);
    if let Some((instance, us)) = known.with(device, |cache| cache.get(&key)) {
        let choice = Choice {
            instance,
            reason: Reason::MeasuredEarlier(us),
        };
        // Another release of cuBLASLt may have fewer candidates.
        if Plan::with_choice(device, problem.clone(), choice.clone()).is_ok() {
            return Ok(choice);
        }
    }
    let candidates = candidates(device, problem)?;
    let job = Job::new(device, problem)?;
    let mut best = (first.instance, f64::INFINITY);
    for instance in &candidates {
        let us = job.measure(device, problem, *instance)?;
        if us < best.1 {
            best = (*instance, us);
        }
    }
    let (instance, us) = best;
    known.with(device, |cache| {
        cache.insert(key, instance, us);
        let saved = ChoiceCache::path(properties).map(|path| cache.save(&path));
        if let Some(Err(e)) = saved {
            eprintln!("imma: the measured choices could not be saved: {e}");
        }
    });
    Ok(Choice {
        instance,
        reason: Reason::Measured(us, candidates.len()),
    })
}

fn asked(instance: Instance) -> Choice {
    Choice {
        instance,
        reason: Reason::Asked,
    }
}

/// What is worth measuring: our tiles that the model likes, and cuBLASLt's candidates where the library is there.
fn candidates(device: &Device, problem: &Problem) -> Result<Vec<Instance>> {
    let has_sm90 = igemm_sm90::available(device).is_ok();
    let ours = Ours::of(problem, device.properties(), has_sm90);
    let favourites = [&ours.sm90, &ours.sm80]
        .into_iter()
        .flat_map(|kernel| kernel.iter().take(TILES).map(|c| c.instance));
    // Those that these operands allow.
    let plan = |instance: Instance| Plan::with_choice(device, problem.clone(), asked(instance));
    let mut all: Vec<_> = favourites
        .chain(ours.groupwise)
        .filter(|instance| plan(*instance).is_ok())
        .collect();
    match plan(Instance::CublasLt(0)) {
        Ok(plan) => all.extend((0..plan.library_candidates()).map(Instance::CublasLt)),
        Err(error) if all.is_empty() => return Err(error),
        Err(_) => {}
    }
    Ok(all)
}

/// Operands of a product, of full range: zeros draw less power and run faster.
struct Job {
    stream: Arc<CudaStream>,
    integers: CudaSlice<i8>,
    floats: FloatBuffer,
    row_scales: CudaSlice<f32>,
    zero_points: CudaSlice<i32>,
    weights: CudaSlice<i8>,
    /// One an output, or `[groups, N]`.
    weight_scales: CudaSlice<f32>,
    col_sums: CudaSlice<i32>,
    bias: Option<FloatBuffer>,
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

impl Job {
    fn new(device: &Device, problem: &Problem) -> Result<Self> {
        let (m, n, k) = (problem.m, problem.n, problem.k);
        let stream = device
            .context()
            .new_stream()
            .map_err(driver("cuStreamCreate"))?;
        let (integers, floats) = match problem.input {
            Input::Float(dtype, _) => (0, random_floats(&stream, dtype, m * k)?),
            Input::Int8 { stride, .. } => {
                ((m - 1) * stride + k, random_floats(&stream, DType::F32, 0)?)
            }
        };
        let optional = |dtype: Option<DType>, len| {
            let floats = dtype.map(|dtype| random_floats(&stream, dtype, len));
            floats.transpose()
        };
        let groups = problem.scale_group.map_or(1, |size| k.div_ceil(size));
        let residual = m * problem.output_columns();
        Ok(Job {
            integers: upload(&stream, &random(integers))?,
            floats,
            row_scales: upload(&stream, &vec![1e-3f32; m])?,
            zero_points: upload(&stream, &vec![3i32; m])?,
            weights: upload(
                &stream,
                &random(n.next_multiple_of(PAD) * k.next_multiple_of(PAD)),
            )?,
            weight_scales: upload(&stream, &vec![1e-3f32; groups * n])?,
            col_sums: upload(&stream, &vec![0i32; n])?,
            bias: optional(problem.epilogue.bias, n)?,
            residual: optional(problem.epilogue.residual, residual)?,
            stream,
        })
    }

    fn weights(&self, problem: &Problem) -> WeightsView<'_> {
        let (n, k) = (problem.n, problem.k);
        let scales = self.weight_scales.as_view();
        WeightsView {
            data: Matrix::new((&self.weights).into(), n, k).with_stride(k.next_multiple_of(PAD)),
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

    fn lhs(&self, problem: &Problem) -> DeviceLhs<'_> {
        let (m, k) = (problem.m, problem.k);
        match problem.input {
            Input::Float(..) => DeviceLhs::Float(Matrix::new(self.floats.view(), m, k)),
            Input::Int8 { stride, .. } => DeviceLhs::Int8 {
                data: Matrix::new(self.integers.as_view(), m, k).with_stride(stride),
                scales: (!problem.epilogue.row_scales.is_none()).then(|| (&self.row_scales).into()),
                zero_points: (!problem.epilogue.row_zero_points.is_none())
                    .then(|| (&self.zero_points).into()),
            },
        }
    }

    /// The median time of a whole run in microseconds, by events.
    fn measure(&self, device: &Device, problem: &Problem, instance: Instance) -> Result<f64> {
        let plan = Plan::with_choice(device, problem.clone(), asked(instance))?;
        let stream = &self.stream;
        let (m, columns) = (problem.m, problem.output_columns());
        let mut result = Place::new(device, stream, problem)?;
        let mut workspace = device.fresh::<u8>(stream, plan.workspace_bytes())?;
        let mut samples = Vec::with_capacity(SAMPLES);
        for sample in 0..WARM_UP + SAMPLES {
            let event = || {
                stream
                    .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
                    .map_err(driver("cuEventRecord"))
            };
            let out = Matrix::new(result.output(), m, columns);
            let mut operands = Operands::new(self.lhs(problem), self.weights(problem), out);
            if let Some(bias) = &self.bias {
                operands = operands.with_bias(bias.view());
            }
            if let Some(residual) = &self.residual {
                operands = operands.with_residual(Matrix::new(residual.view(), m, columns));
            }
            let start = event()?;
            plan.run(stream, operands, &mut workspace)?;
            let end = event()?;
            let ms = start
                .elapsed_ms(&end)
                .map_err(driver("cuEventElapsedTime"))?;
            if sample >= WARM_UP {
                samples.push(f64::from(ms) * 1e3);
            }
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples[SAMPLES / 2])
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
