//! Buffers that are used again: what a program writes is copied into one of them, and it comes back when the bytes have left.
//!
//! At a gigabyte a second a thousand buffers of 1 MiB are made and freed each second, by different threads. An allocator that gives such memory
//! back to the system pays a page fault for each 4 KiB of it, as much time as the copy takes; whether it does depends on the allocator, its
//! thresholds and its history. The buffers here do not.
//!
//! Only lengths that a program's loop has are kept, powers of two from [`LEAST`] to [`MOST`], each in a buffer of exactly that size: what is
//! counted by its length holds no more than that. Everything else is allocated as ever.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller ones cost no page faults worth mentioning.
const LEAST: usize = 128 << 10;
/// The longest WRITE.
const MOST: usize = 1 << 20;
const SIZES: usize = (MOST / LEAST).ilog2() as usize + 1;

/// Buffers of a mount.
#[derive(Debug)]
pub struct Pool {
    /// Most bytes that wait to be used again.
    keep: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// By size: [`LEAST`], twice that, and so on. All are empty vectors of that capacity.
    buffers: [Vec<Vec<u8>>; SIZES],
    bytes: usize,
}

/// A buffer in use.
struct Lent {
    buffer: Vec<u8>,
    pool: Arc<Pool>,
}

impl Pool {
    /// A pool that keeps at most `keep` bytes.
    pub fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self { keep, free: Mutex::default() })
    }

    /// The same bytes in a buffer of their own. This is the copy.
    pub fn copy(self: &Arc<Self>, bytes: &[u8]) -> Bytes {
        let Some(size) = size_of(bytes.len()) else { return Bytes::copy_from_slice(bytes) };
        let mut buffer = self.take(size).unwrap_or_else(|| Vec::with_capacity(bytes.len()));
        buffer.extend_from_slice(bytes);
        Bytes::from_owner(Lent { buffer, pool: Arc::clone(self) })
    }

    fn take(&self, size: usize) -> Option<Vec<u8>> {
        let mut free = self.free.lock();
        let buffer = free.buffers[size].pop()?;
        free.bytes -= buffer.capacity();
        Some(buffer)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let Some(size) = size_of(buffer.capacity()) else { return };
        let mut free = self.pool.free.lock();
        if free.bytes + buffer.capacity() <= self.pool.keep {
            free.bytes += buffer.capacity();
            free.buffers[size].push(buffer);
        }
    }
}

/// Which of the sizes that are kept it is.
fn size_of(len: usize) -> Option<usize> {
    (len.is_power_of_two() && (LEAST..=MOST).contains(&len)).then(|| (len / LEAST).ilog2() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_is_gone() {
        let pool = Pool::new(4 << 20);
        let bytes = pool.copy(&vec![7; 1 << 20]);
        let (at, slice) = (bytes.as_ptr(), bytes.slice(5..10));
        drop(bytes);
        assert_ne!(pool.copy(&vec![8; 1 << 20]).as_ptr(), at, "still in use");
        assert_eq!(&slice[..], [7; 5]);
        drop(slice);
        let again: Vec<_> = (0..2).map(|_| pool.copy(&vec![9; 1 << 20])).collect();
        assert!(again.iter().any(|bytes| bytes.as_ptr() == at) && again.iter().all(|bytes| bytes[..] == vec![9; 1 << 20]));
    }

    #[test]
    fn each_size_has_buffers_of_its_own_and_no_more_are_kept_than_may_be() {
        let pool = Pool::new(1 << 20);
        for len in [0, 1, 4096, LEAST - 1, LEAST, LEAST + 1, 2 * LEAST, MOST, 2 * MOST] {
            drop(pool.copy(&vec![3; len]));
            let all: Vec<_> = (0..20).map(|_| pool.copy(&vec![4; len])).collect();
            assert!(all.iter().all(|bytes| bytes.len() == len && bytes.iter().all(|byte| *byte == 4)));
            drop(all);
            let free = pool.free.lock();
            let kept: usize = free.buffers.iter().flatten().map(Vec::capacity).sum();
            assert!(kept == free.bytes && kept <= 1 << 20, "{kept}");
        }
    }
}
