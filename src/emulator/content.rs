//! The bytes of an object or part: shared pieces, never copied once received.
//!
//! A ranged GET hands out sub-slices of the pieces, a part copy and a completed upload share them, and an object of a terabyte may be one
//! block named a million times.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

/// What a copied part's ETag is the MD5 of, at most.
const LARGE: u64 = 64 << 20;

/// Immutable bytes in pieces. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// The pieces, none empty, and where each begins.
    pieces: Arc<[(u64, Bytes)]>,
    len: u64,
}

impl Content {
    /// Puts pieces in a row.
    pub(super) fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut len = 0;
        let mut placed = Vec::new();
        for piece in pieces {
            if !piece.is_empty() {
                let start = len;
                len += piece.len() as u64;
                placed.push((start, piece));
            }
        }
        Self { pieces: placed.into(), len }
    }

    /// `block` over and over until `len`.
    pub(super) fn repeated(block: &Bytes, len: u64) -> Self {
        let step = block.len() as u64;
        let whole = len.checked_div(step).unwrap_or(0);
        let rest = usize::try_from(len - whole * step).unwrap_or(0).min(block.len());
        Self::new((0..whole).map(|_| block.clone()).chain([block.slice(..rest)]))
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The pieces of `range`, which must lie inside.
    pub(super) fn slice(&self, range: Range<u64>) -> VecDeque<Bytes> {
        let mut out = VecDeque::new();
        let first = self.pieces.partition_point(|(start, piece)| start + piece.len() as u64 <= range.start);
        for (start, piece) in &self.pieces[first..] {
            if *start >= range.end {
                break;
            }
            let from = usize::try_from(range.start.saturating_sub(*start)).unwrap_or(usize::MAX);
            let to = usize::try_from(range.end - start).unwrap_or(usize::MAX).min(piece.len());
            out.push_back(piece.slice(from.min(to)..to));
        }
        out
    }

    /// All pieces.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter().map(|(_, piece)| piece)
    }

    /// Everything in one piece; copies if there are several.
    pub(super) fn to_bytes(&self) -> Bytes {
        match &*self.pieces {
            [] => Bytes::new(),
            [(_, one)] => one.clone(),
            many => {
                let mut out = BytesMut::new();
                for (_, piece) in many {
                    out.extend_from_slice(piece);
                }
                out.freeze()
            }
        }
    }

    /// CRC-64/XZ of everything. A block named many times in a row is read once, and its repetitions are combined by doubling.
    pub(super) fn crc(&self) -> u64 {
        let same = |(_, one): &(u64, Bytes), (_, other): &(u64, Bytes)| one.as_ptr() == other.as_ptr() && one.len() == other.len();
        let runs = self.pieces.chunk_by(same).filter_map(|run| Some((&run.first()?.1, run.len())));
        runs.fold(0, |total, (block, mut times)| {
            let (mut total, mut crc, mut len) = (total, crc64(block), block.len() as u64);
            while times > 0 {
                if times % 2 == 1 {
                    total = combine_crc(total, crc, len);
                }
                (crc, len, times) = (combine_crc(crc, crc, len), len * 2, times / 2);
            }
            total
        })
    }

    /// MD5 of everything, or of its CRC and length where that would take seconds.
    pub(super) fn md5(&self) -> md5::digest::Output<md5::Md5> {
        use md5::Digest;
        let mut md5 = md5::Md5::new();
        if self.len > LARGE {
            md5.update(self.crc().to_le_bytes());
            md5.update(self.len.to_le_bytes());
        } else {
            self.pieces().for_each(|piece| md5.update(piece));
        }
        md5.finalize()
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::new([bytes])
    }
}

/// CRC-64/XZ, which COS calls crc64ecma.
pub(super) fn crc64(data: &[u8]) -> u64 {
    let mut digest = crc_digest();
    digest.update(data);
    digest.finalize()
}

/// The same for data that come in pieces: combining costs more than a small piece itself.
pub(super) fn crc_digest() -> Digest {
    Digest::new(CrcAlgorithm::Crc64Xz)
}

/// The CRC of two texts in a row from the CRC of each and the length of the second.
pub(super) fn combine_crc(first: u64, second: u64, second_len: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Xz, first, second, second_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cross_pieces() {
        let content = Content::new([Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg"), Bytes::from_static(b"h")]);
        assert_eq!(content.len(), 8);
        for start in 0..8 {
            for end in start + 1..=8 {
                let cut: Vec<u8> = content.slice(start as u64..end as u64).into_iter().flatten().collect();
                assert_eq!(cut, &b"abcdefgh"[start..end]);
            }
        }
        assert_eq!(content.crc(), crc64(b"abcdefgh"));
        assert_eq!(&content.to_bytes()[..], b"abcdefgh");
    }

    /// Published samples (COS API, data integrity; read 2026-11).
    #[test]
    fn crc_is_the_one_cos_uses() {
        assert_eq!(crc64(b""), 0);
        assert_eq!(crc64(b"123456789"), 11_051_210_869_376_104_954);
        assert_eq!(crc64(b"[Object Content]"), 16_749_565_679_157_681_890);
        assert_eq!(crc64(&vec![0; 1 << 20]), 6_947_770_692_288_575_170);
        assert_eq!(combine_crc(crc64(b"12345"), crc64(b"6789"), 4), crc64(b"123456789"));
        assert_eq!(combine_crc(0, crc64(b"6789"), 4), crc64(b"6789"));
    }

    #[test]
    fn repeated_block_reads_like_its_expansion() {
        let content = Content::repeated(&Bytes::from_static(b"0123456789"), 34);
        assert_eq!(&content.to_bytes()[..], b"0123456789012345678901234567890123");
        assert_eq!(content.crc(), crc64(&content.to_bytes()));
        for len in [1u64, 10, 99, 1000] {
            let content = Content::repeated(&Bytes::from_static(b"0123456789"), len);
            assert_eq!(content.crc(), crc64(&content.to_bytes()));
        }
        assert_eq!(Content::repeated(&Bytes::new(), 5).len(), 0);
    }
}
