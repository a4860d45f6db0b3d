//! Records as they lie in the file, and how they are found again behind damage.

use std::ops::Range;

use crc_fast::CrcAlgorithm;

/// The longest record: whatever a caller says about one file or one rename is far below it.
pub(super) const MAX_RECORD: usize = 16 << 20;

/// Marks the beginning of a frame. 0xF5 occurs in no UTF-8 text, so no text inside a damaged record looks like one.
const MARK: [u8; 4] = [0xF5, b'j', b'r', b'n'];

/// No frame has a greater number: there is always a next one.
const LAST_NUMBER: u64 = u64::MAX / 2;

/// Mark, length (4), number (8), batch (8), then the CRC-32C (4) of these three and the record; all little-endian.
const HEAD: usize = 28;

/// One whole frame.
#[derive(Debug)]
pub(super) struct Frame {
    /// The frame in the file.
    pub(super) span: Range<u64>,
    /// The record in the file, as an index.
    pub(super) record: Range<usize>,
    /// Rises from frame to frame.
    pub(super) number: u64,
    /// Where its batch begins in the file.
    pub(super) batch: u64,
}

/// Appends a frame. The record is at most [`MAX_RECORD`] long.
pub(super) fn encode(out: &mut Vec<u8>, number: u64, batch: u64, record: &[u8]) {
    let length = u32::try_from(record.len()).expect("at most MAX_RECORD");
    let start = out.len();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&batch.to_le_bytes());
    let crc = crc(&out[start + 4..], record);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(record);
}

/// Every whole frame, in order, with rising numbers; what is between them is damaged or torn. `None` if the bytes only look like frames, so
/// often that to sum them all up would take for ever.
pub(super) fn scan(bytes: &[u8]) -> Option<Vec<Frame>> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut at = 0;
    // Each byte may be summed up in a frame that is one, and a few times more in what merely looks like one.
    let mut effort = bytes.len().saturating_mul(8).saturating_add(4 * MAX_RECORD);
    while at < bytes.len() {
        let last = frames.last().map(|frame| frame.number);
        match decode(bytes, at, &mut effort).filter(|frame| last.is_none_or(|last| frame.number > last)) {
            Some(frame) => {
                at = frame.record.end;
                frames.push(frame);
            }
            None => at += 1 + bytes[at + 1..].iter().position(|byte| *byte == MARK[0]).unwrap_or(bytes.len()),
        }
    }
    (effort > 0).then_some(frames)
}

/// The frame at `at`, if there is one. Takes from `effort` as many bytes as were summed up.
fn decode(bytes: &[u8], at: usize, effort: &mut usize) -> Option<Frame> {
    let head: &[u8; HEAD] = bytes.get(at..)?.first_chunk()?;
    let (mark, rest) = head.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (batch, sum) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_RECORD)?;
    let (number, batch) = (u64::from_le_bytes(*number), u64::from_le_bytes(*batch));
    if *mark != MARK || batch > at as u64 || number > LAST_NUMBER {
        return None;
    }
    let start = at + HEAD;
    let record = start..start + length;
    let summed = bytes.get(record.clone())?;
    *effort = effort.saturating_sub(HEAD + length);
    if *effort == 0 || crc(&head[4..HEAD - 4], summed).to_le_bytes() != sum {
        return None;
    }
    Some(Frame { span: at as u64..record.end as u64, record, number, batch })
}

fn crc(head: &[u8], record: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(record);
    u32::try_from(digest.finalize()).expect("a 32-bit checksum")
}

#[cfg(test)]
mod tests {
    use crc_fast::checksum;

    use super::*;

    /// The published check value of CRC-32C, so that a file can be read by whatever implements it next.
    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(checksum(CrcAlgorithm::Crc32Iscsi, b"123456789"), 0xe306_9283);
        assert_eq!(crc(b"1234", b"56789"), 0xe306_9283);
    }
}
