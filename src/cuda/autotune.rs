//! The fastest algorithm for a product, measured once a shape and remembered in a file.

use super::choice_cache::{CacheKey, ChoiceCache};
use super::choose::{choose, Choice, Multiplier};
use super::igemm::{self, Igemm, Limits};
use super::igemm90::candidates90;
use super::launch::driver;
use super::matrix::Matrix;
use super::module::Device;
use super::operand::{DeviceLhs, DeviceOutput, FloatBuffer, Operands};
use super::plan::Plan;
use super::spec::{Input, Spec};
use super::sums::Sums;
use super::weights::{upload, WeightOrder};
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaSlice, CudaStream};
use half::{bf16, f16};
use std::sync::{Arc, PoisonError};

const WARM_UP: usize = 2;
const SAMPLES: usize = 9;

/// Of the tiles, the model's favourites.
const TILES: usize = 6;

/// The choice for a product: from the cache where its answer still holds, else measured and written there.
pub(super) fn choice(device: &Device, spec: &Spec) -> Result<Choice> {
    let has_igemm90 = device.has_igemm90().is_ok();
    let first = choose(spec, device.properties(), has_igemm90);
    if spec.m == 0 || spec.n == 0 {
        return Ok(first);
    }
    let key = CacheKey {
        m: spec.m,
        n: spec.n,
        k: spec.k,
        kind: spec.kind(),
    };
    let properties = device.properties();
    let path = ChoiceCache::path(properties);
    let lock = || {
        device
            .late
            .choices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let known = {
        let mut choices = lock();
        let cache = choices.get_or_insert_with(|| match &path {
            Some(path) => {
                let (cache, warning) = ChoiceCache::load(path, properties);
                if let Some(warning) = warning {
                    eprintln!("imma: {warning}");
                }
                cache
            }
            None => ChoiceCache::new(properties),
        });
        let known = cache.get(&key);
        known.map(|(algorithm, us)| (algorithm.clone(), us))
    };
    if let Some((algorithm, us)) = known {
        let asked = spec.clone().with_algorithm(algorithm);
        let asked = choose(&asked, properties, has_igemm90);
        let choice = Choice {
            why: format!("measured earlier: {us:.2} us"),
            ..asked
        };
        // Another release of cuBLASLt may have fewer candidates.
        if Plan::with_choice(device, spec.clone(), choice.clone()).is_ok() {
            return Ok(choice);
        }
    }
    let candidates = candidates(device, spec)?;
    let job = Job::new(device, spec)?;
    let mut best = (first.multiplier, f64::INFINITY);
    for multiplier in &candidates {
        let us = job.measure(device, spec, *multiplier)?;
        if us < best.1 {
            best = (*multiplier, us);
        }
    }
    let (multiplier, us) = best;
    let mut choices = lock();
    if let Some(cache) = choices.as_mut() {
        cache.insert(key, multiplier.algorithm(), us);
        if let Some(Err(e)) = path.map(|path| cache.save(&path)) {
            eprintln!("imma: the measured choices could not be saved: {e}");
        }
    }
    Ok(Choice {
        multiplier,
        why: format!("measured: {us:.2} us, best of {}", candidates.len()),
    })
}

/// What is worth measuring: our tiles that the model likes, and cuBLASLt's candidates where the library is there.
fn candidates(device: &Device, spec: &Spec) -> Result<Vec<Multiplier>> {
    let mut all = Vec::new();
    let properties = device.properties();
    let limits = Limits::from(properties);
    let tiles = igemm::candidates(spec.m, spec.n, spec.k, spec.aligned(), limits);
    let tiles = tiles.iter().take(TILES).map(|choice| {
        Multiplier::Igemm(Igemm {
            tile: choice.tile,
            splits: choice.splits,
        })
    });
    let tiles90 = candidates90(spec.m, spec.n, spec.k, properties);
    let tiles90 = tiles90.iter().take(TILES);
    let tiles90 = tiles90.map(|choice| Multiplier::Igemm90(choice.igemm));
    // Those that this device, this build and these operands allow.
    all.extend(tiles90.chain(tiles).filter(|multiplier| {
        let choice = Choice {
            multiplier: *multiplier,
            why: String::new(),
        };
        Plan::with_choice(device, spec.clone(), choice).is_ok()
    }));
    let library = Choice {
        multiplier: Multiplier::CublasLt(0),
        why: String::new(),
    };
    match Plan::with_choice(device, spec.clone(), library) {
        Ok(plan) => {
            let count = plan.sums().map_or(0, Sums::candidates);
            all.extend((0..count).map(Multiplier::CublasLt));
        }
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
    scales: CudaSlice<f32>,
    zero_points: CudaSlice<i32>,
    weights: super::weights::DeviceWeights,
    bias: Option<FloatBuffer>,
    residual: Option<FloatBuffer>,
}

impl Job {
    fn new(device: &Device, spec: &Spec) -> Result<Self> {
        let (m, n, k) = (spec.m, spec.n, spec.k);
        let stream = device
            .context()
            .new_stream()
            .map_err(driver("cuStreamCreate"))?;
        let random = |len: usize| -> Vec<i8> {
            let byte = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as i8;
            (0..len as u32).map(byte).collect()
        };
        let (integers, lhs) = match spec.input {
            Input::Float(dtype, _) => (0, Some((dtype, m * k))),
            Input::Int8 { stride, .. } => ((m - 1) * stride + k, None),
        };
        let floats = |what: Option<(DType, usize)>| -> Result<Option<FloatBuffer>> {
            let Some((dtype, len)) = what else {
                return Ok(None);
            };
            fn of<T: Element>(bytes: &[i8]) -> Vec<T> {
                bytes.iter().map(|b| T::from_f32(f32::from(*b))).collect()
            }
            let bytes = random(len);
            Ok(Some(match dtype {
                DType::F16 => FloatBuffer::F16(upload(&stream, &of::<f16>(&bytes))?),
                DType::BF16 => FloatBuffer::BF16(upload(&stream, &of::<bf16>(&bytes))?),
                _ => FloatBuffer::F32(upload(&stream, &of::<f32>(&bytes))?),
            }))
        };
        let w = upload(&stream, &random(n * k))?;
        let w = Matrix::new(&w, n, k);
        let weights = device.pack_int8(&stream, w, WeightOrder::Outputs, Some(&[1e-3]))?;
        Ok(Job {
            integers: upload(&stream, &random(integers))?,
            floats: floats(lhs)?
                .map_or_else(|| upload(&stream, &[0f32]).map(FloatBuffer::F32), Ok)?,
            scales: upload(&stream, &vec![1e-3f32; m])?,
            zero_points: upload(&stream, &vec![3i32; m])?,
            weights,
            bias: floats(spec.bias.map(|d| (d, n)))?,
            residual: floats(spec.residual.map(|d| (d, m * spec.output_columns())))?,
            stream,
        })
    }

    /// The median time of a whole run in microseconds, by events.
    fn measure(&self, device: &Device, spec: &Spec, multiplier: Multiplier) -> Result<f64> {
        let choice = Choice {
            multiplier,
            why: String::new(),
        };
        let plan = Plan::with_choice(device, spec.clone(), choice)?;
        let stream = &self.stream;
        let (m, n, k) = (spec.m, spec.n, spec.k);
        let columns = spec.output_columns();
        let mut out_scales = device.fresh::<f32>(stream, m)?;
        let mut out =
            device.fresh::<u8>(stream, super::ops::area(m, columns)?.saturating_mul(4))?;
        let mut workspace = device.fresh::<u8>(stream, plan.workspace_bytes())?;
        let mut samples = Vec::with_capacity(SAMPLES);
        for sample in 0..WARM_UP + SAMPLES {
            let event = || {
                stream
                    .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
                    .map_err(driver("cuEventRecord"))
            };
            let lhs = match spec.input {
                Input::Float(..) => DeviceLhs::Float(Matrix::new(self.floats.view(), m, k)),
                Input::Int8 {
                    stride,
                    scales,
                    zero_points,
                } => DeviceLhs::Int8 {
                    data: Matrix::new(self.integers.as_view(), m, k).with_stride(stride),
                    scales: scales.then(|| self.scales.as_view()),
                    zero_points: zero_points.then(|| self.zero_points.as_view()),
                },
            };
            let mut bytes = out.as_view_mut();
            macro_rules! place {
                ($tag:ident) => {
                    // SAFETY: fresh memory, aligned as any allocation, of four bytes an element.
                    unsafe { bytes.transmute_mut(m * columns) }.map(DeviceOutput::$tag)
                };
            }
            let place = match spec.output {
                DType::F32 => place!(F32),
                DType::F16 => place!(F16),
                DType::BF16 => place!(BF16),
                DType::I32 => place!(I32),
                DType::I8 => place!(I8),
            };
            let place = place.ok_or_else(|| Error::Value {
                what: "the result",
                found: format!("[{m}, {n}]"),
                expected: "a size that the address space holds".into(),
            })?;
            let residual = self.residual.as_ref();
            let operands = Operands {
                lhs,
                weights: &self.weights,
                col_scales: None,
                bias: self.bias.as_ref().map(FloatBuffer::view),
                residual: residual.map(|r| Matrix::new(r.view(), m, columns)),
                out: Matrix::new(place, m, columns),
                out_scales: spec.per_token_output.then(|| out_scales.slice_mut(..m)),
            };
            let start = event()?;
            plan.run(stream, operands, &mut workspace.as_view_mut())?;
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
