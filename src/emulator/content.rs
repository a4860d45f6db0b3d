//! The bytes of an object or part: shared pieces, never copied once received.
//!
//! A ranged GET hands out sub-slices of the pieces, a part copy and a completed upload share them with their sums, and an object of a terabyte
//! may be one block named a million times. So a copy costs what it costs COS: next to nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};

/// What a copied part's ETag is the MD5 of, at most.
const LARGE: u64 = 64 << 20;

/// Immutable bytes in pieces. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// The pieces, none empty, and where each begins.
    pieces: Arc<[(u64, Piece)]>,
    len: u64,
}

/// Some of the bytes, and their CRC where it is known.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    crc: Option<u64>,
}

impl Piece {
    /// Bytes whose CRC will be asked for more than once.
    pub(super) fn summed(bytes: Bytes) -> Self {
        Self { crc: Some(crc64(&bytes)), bytes }
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn crc(&self) -> u64 {
        self.crc.unwrap_or_else(|| crc64(&self.bytes))
    }

    fn slice(&self, range: Range<usize>) -> Self {
        if range == (0..self.bytes.len()) { self.clone() } else { self.bytes.slice(range).into() }
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, crc: None }
    }
}

impl Content {
    /// Puts pieces in a row.
    pub(super) fn new(pieces: impl IntoIterator<Item = impl Into<Piece>>) -> Self {
        let mut len = 0;
        let mut placed = Vec::new();
        for piece in pieces {
            let piece = piece.into();
            if !piece.bytes.is_empty() {
                let start = len;
                len += piece.bytes.len() as u64;
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
        let block = Piece::summed(block.clone());
        let last = block.slice(0..rest);
        Self::new((0..whole).map(|_| block.clone()).chain([last]))
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `range` of it, which must lie inside.
    pub(super) fn cut(&self, range: Range<u64>) -> Self {
        let first = self.pieces.partition_point(|(start, piece)| start + piece.bytes.len() as u64 <= range.start);
        let inside = self.pieces[first..].iter().take_while(|(start, _)| *start < range.end);
        Self::new(inside.map(|(start, piece)| {
            let from = usize::try_from(range.start.saturating_sub(*start)).unwrap_or(usize::MAX);
            let to = usize::try_from(range.end - start).unwrap_or(usize::MAX).min(piece.bytes.len());
            piece.slice(from.min(to)..to)
        }))
    }

    /// The bytes of `range`, which must lie inside.
    pub(super) fn slice(&self, range: Range<u64>) -> VecDeque<Bytes> {
        self.cut(range).pieces().map(|piece| piece.bytes.clone()).collect()
    }

    /// All pieces.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().map(|(_, piece)| piece)
    }

    /// Everything in one piece; copies if there are several.
    pub(super) fn to_bytes(&self) -> Bytes {
        match &*self.pieces {
            [] => Bytes::new(),
            [(_, one)] => one.bytes.clone(),
            many => {
                let mut out = BytesMut::new();
                for (_, piece) in many {
                    out.extend_from_slice(&piece.bytes);
                }
                out.freeze()
            }
        }
    }

    /// CRC-64/XZ of everything. A block named many times in a row is read once, and its repetitions are combined by doubling.
    pub(super) fn crc(&self) -> u64 {
        let at = |piece: &Piece| (piece.bytes.as_ptr(), piece.bytes.len());
        let runs = self.pieces.chunk_by(|(_, one), (_, other)| at(one) == at(other));
        runs.filter_map(|run| Some((&run.first()?.1, run.len()))).fold(0, |mut total, (block, mut times)| {
            let (mut crc, mut len) = (block.crc(), block.bytes.len() as u64);
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
            self.pieces().for_each(|piece| md5.update(&piece.bytes));
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
    checksum(CrcAlgorithm::Crc64Xz, data)
}

/// The CRC of two texts in a row from the CRC of each and the length of the second.
///
/// Appending n bytes multiplies the remainder of what is before them by x to the power 8n. The library's own function squares matrices for it,
/// which takes a hundred times as long and more than reading a megabyte does.
pub(super) fn combine_crc(first: u64, second: u64, mut second_len: u64) -> u64 {
    // x^8, squared for each further binary digit of the length; bit 63 is the coefficient of x^0.
    let (mut power, mut shifted) = (1 << (63 - 8), first);
    while second_len > 0 {
        if second_len % 2 == 1 {
            shifted = multiply(power, shifted);
        }
        (power, second_len) = (multiply(power, power), second_len / 2);
    }
    shifted ^ second
}

/// The product of two polynomials modulo that of CRC-64/XZ.
fn multiply(mut a: u64, mut b: u64) -> u64 {
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let mut product = 0;
    while a != 0 {
        if a >> 63 == 1 {
            product ^= b;
        }
        (a, b) = (a << 1, (b >> 1) ^ if b & 1 == 1 { POLYNOMIAL } else { 0 });
    }
    product
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
                assert_eq!(content.cut(start as u64..end as u64).crc(), crc64(&b"abcdefgh"[start..end]));
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
        let text = vec![0xa5; 70_000];
        for at in [0, 1, 7, 4096, 69_999, 70_000] {
            assert_eq!(combine_crc(crc64(&text[..at]), crc64(&text[at..]), (70_000 - at) as u64), crc64(&text));
        }
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
