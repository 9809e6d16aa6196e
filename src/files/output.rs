//! Output files: whole or not at all.
//!
//! ```text
//!   OUT is missing or a regular file    .imma-PID-N.part beside it, filled, synced, renamed to OUT
//!   OUT is a link                       the same beside the file that it leads to
//!   OUT is a device, a FIFO, a socket   written into; what was written before a failure stays written
//!   OUT is an open descriptor           written into: /dev/stdout, /dev/fd/N, or the file that stdout was sent to
//! ```

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Links that are followed, as many as the system follows.
const LINKS: usize = 40;

/// Why an output could not be written: what was found and what was expected of its path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found}, expected {expected}")]
pub struct WriteRefused {
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl WriteRefused {
    fn new(found: impl Into<String>, expected: &str) -> Self {
        WriteRefused {
            found: found.into(),
            expected: expected.into(),
        }
    }
}

impl From<io::Error> for WriteRefused {
    fn from(e: io::Error) -> Self {
        WriteRefused::new(describe(&e), "a path that can be written")
    }
}

/// What an error of the system says, as the object of "found".
pub(crate) fn describe(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "no such file or folder".into(),
        io::ErrorKind::PermissionDenied => "no permission".into(),
        io::ErrorKind::IsADirectory => "a folder".into(),
        io::ErrorKind::BrokenPipe => "a pipe that nobody reads any more".into(),
        _ => e.to_string(),
    }
}

/// What an archive is written to: it seeks.
#[derive(Debug)]
pub enum Sink {
    /// A file beside the target.
    File(BufWriter<File>),
    /// Memory, where the target can't seek. A write that does not fit is an error.
    Memory(Cursor<Vec<u8>>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::File(file) => file.write(bytes),
            Sink::Memory(memory) => {
                let held = memory.get_mut();
                held.try_reserve(bytes.len())
                    .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
                memory.write(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::File(file) => file.flush(),
            Sink::Memory(_) => Ok(()),
        }
    }
}

impl Seek for Sink {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Sink::File(file) => file.seek(to),
            Sink::Memory(memory) => memory.seek(to),
        }
    }
}

/// Writes a file front to back.
///
/// A regular file, also one behind links, is replaced when `fill` has succeeded and its bytes are on the disk, and
/// keeps its permissions; a device, a FIFO or an open descriptor (`/dev/stdout`) is written into.
///
/// # Errors
/// When the path can't be written or `fill` fails: a regular file is then as it was, or not there.
///
/// ```
/// use std::io::Write;
/// let path = std::env::temp_dir().join(format!("imma-doc-{}", std::process::id()));
/// imma::files::write(&path, |out| out.write_all(b"whole"))?;
/// let failed = imma::files::write(&path, |_| Err(std::io::Error::other("disk full")));
/// assert!(failed.unwrap_err().to_string().contains("disk full"));
/// assert_eq!(std::fs::read(&path).unwrap(), b"whole");
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), imma::files::WriteRefused>(())
/// ```
pub fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), WriteRefused> {
    match Place::of(path)? {
        Place::Stream(file) => {
            let mut out = BufWriter::new(file);
            fill(&mut out)?;
            Ok(out.flush()?)
        }
        Place::Regular { target, old } => {
            let (part, file) = Part::beside(&target)?;
            let mut out = BufWriter::new(file);
            fill(&mut out)?;
            part.put(out, &target, old.as_ref())
        }
    }
}

/// [`write()`] for formats whose writers seek: `fill` gets the place to write to and gives it back.
///
/// # Errors
/// As [`write()`].
pub fn write_seekable(
    path: &Path,
    fill: impl FnOnce(Sink) -> io::Result<Sink>,
) -> Result<(), WriteRefused> {
    match Place::of(path)? {
        Place::Stream(mut file) => match fill(Sink::Memory(Cursor::default()))? {
            Sink::Memory(memory) => Ok(file.write_all(memory.get_ref())?),
            Sink::File(_) => Err(io::Error::other("another sink than was given").into()),
        },
        Place::Regular { target, old } => {
            let (part, file) = Part::beside(&target)?;
            match fill(Sink::File(BufWriter::new(file)))? {
                Sink::File(out) => part.put(out, &target, old.as_ref()),
                Sink::Memory(_) => Err(io::Error::other("another sink than was given").into()),
            }
        }
    }
}

/// What a path leads to.
enum Place {
    /// Something that is written into.
    Stream(File),
    /// A file that is replaced, with what is known of the one that is there.
    Regular {
        target: PathBuf,
        old: Option<Metadata>,
    },
}

