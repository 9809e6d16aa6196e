//! Objects behind opaque handles: a handle that is wrong, or of a destroyed object, is recognised.
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::status::{Result, Status};

/// Far from anything that is a pointer; no handle is given out twice.
static NEXT: AtomicUsize = AtomicUsize::new(0xFA5E_0000_0000);

/// The live objects of one kind.
pub struct Table<T> {
    kind: &'static str,
    live: Mutex<HashMap<usize, Arc<T>>>,
}

impl<T> Table<T> {
    /// An empty table; `kind` is for messages.
    pub fn new(kind: &'static str) -> Self {
        Table {
            kind,
            live: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<T>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle of a new object.
    pub fn insert(&self, object: T) -> usize {
        let handle = NEXT.fetch_add(16, Relaxed);
        self.lock().insert(handle, Arc::new(object));
        handle
    }

    /// The object of a handle.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_HANDLE`.
    pub fn get(&self, handle: usize) -> Result<Arc<T>> {
        self.lock()
            .get(&handle)
            .cloned()
            .ok_or_else(|| self.unknown(handle))
    }

    /// Ends a handle's life.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_HANDLE`.
    pub fn remove(&self, handle: usize) -> Result<Arc<T>> {
        self.lock()
            .remove(&handle)
            .ok_or_else(|| self.unknown(handle))
    }

    /// Ends the handles of the objects that don't satisfy the condition.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.lock().retain(|_, object| keep(object));
    }

    /// Ends all handles and answers their objects.
    pub fn drain(&self) -> Vec<Arc<T>> {
        self.lock().drain().map(|(_, object)| object).collect()
    }

    fn unknown(&self, handle: usize) -> super::status::Refusal {
        Status::INVALID_HANDLE.because(format!(
            "{handle:#x} is no live {} (destroyed, or never created)",
            self.kind
        ))
    }
}
