//! What the kernels' tests share: the device they run on, random data, and matrices at odd places in memory.

pub use crate::random::Random;
use half::{bf16, f16};
use imma::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr};
use imma::cuda::{Device, DeviceElement, Matrix};
use imma::Element;
use std::cell::Cell;
use std::process::Command;
use std::sync::{Arc, OnceLock};

thread_local! {
    /// The device that this thread's test opened for itself.
    static OWN: Cell<Option<&'static Arc<Device>>> = const { Cell::new(None) };
}

/// The device under test: the emulated driver, or with `IMMA_TEST_DEVICE=hardware` the machine's own. All tests of the
/// process share it, but for a test inside [`own_device`].
pub fn device() -> &'static Arc<Device> {
    OWN.get().unwrap_or_else(shared_device)
}

fn shared_device() -> &'static Arc<Device> {
    static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();
    DEVICE.get_or_init(|| {
        if hardware() {
            println!("on hardware");
        } else {
            fake_cuda::install::install();
            println!("on the emulated driver");
        }
        let device = Device::open(0).unwrap();
        // Graphs can't be captured with it, and buffers made before keep their events.
        // SAFETY: every test here uses its buffers on one stream and synchronises it before they are dropped.
        unsafe { device.context().disable_event_tracking() };
        device
    })
}

/// A device in the same context that counts this test's launches and no other's: what [`device`] answers on this thread
/// until it is dropped. The emulated driver's counts since the mark start anew with it.
pub fn own_device() -> OwnDevice {
    let device = Device::with_context(shared_device().context()).unwrap();
    if let Some(fake) = fake() {
        fake.mark();
    }
    // A few a process; what a test opened may keep a reference for as long as it likes.
    let device = &*Box::leak(Box::new(device));
    OWN.set(Some(device));
    OwnDevice { device }
}

/// See [`own_device`].
pub struct OwnDevice {
    device: &'static Arc<Device>,
}

impl std::ops::Deref for OwnDevice {
    type Target = Arc<Device>;
    fn deref(&self) -> &Self::Target {
        self.device
    }
}

impl Drop for OwnDevice {
    fn drop(&mut self) {
        OWN.set(None);
    }
}

/// Whether this process was started to run the test of this name (`module::function`) alone. If not, starts it with these
/// variables, and fails when it does: the caller has nothing left to do.
pub fn alone(test: &str, variables: &[(&str, &str)]) -> bool {
    const ALONE: &str = "IMMA_TEST_ALONE";
    if std::env::var(ALONE).as_deref() == Ok(test) {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    child.env(ALONE, test).envs(variables.iter().copied());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test}, in a process of its own");
    assert!(said.contains("\nrunning 1 test\n"), "no test {test}");
    false
}

pub fn hardware() -> bool {
    std::env::var("IMMA_TEST_DEVICE").as_deref() == Ok("hardware")
}

/// The emulated driver's own counts; none on hardware.
pub fn fake() -> Option<&'static fake_cuda::install::Fake> {
    device();
    (!hardware()).then(fake_cuda::install::install)
}

pub fn stream() -> Arc<CudaStream> {
    device().context().new_stream().unwrap()
}

/// Which module launches the kernels of which image: together they are all there are.
pub const OWNERS: &[(&str, &str)] = &[
    ("dequantize", "kernels"),
    ("quantize_cols", "kernels"),
    ("quantize_rows", "kernels"),
    ("quantize_static", "kernels"),
    ("transpose_s8", "kernels"),
    ("rmsnorm_quantize", "fused"),
    ("silu_mul_quantize", "fused"),
    ("epilogue", "igemm"),
    ("igemm_grouped", "grouped"),
    ("igemm_groupwise", "groupwise"),
    ("moe_combine", "experts"),
    ("moe_permute", "experts"),
    ("moe_sort", "experts"),
    ("quantize_grouped", "grouped"),
    ("igemm_sm80", "igemm"),
    ("igemm_sm90", "igemm90"),
    ("peak", "kernels"),
];

/// Fails when a kernel of an image that this module owns was never launched through the test's own device, or when nobody
/// owns an image.
pub fn check_all_launched(device: &OwnDevice, module: &str) {
    let launches = device.launches();
    let (mut kernels, mut total, mut idle) = (0, 0, Vec::new());
    // Kernels for 90a are loaded on that capability alone.
    let hopper = device.properties().capability == (9, 0);
    let usable = |image: &&imma::cuda::Image| hopper || !image.name.ends_with("_sm90");
    for image in imma::cuda::images().iter().filter(usable) {
        let owner = OWNERS.iter().find(|(name, _)| *name == image.name);
        let (_, owner) = owner.unwrap_or_else(|| panic!("no test launches cuda/{}.cu", image.name));
        for entry in image.entries.iter().filter(|_| *owner == module) {
            let count = launches.iter().find(|(name, _)| name == entry);
            let count = count.map_or(0, |(_, count)| *count);
            kernels += 1;
            total += count;
            if let Some(fake) = fake() {
                let seen = fake.launches_since_mark(Some(entry));
                assert_eq!(seen, count, "launches of {entry} that the driver saw");
            }
            if count == 0 {
                idle.push(*entry);
            }
        }
    }
    println!("{kernels} kernels, {total} launches");
    assert!(kernels > 0 && idle.is_empty(), "never launched: {idle:?}");
}

