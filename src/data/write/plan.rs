//! Plans which byte ranges of a file become which parts of an upload.
//!
//! COS wants parts of 1 MiB to 5 GiB, at most 10,000 of them, numbered in byte order; a program may have changed four bytes in the middle of
//! 100 GiB. [`plan`] turns (spans, limits) into one PUT or into parts, each either *sent* or *copied* from the base on the server. Pure.
//!
//! Guarantees: the parts tile `0..size`; all but the last have the smallest size or more, none more than the largest; there are no more of them
//! than allowed; only base ranges are copied. Sent are dirty bytes, holes (COS has none), and of the base: gaps and ends shorter than a part, and
//! what fills a short run up to one, at most 2 MiB a run. Only when that makes more parts than allowed, wider gaps are sent, too, and the
//! parts grow.
//!
//! Source: COS API, Upload Part (document 436/7750), Upload Part - Copy (436/8287) and Complete (436/7742), read 2026-11.

use std::ops::Range;

use crate::store::Capabilities;

/// Part sizes double after so many parts: 1,000 parts of 8 MiB, 1,000 of 16 MiB and so on hold 8 TiB.
const DOUBLES_AFTER: u32 = 1000;

/// What a span of the file is made of, as far as planning cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// Bytes that only this host has, or zeros.
    Ours,
    /// Untouched bytes of the base.
    Base,
}

/// How a part is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Its bytes are sent.
    Send,
    /// The store copies it from the same range of the base.
    Copy,
}

/// A part to be made, numbered by its place in the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) range: Range<u64>,
    pub(super) how: How,
}

/// How an object is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// By one request.
    Put,
    /// By an upload of these parts.
    Upload(Vec<Planned>),
}

/// The limits a plan keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) smallest: u64,
    pub(super) largest: u64,
    pub(super) most: u32,
    /// Size of the first parts; up to it an object is one PUT.
    pub(super) first: u64,
}

impl Limits {
    /// The limits of a bucket, for parts that begin at `first` bytes.
    pub(super) fn new(capabilities: &Capabilities, first: u64) -> Self {
        let Capabilities { smallest_part: smallest, largest_part: largest, most_parts: most, largest_put, .. } = *capabilities;
        Self { smallest, largest, most, first: first.clamp(smallest, largest_put.min(largest / 2)) }
    }

    /// Size of the part of that number (from 1), growing up to `most` bytes.
    pub(super) fn part_size(&self, number: u32, most: u64) -> u64 {
        let doublings = (number.saturating_sub(1) / DOUBLES_AFTER).min(32);
        self.first.saturating_mul(1 << doublings).min(most).clamp(self.smallest, self.largest - self.smallest)
    }
}

/// Plans the object whose bytes are `spans`: in order, without gaps, from 0. `None`: it is larger than any upload can be.
pub(super) fn plan(spans: &[(Range<u64>, Span)], limits: Limits) -> Option<Plan> {
    let size = spans.last().map_or(0, |(range, _)| range.end);
    if size <= limits.first {
        return Some(Plan::Put);
    }
    // A size that only a lie can have: its parts would not fit this host's memory.
    if size > limits.largest.saturating_mul(u64::from(limits.most)) {
        return None;
    }
    let mut attempt = limits;
    let mut shortest_copy = limits.smallest;
    loop {
        let parts = split(&runs(spans, limits.smallest, shortest_copy), attempt);
        if parts.len() <= limits.most as usize {
            return Some(Plan::Upload(parts));
        }
        if attempt.first >= limits.largest / 2 && shortest_copy > size {
            return None;
        }
        attempt.first = (attempt.first * 2).min(limits.largest / 2);
        shortest_copy = shortest_copy.saturating_mul(2);
    }
}

/// Joins the spans into runs that alternate between sent and copied, none shorter than a part but the last.
fn runs(spans: &[(Range<u64>, Span)], smallest: u64, shortest_copy: u64) -> Vec<Planned> {
    let mut runs: Vec<Planned> = Vec::new();
    // Neighbouring base spans are one copy, however they came.
    for (range, span) in spans {
        let how = if *span == Span::Base { How::Copy } else { How::Send };
        append(&mut runs, Planned { range: range.clone(), how });
    }
    let whole = std::mem::take(&mut runs);
    let end = whole.last().map_or(0, |run| run.range.end);
    for mut run in whole {
        if run.how == How::Copy && run.range.end - run.range.start < shortest_copy && run.range.end < end {
            run.how = How::Send;
        }
        append(&mut runs, run);
    }
    lengthen(runs, smallest)
}

