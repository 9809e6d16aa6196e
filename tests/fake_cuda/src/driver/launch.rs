//! Kernel launches: checked as the driver checks them, then run by the interpreter.
use std::sync::Arc;

use super::abi::{ConfigPointer, Host, LAUNCH_ATTRIBUTE_BYTES};
use super::function::Function;
use super::in_context;
use super::occupancy;
use super::state::Driver;
use super::stats;
use super::status::{Result, Status};
use super::work::{submit, Work};
use crate::device::DeviceProfile;
use crate::exec::{launch, Fault, FaultKind, Launch};
use crate::memory::MemoryFault;
use crate::strictness::Relaxed;

/// A launch that passed the driver's checks.
pub struct KernelLaunch {
    function: Arc<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: Option<[u32; 3]>,
    dependent: bool,
    shared: u32,
    params: Vec<u8>,
}

/// How parameters arrive: an array of pointers, or the packed buffer named by `extra`.
struct Arguments {
    pointers: Host,
    extra: Host,
}

const EXTRA_END: u64 = 0;
const EXTRA_POINTER: u64 = 1;
const EXTRA_SIZE: u64 = 2;

impl Arguments {
    /// The packed parameters of a kernel.
    fn pack(&self, function: &Function) -> Result<Vec<u8>> {
        let entry = function.entry()?;
        let mut packed = vec![0; entry.param_bytes as usize];
        if packed.is_empty() {
            return Ok(packed);
        }
        if self.extra.address() != 0 {
            return self.packed_by_caller(function.name(), packed.len());
        }
        if self.pointers.address() == 0 {
            return Err(Status::INVALID_VALUE.because(format!(
                "{} takes {} parameters, none given",
                function.name(),
                entry.params.len()
            )));
        }
        for (i, param) in entry.params.iter().enumerate() {
            let pointer = self.pointers.offset(i * 8).number::<8>()?;
            let value = Host::at(pointer as usize).read(param.size as usize)?;
            let at = param.offset as usize;
            packed[at..at + value.len()].copy_from_slice(&value);
        }
        Ok(packed)
    }

    fn packed_by_caller(&self, name: &str, want: usize) -> Result<Vec<u8>> {
        let (mut buffer, mut bytes) = (0, 0);
        let mut at = self.extra;
        loop {
            match at.number::<8>()? {
                EXTRA_END => break,
                EXTRA_POINTER => buffer = at.offset(8).number::<8>()?,
                EXTRA_SIZE => {
                    bytes = Host::at(at.offset(8).number::<8>()? as usize).number::<8>()?;
                }
                other => {
                    return Err(
                        Status::INVALID_VALUE.because(format!("{other} in a launch's extra"))
                    )
                }
            }
            at = at.offset(16);
        }
        // The caller may leave out the padding after the last parameter, or pass more of it.
        if (bytes as usize) < want {
            return Err(Status::INVALID_VALUE.because(format!(
                "{name} takes {want} parameter bytes, {bytes} given"
            )));
        }
        Host::at(buffer as usize).read(want)
    }
}

/// Checks a launch against the device and the kernel.
fn check(driver: &Driver, launch: &KernelLaunch) -> Result {
    let (device, name) = (&driver.profile, launch.function.name());
    let refuse = |status: Status, text: String| Err(status.because(format!("{name}: {text}")));
    for axis in 0..3 {
        if launch.grid[axis] == 0 || launch.grid[axis] > device.max_grid_dim[axis] {
            return refuse(Status::INVALID_VALUE, format!("grid {:?}", launch.grid));
        }
        if launch.block[axis] == 0 || launch.block[axis] > device.max_block_dim[axis] {
            return refuse(Status::INVALID_VALUE, format!("block {:?}", launch.block));
        }
    }
    let threads = launch.block.iter().map(|&n| u64::from(n)).product::<u64>();
    if threads > u64::from(device.max_threads_per_block) {
        let text = format!("{threads} threads in a block");
        return refuse(Status::INVALID_VALUE, text);
    }
    let most = launch.function.max_threads(device)?;
    if threads > u64::from(most) {
        let text = format!("{threads} threads in a block, compiled for at most {most}");
        return refuse(Status::LAUNCH_OUT_OF_RESOURCES, text);
    }
    let required = launch.function.entry()?.req_ntid;
    if let Some(required) = required.filter(|r| *r != launch.block) {
        let text = format!("block {:?}, compiled for {required:?} only", launch.block);
        return refuse(Status::INVALID_VALUE, text);
    }
    check_cluster(device, launch)?;
    let limit = launch.function.dynamic_limit();
    if launch.shared > limit {
        let text = format!(
            "{} bytes of dynamic shared memory, the kernel may have {limit}: \
             set CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES first",
            launch.shared
        );
        return refuse(Status::INVALID_VALUE, text);
    }
    Ok(())
}