/// What kind of values a slice (a row or a column) holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Ordinary,
    /// Multiples of 0.5 up to 127, with 127 among them: every odd one is a tie.
    Ties,
    Zeros,
    Tiny,
    Huge,
    Positive,
    WithNan,
    WithInfinity,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Ordinary,
        Kind::Ties,
        Kind::Zeros,
        Kind::Tiny,
        Kind::Huge,
        Kind::Positive,
        Kind::WithNan,
        Kind::WithInfinity,
    ];

    pub fn value(self, random: &mut Random, special: bool) -> f32 {
        let x = random.unit();
        match self {
            Kind::Ordinary => x * 3.0,
            Kind::Ties if special => 127.0,
            Kind::Ties => (x * 254.0).trunc() * 0.5,
            Kind::Zeros => 0.0f32.copysign(x),
            Kind::Tiny => x * 1e-37,
            Kind::Huge => x * f32::MAX,
            Kind::Positive => x.abs() + 0.25,
            Kind::WithNan if special => f32::NAN.copysign(x),
            Kind::WithInfinity if special => f32::INFINITY.copysign(x),
            _ => x,
        }
    }
}

/// A matrix whose rows (or columns) are each of one kind, one of whose elements is special.
pub fn floats<T: Element>(random: &mut Random, rows: usize, cols: usize, by_row: bool) -> Vec<T> {
    let (slices, length) = if by_row { (rows, cols) } else { (cols, rows) };
    let kinds: Vec<_> = (0..slices)
        .map(|_| (random.pick(&Kind::ALL), random.below(length.max(1))))
        .collect();
    let mut data = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        for c in 0..cols {
            let (slice, at) = if by_row { (r, c) } else { (c, r) };
            let (kind, special) = kinds[slice];
            data.push(T::from_f32(kind.value(random, at == special)));
        }
    }
    data
}

/// A matrix in device memory that starts anywhere and has gaps between rows, in a buffer whose every other element
/// is `gap` and must stay so.
pub struct Placed<T> {
    pub buffer: CudaSlice<T>,
    gap: T,
    offset: usize,
    pub rows: usize,
    pub cols: usize,
    stride: usize,
}

impl<T: DeviceRepr + Copy + PartialEq + std::fmt::Debug> Placed<T> {
    /// `data` in row order.
    pub fn new(
        stream: &Arc<CudaStream>,
        random: &mut Random,
        data: &[T],
        rows: usize,
        cols: usize,
        gap: T,
    ) -> Self {
        assert_eq!(data.len(), rows * cols);
        // Half of them aligned and dense, as most callers have them.
        let (offset, stride) = match random.below(4) {
            0 | 1 => (0, cols),
            2 => (random.below(33), cols),
            _ => (random.below(33), cols + random.below(19)),
        };
        Self::at(stream, data, [rows, cols], gap, offset, stride)
    }

    /// `data` from element `offset` on, rows `stride` apart.
    pub fn at(
        stream: &Arc<CudaStream>,
        data: &[T],
        [rows, cols]: [usize; 2],
        gap: T,
        offset: usize,
        stride: usize,
    ) -> Self {
        // Half of the buffers end where the matrix does: a read past its end is then one past the memory's.
        let end = match (rows + cols + offset) % 2 {
            0 if rows * cols > 0 => offset + (rows - 1) * stride + cols,
            _ => offset + rows * stride + 17,
        };
        let mut host = vec![gap; end];
        for r in 0..rows {
            host[offset + r * stride..][..cols].copy_from_slice(&data[r * cols..][..cols]);
        }
        let buffer = stream.clone_htod(&host).unwrap();
        Placed {
            buffer,
            gap,
            offset,
            rows,
            cols,
            stride,
        }
    }

    pub fn filled(
        stream: &Arc<CudaStream>,
        random: &mut Random,
        rows: usize,
        cols: usize,
        value: T,
        gap: T,
    ) -> Self {
        Self::new(stream, random, &vec![value; rows * cols], rows, cols, gap)
    }

    fn end(&self) -> usize {
        match self.rows {
            0 => self.offset,
            rows => self.offset + (rows - 1) * self.stride + self.cols,
        }
    }

    /// A view of exactly the matrix: the kernels' bounds are checked against nothing larger.
    pub fn view(&self) -> CudaView<'_, T> {
        self.buffer.slice(self.offset..self.end())
    }

    pub fn view_mut(&mut self) -> CudaViewMut<'_, T> {
        let range = self.offset..self.end();
        self.buffer.slice_mut(range)
    }

    pub fn geometry(&self) -> Geometry {
        Geometry {
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// The matrix in row order; panics if anything around it was written.
    pub fn read(&self, stream: &Arc<CudaStream>) -> Vec<T> {
        let host = stream.clone_dtoh(&self.buffer).unwrap();
        stream.synchronize().unwrap();
        let mut data = Vec::with_capacity(self.rows * self.cols);
        let mut around = vec![true; host.len()];
        for r in 0..self.rows {
            let row = self.offset + r * self.stride..self.offset + r * self.stride + self.cols;
            data.extend_from_slice(&host[row.clone()]);
            around[row].fill(false);
        }
        let touched = (0..host.len()).find(|i| around[*i] && host[*i] != self.gap);
        assert_eq!(touched, None, "memory around the matrix {self} was written");
        data
    }
}

impl<T> std::fmt::Display for Placed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "[{}, {}] stride {} at +{}",
            self.rows, self.cols, self.stride, self.offset
        )
    }
}

/// The shape of a placed matrix without its data, so that a view can be borrowed mutably beside it.
pub struct Geometry {
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Geometry {
    pub fn stride(&self) -> usize {
        self.stride
    }

    pub fn over<S>(&self, data: S) -> Matrix<S> {
        Matrix::new(data, self.rows, self.cols).with_stride(self.stride)
    }
}

/// Equal bits, or NaN both.
pub fn same<T: Element>(a: T, b: T) -> bool {
    let (a, b) = (a.to_f32(), b.to_f32());
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// The three element types, as something a test can be run over.
pub trait Type: DeviceElement + PartialEq {}
impl Type for f32 {}
impl Type for f16 {}
impl Type for bf16 {}