/// Fills sent runs that are shorter than a part up from the copies beside them.
fn lengthen(runs: Vec<Planned>, smallest: u64) -> Vec<Planned> {
    let mut done: Vec<Planned> = Vec::new();
    let mut left = runs.into_iter().peekable();
    while let Some(mut run) = left.next() {
        // Swallowing a copy may join this run with the next one, which ends the need.
        while run.how == How::Send
            && run.range.end - run.range.start < smallest
            && let Some(right) = left.peek_mut()
        {
            let mut need = smallest - (run.range.end - run.range.start);
            if right.how == How::Send {
                run.range.end = right.range.end;
                left.next();
                continue;
            }
            // The last copy may become any length, others stay at least a part.
            let right_len = right.range.end - right.range.start;
            let left_spare = done.last().map_or(0, |copy| (copy.range.end - copy.range.start).saturating_sub(smallest));
            let right_spare = right_len.saturating_sub(smallest);
            if left_spare + right_spare < need {
                run.range.end = right.range.end;
                left.next();
                continue;
            }
            let taken = need.min(right_spare);
            right.range.start += taken;
            run.range.end += taken;
            need -= taken;
            if let Some(copy) = done.last_mut().filter(|_| need > 0) {
                copy.range.end -= need;
                run.range.start -= need;
            }
        }
        append(&mut done, run);
    }
    done
}

/// Appends `run`, joined with the last if both are made alike.
fn append(runs: &mut Vec<Planned>, run: Planned) {
    match runs.last_mut() {
        Some(last) if last.how == run.how => last.range.end = run.range.end,
        _ => runs.push(run),
    }
}

