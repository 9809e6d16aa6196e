//! One thing that a stream does: run at once, or kept in a graph and run at each replay.
use std::sync::Arc;

use super::abi::Host;
use super::capture;
use super::launch::KernelLaunch;
use super::state::Driver;
use super::status::Result;
use super::stream::Stream;

/// Work of a library on top of the driver.
pub type Task = Arc<dyn Fn(&Driver) -> Result + Send + Sync>;

/// What a stream does. Host memory is touched when the work runs, not when it is captured.
#[derive(Clone)]
pub enum Work {
    /// A kernel, its parameters copied.
    Kernel(Arc<KernelLaunch>),
    /// Host to device.
    Upload {
        /// Device address.
        to: u64,
        /// Host address.
        from: Host,
        /// Length.
        bytes: usize,
    },
    /// Device to host.
    Download {
        /// Host address.
        to: Host,
        /// Device address.
        from: u64,
        /// Length.
        bytes: usize,
    },
    /// Device to device.
    Copy {
        /// Destination.
        to: u64,
        /// Source.
        from: u64,
        /// Length.
        bytes: u64,
    },
    /// A repeated value of 1, 2 or 4 bytes.
    Fill {
        /// First address.
        at: u64,
        /// Little-endian value.
        value: u32,
        /// Its size.
        width: u64,
        /// How often.
        count: u64,
    },
    /// Anything else.
    Task(Task),
}

impl Work {
    /// Does it now.
    ///
    /// # Errors
    /// Wrong addresses; a kernel's fault, which then sticks.
    pub fn run(&self, driver: &Driver) -> Result {
        match self {
            Work::Kernel(launch) => launch.run(driver),
            Work::Upload { to, from, bytes } => {
                Ok(driver.memory.write(*to, &from.read(*bytes)?)?)
            }
            Work::Download { to, from, bytes } => {
                let mut data = vec![0; *bytes];
                driver.memory.read(*from, &mut data)?;
                to.write(&data)
            }
            Work::Copy { to, from, bytes } => Ok(driver.memory.copy(*to, *from, *bytes)?),
            Work::Fill {
                at,
                value,
                width: 1,
                count,
            } => Ok(driver.memory.fill(*at, *value as u8, *count)?),
            Work::Fill {
                at,
                value,
                width,
                count,
            } => {
                let data = value.to_le_bytes()[..*width as usize].repeat(*count as usize);
                Ok(driver.memory.write(*at, &data)?)
            }
            Work::Task(task) => task(driver),
        }
    }
}

/// Gives work to a stream: captured if the stream captures, else done.
///
/// # Errors
/// Those of the work, and those of a capture that forbids it.
pub fn submit(driver: &Driver, stream: &Arc<Stream>, work: Work) -> Result {
    if capture::record(driver, stream, &work)? {
        return Ok(());
    }
    stream.in_order(|| work.run(driver))
}
