//! The memory a mount may hold, split at its start so that nothing waits in a ring.
//!
//! Writers wait for the dirty share; it is emptied by commits and spilling, which take from the commit share only, and a commit that edits reads
//! its edges from the read share. No share waits for another, so every wait ends when the network or the disk moves. What nobody has
//! reserved is [`Budget::idle`]: cached blocks and windows live there and give way first.
//!
//! Guarantees: the reserved bytes of a share never exceed its limit (but for one reservation larger than the whole share, which gets all of it);
//! waiting is first come, first served; a dropped [`Reservation`] gives its bytes back.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::support::{ByteSize, Ctx, NoProgress};

/// What memory is reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Share {
    /// Bytes on their way from the bucket to a program: 1/8, never taken by writes.
    Read,
    /// Part buffers and edges of commits: 1/4, never taken by writes.
    Commit,
    /// Inodes, dentries and listings: 1/8.
    Names,
    /// Dirty extents: the rest, half.
    Dirty,
}

const SHARES: [Share; 4] = [Share::Read, Share::Commit, Share::Names, Share::Dirty];
/// Permits of the semaphores stand for this many bytes, so that `u32` counts reach 4 TiB.
const UNIT: u64 = 1024;

/// The memory of one mount. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    pools: Arc<[Pool; 4]>,
    limit: u64,
}

#[derive(Debug)]
struct Pool {
    units: u32,
    free: Arc<Semaphore>,
}

/// Bytes taken from a [`Share`], given back when dropped.
#[derive(Debug)]
#[must_use = "dropping a reservation gives it back at once"]
pub struct Reservation {
    units: u32,
    /// Bytes in use of the `units` held.
    bytes: u64,
    free: Arc<Semaphore>,
}

impl Budget {
    /// Splits `limit` into its shares.
    pub fn new(limit: ByteSize) -> Self {
        let limit = limit.bytes();
        let pools = SHARES.map(|share| {
            let part = match share {
                Share::Read | Share::Names => limit / 8,
                Share::Commit => limit / 4,
                Share::Dirty => limit / 2,
            };
            let units = u32::try_from(part / UNIT).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3);
            Pool { units, free: Arc::new(Semaphore::new(units as usize)) }
        });
        Self { pools: Arc::new(pools), limit }
    }

    /// The limit of the whole mount, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The most that `share` can hold, in bytes.
    pub fn share(&self, share: Share) -> u64 {
        u64::from(self.pool(share).units) * UNIT
    }

    /// Bytes reserved in `share` now.
    pub fn used(&self, share: Share) -> u64 {
        let pool = self.pool(share);
        (pool.units as usize).saturating_sub(pool.free.available_permits()) as u64 * UNIT
    }

    /// Bytes that nobody has reserved: what cached blocks and windows may hold together.
    pub fn idle(&self) -> u64 {
        self.limit.saturating_sub(SHARES.iter().map(|share| self.used(*share)).sum())
    }

    /// Takes `bytes` of `share`, waiting until they are free.
    ///
    /// # Errors
    /// [`NoProgress`] when nothing was given back within the context's patience.
    pub async fn reserve(&self, cx: &Ctx, share: Share, bytes: u64) -> Result<Reservation, NoProgress> {
        if let Some(reservation) = self.try_reserve(share, bytes) {
            return Ok(reservation);
        }
        let pool = self.pool(share);
        let units = pool.units_for(bytes);
        let permit = cx.bounded(pool.free.acquire_many(units)).await?.map_err(|_| NoProgress(cx.patience()))?;
        permit.forget();
        cx.progressed();
        Ok(Reservation { units, bytes, free: Arc::clone(&pool.free) })
    }

    /// Takes `bytes` of `share` if they are free at once and nobody waits for them.
    pub fn try_reserve(&self, share: Share, bytes: u64) -> Option<Reservation> {
        let pool = self.pool(share);
        let units = pool.units_for(bytes);
        let permit = pool.free.try_acquire_many(units).ok()?;
        permit.forget();
        Some(Reservation { units, bytes, free: Arc::clone(&pool.free) })
    }

    fn pool(&self, share: Share) -> &Pool {
        &self.pools[match share {
            Share::Read => 0,
            Share::Commit => 1,
            Share::Names => 2,
            Share::Dirty => 3,
        }]
    }
}

impl Pool {
    fn units_for(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units)
    }
}

impl Reservation {
    /// The bytes this holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let keep = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        self.free.add_permits((self.units - keep) as usize);
        self.units = keep;
        self.bytes = self.bytes.min(bytes);
    }

    /// Adds what `other` holds of the same share to this one.
    pub fn merge(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.free, &other.free), "merging reservations of two shares");
        self.units += std::mem::take(&mut other.units);
        self.bytes += other.bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.free.add_permits(self.units as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::support::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn a_full_share_waits_until_something_is_given_back() {
        let budget = Budget::new(ByteSize::mib(64));
        let cx = Ctx::new(Arc::new(SystemClock), Duration::from_secs(5), 0, 0);
        let held = budget.reserve(&cx, Share::Dirty, 32 << 20).await.unwrap();
        assert_eq!(budget.idle(), 32 << 20);
        assert!(budget.reserve(&cx, Share::Dirty, 1).await.is_err());
        assert!(budget.try_reserve(Share::Commit, 16 << 20).is_some(), "other shares are untouched");
        drop(held);
        assert!(budget.try_reserve(Share::Dirty, 1).is_some());
        assert_eq!(budget.used(Share::Dirty), 0);
    }

    #[test]
    fn one_larger_than_the_share_gets_all_of_it() {
        let budget = Budget::new(ByteSize::mib(64));
        let all = budget.try_reserve(Share::Read, 1 << 30).unwrap();
        assert_eq!(budget.used(Share::Read), 8 << 20);
        drop(all);
        assert_eq!(budget.idle(), 64 << 20);
    }

    #[test]
    fn shrink_and_merge_keep_the_count() {
        let budget = Budget::new(ByteSize::mib(64));
        let mut a = budget.try_reserve(Share::Dirty, 10 << 20).unwrap();
        let b = budget.try_reserve(Share::Dirty, 100).unwrap();
        a.shrink(1 << 20);
        a.merge(b);
        assert_eq!(budget.used(Share::Dirty), (1 << 20) + 1024);
        drop(a);
        assert_eq!(budget.used(Share::Dirty), 0);
    }
}