/// Cuts runs into parts.
fn split(runs: &[Planned], limits: Limits) -> Vec<Planned> {
    let mut parts = Vec::new();
    for run in runs {
        let mut at = run.range.start;
        while at < run.range.end {
            let left = run.range.end - at;
            let number = u32::try_from(parts.len()).unwrap_or(u32::MAX).saturating_add(1);
            let size = match run.how {
                How::Send => limits.part_size(number, u64::MAX),
                How::Copy => limits.largest - limits.smallest,
            };
            // What would be left over is too short for a part of its own.
            let len = if left < size + limits.smallest { left } else { size };
            parts.push(Planned { range: at..at + len, how: run.how });
            at += len;
        }
    }
    parts
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn cos(first: u64) -> Limits {
        Limits::new(&Capabilities::cos(), first)
    }

    /// Spans of these lengths, alternating from `first` on.
    fn spans(lens: &[u64], first: Span) -> Vec<(Range<u64>, Span)> {
        let mut at = 0;
        let mut span = first;
        let mut spans = Vec::new();
        for len in lens {
            spans.push((at..at + len, span));
            at += len;
            span = if span == Span::Base { Span::Ours } else { Span::Base };
        }
        spans
    }

    fn check(spans: &[(Range<u64>, Span)], parts: &[Planned], limits: Limits) {
        let size = spans.last().unwrap().0.end;
        assert!(parts.len() <= limits.most as usize);
        let mut at = 0;
        for part in parts {
            assert_eq!(part.range.start, at, "parts tile the file");
            let len = part.range.end - at;
            assert!(len >= limits.smallest || part.range.end == size, "{part:?}");
            assert!(len > 0 && len <= limits.largest, "{part:?}");
            at = part.range.end;
            if part.how == How::Copy {
                let touched = spans.iter().any(|(r, s)| *s == Span::Ours && r.start < part.range.end && part.range.start < r.end);
                assert!(!touched, "{part:?} copies what is not in the base");
            }
        }
        assert_eq!(at, size);
    }

    fn sent(parts: &[Planned]) -> u64 {
        parts.iter().filter(|part| part.how == How::Send).map(|part| part.range.end - part.range.start).sum()
    }

    proptest! {
        #[test]
        fn parts_keep_every_limit(
            lens in prop::collection::vec(prop_oneof![1..5000u64, 1..3 * MIB, 1..100 * MIB, 1..(12u64 << 30)], 1..40),
            ours in any::<bool>(),
            first in prop_oneof![Just(MIB), Just(8 * MIB), MIB..64 * MIB],
        ) {
            let spans = spans(&lens, if ours { Span::Ours } else { Span::Base });
            let size = spans.last().unwrap().0.end;
            let limits = cos(first);
            match plan(&spans, limits).unwrap() {
                Plan::Put => prop_assert!(size <= first),
                Plan::Upload(parts) => {
                    prop_assert!(size > first);
                    check(&spans, &parts, limits);
                    let (dirty, islands) = spans.iter().filter(|(_, span)| *span == Span::Ours)
                        .fold((0, 0), |(sum, n), (range, _)| (sum + range.end - range.start, n + 1));
                    prop_assert!(sent(&parts) <= dirty + (islands + 1) * 2 * MIB, "{} of {dirty} in {islands}", sent(&parts));
                }
            }
        }

        #[test]
        fn few_parts_are_enough(lens in prop::collection::vec(1..4 * MIB, 1..300), most in 3..20u32) {
            let spans = spans(&lens, Span::Base);
            let limits = Limits { most, ..cos(MIB) };
            if let Plan::Upload(parts) = plan(&spans, limits).unwrap() {
                check(&spans, &parts, limits);
            }
        }
    }

    #[test]
    fn an_edit_in_the_middle_of_a_gigabyte_is_one_small_part_between_two_copies() {
        let half = 512 * MIB + 12_345;
        let Some(Plan::Upload(parts)) = plan(&spans(&[half, 4096, (1 << 30) - half - 4096], Span::Base), cos(8 * MIB)) else { panic!() };
        assert_eq!(parts.iter().map(|part| part.how).collect::<Vec<_>>(), [How::Copy, How::Send, How::Copy]);
        assert_eq!(sent(&parts), MIB);
    }

    #[test]
    fn a_change_of_the_first_or_last_byte_and_an_append_cost_one_part() {
        for lens in [&[1, (1 << 30) - 1][..], &[0, (1 << 30) - 1, 1], &[0, (1 << 30) + 5, 4096]] {
            let spans: Vec<_> = spans(lens, Span::Ours).into_iter().filter(|(range, _)| !range.is_empty()).collect();
            let Some(Plan::Upload(parts)) = plan(&spans, cos(8 * MIB)) else { panic!() };
            check(&spans, &parts, cos(8 * MIB));
            assert_eq!(parts.len(), 2);
            assert!(sent(&parts) <= MIB);
        }
    }

    #[test]
    fn terabytes_fit_and_more_than_any_upload_does_not() {
        let Some(Plan::Upload(parts)) = plan(&[(0..40 << 40, Span::Ours)], cos(8 * MIB)) else { panic!() };
        check(&[(0..40 << 40, Span::Ours)], &parts, cos(8 * MIB));
        assert_eq!(plan(&[(0..50 << 40, Span::Ours)], cos(8 * MIB)), None);
    }

    #[test]
    fn a_base_of_absurd_size_is_refused_without_planning_it() {
        // What a lying HEAD may say: a plan of it would not fit this host's memory.
        assert_eq!(plan(&[(0..4096, Span::Ours), (4096..u64::MAX >> 1, Span::Base)], cos(8 * MIB)), None);
        assert_eq!(plan(&[(0..49 << 40, Span::Base)], cos(8 * MIB)), None);
    }

    #[test]
    fn ten_thousand_edits_and_more_still_fit() {
        let lens: Vec<u64> = (0..60_000).map(|n| if n % 2 == 0 { 3 * MIB } else { 4096 }).collect();
        let spans = spans(&lens, Span::Base);
        let Some(Plan::Upload(parts)) = plan(&spans, cos(8 * MIB)) else { panic!() };
        check(&spans, &parts, cos(8 * MIB));
    }
}