impl Place {
    fn of(path: &Path) -> Result<Self, WriteRefused> {
        if let Some(stdout) = stdout_at(path) {
            return Ok(Place::Stream(stdout));
        }
        let End { target, descriptor } = End::of(path)?;
        let old = match std::fs::metadata(&target) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound && target.file_name().is_some() => {
                return Ok(Place::Regular { target, old: None });
            }
            Err(e) => return Err(e.into()),
        };
        if old.is_dir() {
            return Err(WriteRefused::new("a folder", "the path of a file to write"));
        }
        // Opened, not created: also a file that is replaced has to be one that may be written.
        let open = OpenOptions::new().write(true).open(&target)?;
        match descriptor || !old.is_file() {
            true => Ok(Place::Stream(open)),
            false => Ok(Place::Regular {
                target,
                old: Some(old),
            }),
        }
    }
}

/// Where the links at the end of a path lead.
struct End {
    target: PathBuf,
    /// It is one of a process's open descriptors.
    descriptor: bool,
}

impl End {
    fn of(path: &Path) -> io::Result<Self> {
        let mut target = path.to_path_buf();
        for _ in 0..LINKS {
            let descriptor = is_descriptor(&target);
            let link = match target.symlink_metadata() {
                Ok(meta) => meta.is_symlink(),
                // A link may lead to a file that is to be made.
                Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                Err(e) => return Err(e),
            };
            if descriptor || !link {
                return Ok(End { target, descriptor });
            }
            let next = std::fs::read_link(&target)?;
            target = target.parent().unwrap_or(Path::new("")).join(next);
        }
        Err(io::Error::other("links that lead in a circle"))
    }
}

/// Whether this is `/proc/PID/fd/N`, whose link names a file that may be gone, or none.
fn is_descriptor(path: &Path) -> bool {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let real = parent.and_then(|p| p.canonicalize().ok());
    real.is_some_and(|p| p.starts_with("/proc") && p.ends_with("fd"))
}

/// Whether a path leads to what this process prints to, so that nothing else may be printed there.
///
/// A device that takes anything (a terminal, `/dev/null`) is left aside.
pub fn is_stdout(path: &Path) -> bool {
    stdout_at(path).is_some()
}

/// Standard output, if the path leads to the same pipe or regular file.
#[cfg(unix)]
fn stdout_at(path: &Path) -> Option<File> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let there = std::fs::metadata(path).ok()?;
    let stdout = io::stdout().as_fd().try_clone_to_owned().ok()?;
    let stdout = File::from(stdout);
    let ours = stdout.metadata().ok()?;
    let same = (there.dev(), there.ino()) == (ours.dev(), ours.ino());
    (same && !ours.file_type().is_char_device()).then_some(stdout)
}

#[cfg(not(unix))]
fn stdout_at(_: &Path) -> Option<File> {
    None
}

/// A file that is being written beside its target; gone when it was not put in its place.
struct Part {
    path: PathBuf,
}

impl Part {
    /// Makes one. Its name does not grow with the target's, which may be as long as names can be.
    fn beside(target: &Path) -> io::Result<(Self, File)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!(".imma-{}-{number}.part", std::process::id());
            let path = target.with_file_name(name);
            match File::create_new(&path) {
                Ok(file) => return Ok((Part { path }, file)),
                // Left by a process of the same number that was killed.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < 1 << 20 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Renames it to its target, which may have been there before.
    fn put(
        self,
        out: BufWriter<File>,
        target: &Path,
        old: Option<&Metadata>,
    ) -> Result<(), WriteRefused> {
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some(old) = old {
            keep_owner(&self.path, old);
            file.set_permissions(old.permissions())?;
        }
        // A disk that is full or far away may say so only now. Some filesystems have nothing to sync.
        match file.sync_all() {
            Err(e)
                if !matches!(
                    e.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                return Err(e.into())
            }
            _ => drop(file),
        }
        Ok(std::fs::rename(&self.path, target)?)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing under this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Best effort: only an administrator may give a file away.
#[cfg(unix)]
fn keep_owner(path: &Path, old: &Metadata) {
    use std::os::unix::fs::MetadataExt;
    let new = std::fs::metadata(path).map(|m| (m.uid(), m.gid()));
    if !matches!(new, Ok(new) if new == (old.uid(), old.gid())) {
        let _ = std::os::unix::fs::chown(path, Some(old.uid()), Some(old.gid()));
    }
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &Metadata) {}
