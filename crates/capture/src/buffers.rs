//! Segments' buffers, used again and again: fresh pages cost a tenth of what storing a segment takes.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers that nobody uses now, shared by those who take and give back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers {
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    /// How many are kept at most; `None` for all.
    spare_max: Option<usize>,
}

impl Buffers {
    /// Keeps this many that nobody uses.
    pub(crate) fn keeping(spare_max: usize) -> Self {
        Self { spare_max: Some(spare_max), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty one, which comes back when it is dropped.
    pub(crate) fn take(&self) -> Buffer {
        Buffer { bytes: self.lock().pop().unwrap_or_default(), back_to: self.clone() }
    }
}

/// A buffer in use.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    back_to: Buffers,
}

impl Deref for Buffer {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut spare = self.back_to.lock();
        if bytes.capacity() > 0 && self.back_to.spare_max.is_none_or(|most| spare.len() < most) {
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_no_more_are_kept_than_told() {
        let buffers = Buffers::keeping(1);
        let (mut one, mut other) = (buffers.take(), buffers.take());
        one.extend_from_slice(&[1; 1000]);
        other.extend_from_slice(&[2; 1000]);
        let place = one.as_ptr();
        drop((one, other));
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert_eq!(buffers.take().capacity(), 0, "one was kept");
    }
}
