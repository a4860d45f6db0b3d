//! What a bucket and its dialect can do, read once when it is opened.

/// Limits and abilities of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Least bytes of every part but the last.
    pub smallest_part: u64,
    /// Most bytes of one part, sent or copied.
    pub largest_part: u64,
    /// Most parts of one upload.
    pub most_parts: u32,
    /// Most bytes of one PUT.
    pub largest_put: u64,
    /// Most bytes of one copy.
    pub largest_copy: u64,
    /// Most keys of one multi-delete.
    pub delete_batch: usize,
    /// Most bytes of a key.
    pub longest_key: usize,
    /// Most bytes of all user metadata of an object together.
    pub largest_user_meta: usize,
    /// Whether a write may be made to fail when the key exists.
    pub forbid_overwrite: bool,
    /// Whether rename is one request of the store's own.
    pub native_rename: bool,
    /// The region that the store says the bucket is in.
    pub region: Option<String>,
    /// What happens to replaced and deleted objects.
    pub versioning: Versioning,
}

/// The versioning state of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// Never switched on.
    Never,
    /// Every write makes a version.
    Enabled,
    /// Switched off again; forbid-overwrite stays without effect.
    Suspended,
}

impl Capabilities {
    /// What the COS documentation gives for an ordinary bucket (COS API, "Limits", read 2026-11).
    pub const fn cos() -> Self {
        Self {
            smallest_part: 1 << 20,
            largest_part: 5 << 30,
            most_parts: 10_000,
            largest_put: 5 << 30,
            largest_copy: 5 << 30,
            delete_batch: 1000,
            longest_key: 850,
            largest_user_meta: 2048,
            forbid_overwrite: true,
            native_rename: false,
            region: None,
            versioning: Versioning::Never,
        }
    }

    /// The same with a thousandth of the bytes and the parts.
    #[must_use]
    pub fn thousandth(self) -> Self {
        Self {
            smallest_part: self.smallest_part / 1000,
            largest_part: self.largest_part / 1000,
            most_parts: self.most_parts / 1000,
            largest_put: self.largest_put / 1000,
            largest_copy: self.largest_copy / 1000,
            ..self
        }
    }
}
