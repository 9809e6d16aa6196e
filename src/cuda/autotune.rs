//! The fastest algorithm for a product, measured once a shape and remembered in a file.

use super::choice_cache::{CacheKey, ChoiceCache};
use super::choose::{choose, Choice};
use super::launch::driver;
use super::module::Device;
use super::plan::Plan;
use super::spec::{Algorithm, Spec};
use super::sums::Sums;
use super::weights::{upload, zeros};
use crate::error::Result;
use cudarc::driver::sys::CUevent_flags;
use std::sync::PoisonError;

const WARM_UP: usize = 2;
const SAMPLES: usize = 9;

/// The choice for a product: from the cache where its answer still holds, else measured and written there.
pub(super) fn choice(device: &Device, spec: &Spec) -> Result<Choice> {
    let first = choose(spec, device.properties());
    let plain = spec.clone().with_algorithm(Algorithm::CublasLt);
    let Some((key, Sums::CublasLt(product, _))) =
        Plan::with_choice(device, plain, first.clone())?.tunable()
    else {
        return Ok(first);
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
    {
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
        if let Some((Algorithm::CublasLtCandidate(candidate), us)) = cache.get(&key) {
            // Another release of the library may have fewer.
            if *candidate < product.candidates().len() {
                return Ok(Choice {
                    candidate: *candidate,
                    why: format!("measured earlier: {us:.2} us"),
                });
            }
        }
    }
    let mut best = (0, f64::INFINITY);
    for candidate in 0..product.candidates().len() {
        let sums = Sums::CublasLt(product.clone(), candidate);
        let us = measure(device, &sums, &key)?;
        if us < best.1 {
            best = (candidate, us);
        }
    }
    let (candidate, us) = best;
    let mut choices = lock();
    if let Some(cache) = choices.as_mut() {
        cache.insert(key, Algorithm::CublasLtCandidate(candidate), us);
        if let Some(Err(e)) = path.map(|path| cache.save(&path)) {
            eprintln!("imma: the measured choices could not be saved: {e}");
        }
    }
    Ok(Choice {
        candidate,
        why: format!(
            "measured: {us:.2} us, best of {}",
            product.candidates().len()
        ),
    })
}

/// The median time of the product in microseconds, by events on a stream of its own.
fn measure(device: &Device, sums: &Sums, key: &CacheKey) -> Result<f64> {
    let context = device.context();
    let stream = context.new_stream().map_err(driver("cuStreamCreate"))?;
    // Data of full range: zeros draw less power and run faster.
    let data = |len: usize| -> Vec<i8> {
        (0..len as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as i8)
            .collect()
    };
    let a = upload(&stream, &data((key.m - 1) * key.lda + key.k))?;
    let w = upload(
        &stream,
        &data(key.n * key.k.next_multiple_of(super::weights::PAD)),
    )?;
    let mut out = zeros::<i32>(&stream, key.m * key.n)?;
    let mut workspace = zeros::<u8>(&stream, sums.workspace_bytes())?;
    let mut samples = Vec::with_capacity(SAMPLES);
    for sample in 0..WARM_UP + SAMPLES {
        let event = || {
            stream
                .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(driver("cuEventRecord"))
        };
        let start = event()?;
        let (mut out, mut workspace) = (out.as_view_mut(), workspace.as_view_mut());
        sums.run(
            &stream,
            &a.as_view(),
            &w.as_view(),
            &mut out,
            &mut workspace,
        )?;
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