/// Checks the cluster of a launch against the device, the kernel and the grid.
fn check_cluster(device: &DeviceProfile, launch: &KernelLaunch) -> Result {
    let (entry, name) = (launch.function.entry()?, launch.function.name());
    let refuse =
        |text: String| Err(Status::INVALID_CLUSTER_SIZE.because(format!("{name}: {text}")));
    let compiled = entry.req_cluster;
    let Some(cluster) = launch.cluster.or(compiled) else {
        return match entry.explicit_cluster {
            true => refuse(String::from("it must be launched with a cluster")),
            false => Ok(()),
        };
    };
    if let Some(want) = compiled.filter(|want| *want != cluster) {
        return refuse(format!("a cluster of {cluster:?}, compiled for {want:?}"));
    }
    let size = cluster.iter().fold(1u32, |size, n| size.saturating_mul(*n));
    if size > 1 && device.cc() < 90 {
        return refuse(String::from("clusters need compute capability 9.0"));
    }
    let most = launch
        .function
        .largest_cluster()
        .min(entry.max_cluster.unwrap_or(u32::MAX));
    if size > most {
        return refuse(format!(
            "a cluster of {size} blocks, at most {most} \
             (more than 8: set CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED)"
        ));
    }
    if (0..3).any(|axis| cluster[axis] == 0 || !launch.grid[axis].is_multiple_of(cluster[axis])) {
        return refuse(format!(
            "a cluster of {cluster:?} does not divide the grid {:?}",
            launch.grid
        ));
    }
    Ok(())
}

impl KernelLaunch {
    /// Runs it to its end.
    ///
    /// # Errors
    /// The kernel's fault, which sticks to the context.
    pub fn run(&self, driver: &Driver) -> Result {
        driver.check_poison()?;
        let seed = stats::next_seed();
        let cluster = self.cluster.or(self.function.entry()?.req_cluster);
        let done = launch(&Launch {
            module: &self.function.module().linked,
            entry: self.function.name(),
            grid: self.grid,
            block: self.block,
            cluster: cluster.unwrap_or([1; 3]),
            explicit_cluster: cluster.is_some(),
            dependent: self.dependent,
            dynamic_shared: self.shared,
            params: &self.params,
            memory: &driver.memory,
            device: &driver.profile,
            seed,
            relaxed: Relaxed::default(),
        });
        match done {
            Ok(stats) => {
                stats::count_launch(driver, self.function.name(), &stats);
                Ok(())
            }
            Err(fault) => {
                stats::note_fault(&format!(
                    "{fault}\n  launched with grid {:?}, block {:?}, {} bytes of dynamic shared memory, \
                     on {}, schedule seed {seed}",
                    self.grid, self.block, self.shared, driver.profile.name
                ));
                let status = status_of(&fault);
                if !matches!(fault.kind, FaultKind::BadLaunch(_)) {
                    driver.poison(status);
                }
                Err(status.into())
            }
        }
    }
}

/// The result under which the real driver reports a fault.
fn status_of(fault: &Fault) -> Status {
    match &fault.kind {
        FaultKind::BadLaunch(_) => Status::INVALID_VALUE,
        FaultKind::Global(m) | FaultKind::Shared(m) | FaultKind::Local(m) => match m {
            MemoryFault::Misaligned { .. } => Status::MISALIGNED_ADDRESS,
            MemoryFault::OutOfBounds { .. } | MemoryFault::UseAfterFree { .. } => {
                Status::ILLEGAL_ADDRESS
            }
            _ => Status::LAUNCH_FAILED,
        },
        FaultKind::Assert(_) => Status::ASSERT,
        FaultKind::Deadlock(_) | FaultKind::Runaway(_) => Status::LAUNCH_TIMEOUT,
        _ => Status::LAUNCH_FAILED,
    }
}

