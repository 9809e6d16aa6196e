//! What the library's product costs where it alone has the architecture's int8 instructions.

use crate::cuda::kernels::model::{clock, memory, Shape, LAUNCH, NEXT_LAUNCH};
use crate::cuda::runtime::Properties;

/// Of the native rate, what a large product reaches: 1600 of 1979 TOPS is what others saw of the library on a Hopper. On
/// 10.0 nobody of this project measured it.
const REACHED: f64 = 0.75;
/// Microseconds until its pipeline runs full, and its last tile is stored.
const FIXED: f64 = 4.0;

/// Microseconds of a product with its sums written, read again and finished by our epilogue; `None` on architectures whose
/// native instructions our own kernels use, or that have none.
pub fn predict(shape: Shape, device: &Properties) -> Option<f64> {
    let rates = device.int8_rates();
    let Shape { m, n, k } = shape;
    if device.capability.0 < 10 || rates.native <= rates.mma {
        return None;
    }
    // Tiles of 128 rows: fewer rows take the time of so many.
    let rows = m.next_multiple_of(128) as f64;
    let clocks = rows * n as f64 * k as f64
        / (rates.native * REACHED * f64::from(device.multiprocessors.max(1)));
    let multiply = clocks / clock(device);
    let read = (m * k + n * k + 4 * m * n) as f64 / memory(device);
    let epilogue = NEXT_LAUNCH + (4 + 2) as f64 * (m * n) as f64 / memory(device);
    Some(LAUNCH + FIXED + multiply.max(read) + 0.1 * multiply.min(read) + epilogue)
}
