//! CRC-64/XZ, the checksum COS keeps of every object and part (COS API, "CRC64 check", document 436/40334, read 2026-11).

use crc_fast::{CrcAlgorithm, Digest};

/// A running checksum.
pub(crate) struct Crc64(Digest);

impl Crc64 {
    /// The checksum of no bytes.
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Xz))
    }

    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum so far.
    pub(crate) fn value(&self) -> u64 {
        self.0.finalize()
    }
}

/// The checksum of A followed by B, of which `second` is `second_len` bytes long.
pub(crate) fn combine(first: u64, second: u64, second_len: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Xz, first, second, second_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(bytes: &[u8]) -> u64 {
        let mut crc = Crc64::new();
        crc.update(bytes);
        crc.value()
    }

    #[test]
    fn values_published_by_tencent_and_check_values() {
        for (bytes, value) in [
            (&b""[..], 0),
            (b"\0", 2_282_658_103_124_508_505),
            (b"a", 3_675_645_893_302_102_789),
            (b"123456789", 11_051_210_869_376_104_954),
            (b"hello world", 5_981_764_153_023_615_706),
            (b"[Object Content]", 16_749_565_679_157_681_890),
            (b"[Object Content Version 2]", 11_596_229_263_574_363_878),
            (b"[Object Part]", 4_510_578_591_875_220_731),
        ] {
            assert_eq!(crc(bytes), value, "{bytes:?}");
        }
        assert_eq!(crc(&vec![0; 1 << 20]), 6_947_770_692_288_575_170);
    }

    #[test]
    fn parts_combine_to_the_whole() {
        assert_eq!(combine(6_748_440_630_437_108_969, 10_278_880_121_275_185_425, 5 - 1), crc(b"123456789"));
        assert_eq!(combine(crc(b"12345"), crc(b""), 0), crc(b"12345"));
    }
}