/// Shape of a launch, as the caller states it.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    cluster: Option<[u32; 3]>,
    cooperative: bool,
    dependent: bool,
}

fn enqueue(
    driver: &Driver,
    function: usize,
    shape: &Shape,
    stream: usize,
    arguments: &Arguments,
) -> Result {
    let function = driver.functions.get(function)?;
    let stream = driver.stream(stream)?;
    let params = arguments.pack(&function)?;
    let launch = KernelLaunch {
        function,
        grid: shape.grid,
        block: shape.block,
        cluster: shape.cluster,
        dependent: shape.dependent,
        shared: shape.shared,
        params,
    };
    check(driver, &launch)?;
    if shape.cooperative {
        let threads = launch.block.iter().product();
        let each =
            occupancy::blocks_per_sm(&driver.profile, &launch.function, threads, launch.shared)?;
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        if blocks > u64::from(each) * u64::from(driver.profile.sm_count) {
            return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE
                .because(format!("{blocks} blocks, {each} fit on a multiprocessor")));
        }
    }
    submit(driver, &stream, Work::Kernel(Arc::new(launch)))
}

#[no_mangle]
extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: usize,
    pointers: Host,
    extra: Host,
) -> Status {
    in_context("cuLaunchKernel", |driver| {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            cluster: None,
            cooperative: false,
            dependent: false,
        };
        enqueue(
            driver,
            function,
            &shape,
            stream,
            &Arguments { pointers, extra },
        )
    })
}

#[no_mangle]
extern "C" fn cuLaunchCooperativeKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: usize,
    pointers: Host,
) -> Status {
    in_context("cuLaunchCooperativeKernel", |driver| {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            cluster: None,
            cooperative: true,
            dependent: false,
        };
        let extra = Host::at(0);
        enqueue(
            driver,
            function,
            &shape,
            stream,
            &Arguments { pointers, extra },
        )
    })
}

#[no_mangle]
extern "C" fn cuLaunchKernelEx(
    config: ConfigPointer,
    function: usize,
    pointers: Host,
    extra: Host,
) -> Status {
    in_context("cuLaunchKernelEx", |driver| {
        let config = config.get()?;
        let mut shape = Shape {
            grid: config.grid,
            block: config.block,
            shared: config.shared,
            cluster: None,
            cooperative: false,
            dependent: false,
        };
        for i in 0..config.count as usize {
            let attribute = config.attributes.offset(i * LAUNCH_ATTRIBUTE_BYTES);
            launch_attribute(driver, attribute, &mut shape)?;
        }
        enqueue(
            driver,
            function,
            &shape,
            config.stream,
            &Arguments { pointers, extra },
        )
    })
}

/// Takes one attribute of a launch.
fn launch_attribute(driver: &Driver, attribute: Host, shape: &mut Shape) -> Result {
    const IGNORE: u32 = 0;
    const COOPERATIVE: u32 = 2;
    const CLUSTER_DIMENSION: u32 = 4;
    const PROGRAMMATIC_STREAM_SERIALIZATION: u32 = 6;
    const NO_EFFECT_HERE: [u32; 4] = [1, 3, 5, 8]; // L2 window, sync policy, cluster scheduling, priority

    let value = attribute.offset(8);
    match attribute.number::<4>()? as u32 {
        IGNORE => {}
        COOPERATIVE => shape.cooperative = value.number::<4>()? != 0,
        CLUSTER_DIMENSION => {
            let mut size = [0; 3];
            for (axis, n) in size.iter_mut().enumerate() {
                *n = value.offset(axis * 4).number::<4>()? as u32;
            }
            shape.cluster = Some(size);
        }
        // The earlier kernel has always ended here; what the later one may not touch before its wait is checked.
        PROGRAMMATIC_STREAM_SERIALIZATION if driver.profile.cc() >= 90 => {
            shape.dependent = value.number::<4>()? != 0;
        }
        id if NO_EFFECT_HERE.contains(&id) => {}
        id => {
            return Err(
                Status::NOT_SUPPORTED.because(format!("launch attribute {id} is not emulated"))
            )
        }
    }
    Ok(())
}
