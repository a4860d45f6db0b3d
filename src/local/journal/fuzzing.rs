//! What is fuzzed of the journal: a file in which anything may stand.

use bytes::Bytes;

use super::{encode, head, replay};

const WHOSE: &str = "b";

/// Any bytes as a journal, as the rest of one, and as damage in the middle of one.
pub(crate) fn journal(data: &[u8]) {
    read(data.to_vec());
    let Ok(start) = head(WHOSE) else { return };
    read([&start, data].concat());

    let mut whole = start;
    for number in 2..8u64 {
        let (at, record) = (whole.len() as u64, vec![b'r'; usize::try_from(number).unwrap_or(0)]);
        // Every other one begins a batch.
        encode(&mut whole, number, at - at % 2, &record);
    }
    let Some((place, noise)) = data.split_first() else { return };
    let at = (usize::from(*place) * whole.len() / 256).min(whole.len());
    let end = (at + noise.len()).min(whole.len());
    whole.splice(at..end, noise.iter().copied().take(end - at));
    // (That noise makes nothing up is no law here: whoever looks for it long enough finds a frame.)
    read(whole);
}

/// What is replayed lies in the file, and once it is cut where its end is said to be, it is the same again.
fn read(bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    let Ok((found, end, next)) = replay(&bytes, "journal", WHOSE) else { return };
    assert!(end <= bytes.len() as u64 && next.checked_add(1).is_some());
    assert_eq!(found.torn, bytes.len() as u64 - end);
    assert!(found.damaged.iter().all(|damage| damage.span.start < damage.span.end && damage.span.end <= end));
    if found.damaged.is_empty() {
        let cut = bytes.slice(..usize::try_from(end).unwrap_or(usize::MAX));
        let (again, end_again, next_again) = replay(&cut, "journal", WHOSE).expect("what could be read can be read again");
        assert_eq!((&again.records, again.torn, end_again, next_again), (&found.records, 0, end, next));
    }
}
