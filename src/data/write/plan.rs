//! Plans which byte ranges of a file become which parts of an upload.
//!
//! COS wants parts of 1 MiB to 5 GiB, at most 10,000 of them, numbered in byte order; a program may have changed four bytes in the middle of
//! 100 GiB. [`plan`] turns (spans, limits) into one PUT or into parts, each either *sent* or *copied* on the server, from the base or from another
//! object that a range was copied of. Pure.
//!
//! Guarantees: the parts tile `0..size`; all but the last have the smallest size or more, none more than the largest; there are no more of them
//! than allowed; a copied part lies within one span. As few bytes are sent as these rules permit: the dirty ones, holes (COS has none), and
//! of what could be copied at most 1 MiB for each run of dirty bytes and each seam between two sources, because a run shorter than a part
//! is filled up from its neighbours, or joined with the next. Only where that makes more parts than allowed more is sent.
//!
//! Why 1 MiB a run is enough: a short run takes what it lacks, less than a part, from the copies beside it. If these cannot spare it they are
//! shorter than two parts; the one behind is then sent whole, less than 2 MiB, and for that the next run needs nothing, for it is the same run.
//! A copy shorter than a part goes the same way and fills as much as it costs; at the end of the file anything is long enough.
//!
//! [`choose`] finds the least by looking at each copy in turn: it is made or not, and what came before matters only by how much the last copy
//! made can spare and how long the run behind it is. Ways that are worse in all of that are forgotten, which leaves a few at each step.
//!
//! Source: COS API, Upload Part (document 436/7750), Upload Part - Copy (436/8287) and Complete (436/7742), read 2026-11.

use std::ops::Range;

use crate::store::Capabilities;

/// Part sizes double after so many parts: 1,000 parts of 8 MiB, 1,000 of 16 MiB and so on hold 8 TiB.
const DOUBLES_AFTER: u32 = 1000;
/// Up to so many spans the fewest bytes within a number of parts are found exactly; beyond that the price of a part is searched for, which may
/// send a little more.
const FEW_SPANS: usize = 64;
/// How exactly.
const PRECISION: u64 = 128;

/// The number of the base among the objects that are copied from.
pub(super) const BASE: usize = 0;

/// What a span of the file is made of, as far as planning cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// Bytes that only this host has, or zeros.
    Ours,
    /// Bytes of the object with that number, beginning there at this offset.
    Of(usize, u64),
}

/// How a part is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Its bytes are sent.
    Send,
    /// The store copies it from the object with that number, beginning there at this offset.
    Copy(usize, u64),
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
    /// Invariant: at least twice the smallest.
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

    /// Whether runs can be cut into no more parts than allowed.
    fn fit(&self, runs: &[Planned]) -> bool {
        runs.iter().map(|run| length(&run.range).div_ceil(self.largest)).sum::<u64>() <= u64::from(self.most)
    }
}

/// Plans the object whose bytes are `spans`: in order, without gaps, from 0. `None`: it is larger than any upload can be.
pub(super) fn plan(spans: &[(Range<u64>, Span)], limits: Limits) -> Option<Plan> {
    let size = spans.last().map_or(0, |(range, _)| range.end);
    // Of the base one PUT is cheaper to send again than three requests; what was copied is not on this host at all.
    let saves =
        |(range, span): &(Range<u64>, Span)| matches!(span, Span::Of(source, _) if *source != BASE) && length(range) >= limits.smallest;
    if size <= limits.first && !spans.iter().any(saves) {
        return Some(Plan::Put);
    }
    // A size that only a lie can have: its parts would not fit this host's memory.
    if size > limits.largest.saturating_mul(u64::from(limits.most)) {
        return None;
    }
    let spans = joined(spans);
    let mut runs = choose(&spans, limits, Aim::FewestBytes);
    if !limits.fit(&runs) {
        runs = choose_few(&spans, limits);
    }
    let mut growing = limits;
    loop {
        let parts = split(&runs, |number| growing.part_size(number, u64::MAX), limits);
        if parts.len() <= limits.most as usize {
            return Some(Plan::Upload(parts));
        }
        if growing.first >= limits.largest / 2 {
            return Some(Plan::Upload(split(&runs, |_| limits.largest, limits)));
        }
        growing.first = (growing.first * 2).min(limits.largest / 2);
    }
}

/// Neighbours that are one, however they came.
fn joined(spans: &[(Range<u64>, Span)]) -> Vec<Planned> {
    let mut runs = Vec::new();
    for (range, span) in spans.iter().filter(|(range, _)| !range.is_empty()) {
        let how = match *span {
            Span::Ours => How::Send,
            Span::Of(source, at) => How::Copy(source, at),
        };
        append(&mut runs, Planned { range: range.clone(), how });
    }
    runs
}

/// Appends `run`, joined with the last if both are made alike.
fn append(runs: &mut Vec<Planned>, run: Planned) {
    if let Some(last) = runs.last_mut() {
        let goes_on = match (last.how, run.how) {
            (How::Send, How::Send) => true,
            (How::Copy(source, at), How::Copy(next, from)) => source == next && at + length(&last.range) == from,
            _ => false,
        };
        if goes_on {
            last.range.end = run.range.end;
            return;
        }
    }
    runs.push(run);
}

/// What is best.
#[derive(Debug, Clone, Copy)]
enum Aim {
    /// Few bytes sent, whatever the number of parts.
    FewestBytes,
    /// The same within so many parts.
    Within(u64),
    /// Few bytes, and a part counts as so many.
    Priced(u64),
}

impl Aim {
    fn price(self) -> i128 {
        if let Self::Priced(price) = self { price.into() } else { 0 }
    }
}

/// A way to make the file so far.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Bytes copied, less the price of the parts.
    gain: i128,
    /// What the last copy made could give to the run behind it.
    spare: u64,
    /// Length of the run behind it.
    run: u64,
    /// Parts before that run.
    parts: u64,
    /// The last copy made, in the list of all that were tried.
    last: Option<usize>,
}

/// A copy that is made.
#[derive(Debug, Clone, Copy)]
struct Kept {
    span: usize,
    /// Taken from its head by the run before it.
    head: u64,
    /// Taken by that run from the tail of the copy before.
    from_before: u64,
    before: Option<usize>,
}

/// The fewest bytes for which the parts are not too many.
fn choose_few(spans: &[Planned], limits: Limits) -> Vec<Planned> {
    if spans.len() <= FEW_SPANS {
        let runs = choose(spans, limits, Aim::Within(limits.most.into()));
        if limits.fit(&runs) {
            return runs;
        }
    }
    // At this price there are as few parts as can be, which always fit.
    let (mut low, mut high) = (0, spans.last().map_or(0, |span| span.range.end) + 1);
    let mut too_many = choose(spans, limits, Aim::FewestBytes);
    let mut best = choose(spans, limits, Aim::Priced(high));
    while high - low > 1.max(low / PRECISION) {
        let price = low + (high - low) / 2;
        let runs = choose(spans, limits, Aim::Priced(price));
        if limits.fit(&runs) {
            (high, best) = (price, runs);
        } else {
            (low, too_many) = (price, runs);
        }
    }
    // Copies of one length have one price: some of them may fit though all of them do not.
    std::cmp::min_by_key(thin(&too_many, limits), best, |runs| sent(runs))
}

/// Sends the shortest copies of `runs`, too, as few as make the parts fit.
fn thin(runs: &[Planned], limits: Limits) -> Vec<Planned> {
    let mut copies: Vec<(u64, usize)> =
        runs.iter().enumerate().filter(|(_, run)| run.how != How::Send).map(|(index, run)| (length(&run.range), index)).collect();
    copies.sort_unstable();
    let without = |fewer: usize| {
        let mut thinned: Vec<Planned> = runs.to_vec();
        copies[..fewer].iter().for_each(|(_, index)| thinned[*index].how = How::Send);
        thinned.into_iter().fold(Vec::new(), |mut runs, run| {
            append(&mut runs, run);
            runs
        })
    };
    let (mut fits_not, mut fits) = (0, copies.len());
    while fits - fits_not > 1 {
        let middle = usize::midpoint(fits_not, fits);
        if limits.fit(&without(middle)) { fits = middle } else { fits_not = middle }
    }
    without(fits)
}

fn sent(runs: &[Planned]) -> u64 {
    runs.iter().filter(|run| run.how == How::Send).map(|run| length(&run.range)).sum()
}

/// Which of `spans` are copied, and how much of them; the rest is sent.
fn choose(spans: &[Planned], limits: Limits, aim: Aim) -> Vec<Planned> {
    let Limits { smallest, largest, .. } = limits;
    let price = aim.price();
    let mut kept: Vec<Kept> = Vec::new();
    let mut ways = vec![Way { gain: 0, spare: 0, run: 0, parts: 0, last: None }];
    for (index, span) in spans.iter().enumerate() {
        let len = length(&span.range);
        let is_last = index + 1 == spans.len();
        let mut next = Vec::with_capacity(ways.len() + 1);
        for way in &ways {
            if matches!(span.how, How::Copy(..))
                && let Some((head, from_before)) = way.fill(len, is_last, smallest)
            {
                let run = if way.run == 0 { 0 } else { way.run + head + from_before };
                let made = len - head;
                let parts = run.div_ceil(largest) + made.div_ceil(largest);
                kept.push(Kept { span: index, head, from_before, before: way.last });
                next.push(Way {
                    gain: way.gain + i128::from(made) - i128::from(from_before) - price * i128::from(parts),
                    spare: made.saturating_sub(smallest).min(smallest),
                    run: 0,
                    parts: way.parts + parts,
                    last: Some(kept.len() - 1),
                });
            }
            next.push(Way { run: way.run + len, ..*way });
        }
        ways = best_of(next, limits, aim);
    }
    let fits = |way: &&Way| if let Aim::Within(most) = aim { way.so_far(limits, aim).1 <= most } else { true };
    // Of equals the fewest parts. Where none fits the caller sees it.
    let best = ways.iter().filter(fits).max_by_key(|way| {
        let (gain, parts) = way.so_far(limits, aim);
        (gain, std::cmp::Reverse(parts))
    });
    runs_of(spans, &kept, best.and_then(|way| way.last))
}

impl Way {
    /// What the run behind the last copy takes from the head of the next one, `len` bytes long, and from the tail of the last, so that it is
    /// a part. `None`: they cannot spare it, or the next one is no part itself.
    fn fill(&self, len: u64, is_last: bool, smallest: u64) -> Option<(u64, u64)> {
        let need = if self.run == 0 { 0 } else { smallest.saturating_sub(self.run) };
        let from_before = need.min(self.spare);
        let head = need - from_before;
        let least = if is_last { 1 } else { smallest };
        (len >= head + least).then_some((head, from_before))
    }

    /// Gain and parts, if the file ended here.
    fn so_far(&self, limits: Limits, aim: Aim) -> (i128, u64) {
        let open = self.run.div_ceil(limits.largest);
        (self.gain - aim.price() * i128::from(open), self.parts + open)
    }

    /// Whether whatever follows `other` could follow this, and be no worse.
    fn is_as_good_as(&self, other: &Self, limits: Limits, aim: Aim) -> bool {
        let longer = self.run == other.run || self.run > other.run && other.run > 0;
        let fills = self.run >= limits.smallest || longer && self.spare >= other.spare;
        let ((gain, parts), (other_gain, other_parts)) = (self.so_far(limits, aim), other.so_far(limits, aim));
        gain >= other_gain && fills && (parts <= other_parts || !matches!(aim, Aim::Within(_)))
    }
}

/// Without those that another is as good as.
fn best_of(mut ways: Vec<Way>, limits: Limits, aim: Aim) -> Vec<Way> {
    ways.sort_unstable_by_key(|way| {
        let (gain, parts) = way.so_far(limits, aim);
        (std::cmp::Reverse(gain), parts)
    });
    let mut best: Vec<Way> = Vec::new();
    for way in ways {
        if !best.iter().any(|other| other.is_as_good_as(&way, limits, aim)) {
            best.push(way);
        }
    }
    best
}

/// The runs that a chain of copies leaves.
fn runs_of(spans: &[Planned], kept: &[Kept], last: Option<usize>) -> Vec<Planned> {
    let mut copies: Vec<(Range<u64>, How)> = Vec::new();
    let (mut at, mut taken) = (last, 0);
    while let Some(copy) = at.map(|at| kept[at]) {
        let Planned { range, how } = &spans[copy.span];
        let How::Copy(source, from) = *how else { break };
        copies.push((range.start + copy.head..range.end - taken, How::Copy(source, from + copy.head)));
        (at, taken) = (copy.before, copy.from_before);
    }
    let mut runs = Vec::new();
    let mut at = 0;
    for (range, how) in copies.into_iter().rev() {
        if at < range.start {
            runs.push(Planned { range: at..range.start, how: How::Send });
        }
        at = range.end;
        runs.push(Planned { range, how });
    }
    let end = spans.last().map_or(0, |span| span.range.end);
    if at < end {
        runs.push(Planned { range: at..end, how: How::Send });
    }
    runs
}

/// Cuts runs into parts: what is sent into parts of that size by number, the rest into equal ones as large as may be.
fn split(runs: &[Planned], size: impl Fn(u32) -> u64, limits: Limits) -> Vec<Planned> {
    let mut parts = Vec::new();
    for run in runs {
        let mut at = run.range.start;
        while at < run.range.end {
            let left = run.range.end - at;
            let equal = left.div_ceil(left.div_ceil(limits.largest));
            let number = u32::try_from(parts.len()).unwrap_or(u32::MAX).saturating_add(1);
            let wanted = if run.how == How::Send { size(number).min(equal) } else { equal };
            // What would be left over is too short for a part of its own.
            let len = if left < wanted + limits.smallest && left <= limits.largest { left } else { wanted };
            let how = match run.how {
                How::Send => How::Send,
                How::Copy(source, from) => How::Copy(source, from + (at - run.range.start)),
            };
            parts.push(Planned { range: at..at + len, how });
            at += len;
        }
    }
    parts
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;

    fn cos(first: u64) -> Limits {
        Limits::new(&Capabilities::cos(), first)
    }

    /// Spans of these lengths, alternating from `first` on; base ranges are at their own offsets.
    fn spans(lens: &[u64], ours_first: bool) -> Vec<(Range<u64>, Span)> {
        let mut at = 0;
        let mut ours = ours_first;
        let mut spans = Vec::new();
        for len in lens {
            spans.push((at..at + len, if ours { Span::Ours } else { Span::Of(0, at) }));
            at += len;
            ours = !ours;
        }
        spans
    }

    fn check(spans: &[(Range<u64>, Span)], parts: &[Planned], limits: Limits) {
        let size = spans.last().unwrap().0.end;
        assert!(parts.len() <= limits.most as usize, "{} parts", parts.len());
        let mut at = 0;
        for part in parts {
            assert_eq!(part.range.start, at, "parts tile the file");
            let len = part.range.end - at;
            assert!(len >= limits.smallest || part.range.end == size, "{part:?}");
            assert!(len > 0 && len <= limits.largest, "{part:?}");
            at = part.range.end;
            if let How::Copy(source, from) = part.how {
                let mut inside = spans.iter().filter(|(range, _)| range.start < part.range.end && part.range.start < range.end);
                assert!(
                    inside.all(|(range, span)| match *span {
                        Span::Of(of, at) => of == source && at.wrapping_sub(range.start) == from.wrapping_sub(part.range.start),
                        Span::Ours => false,
                    }),
                    "{part:?} copies something else"
                );
            }
        }
        assert_eq!(at, size);
    }

    fn dirty(spans: &[(Range<u64>, Span)]) -> u64 {
        spans.iter().filter(|(_, span)| *span == Span::Ours).map(|(range, _)| length(range)).sum()
    }

    /// Runs of dirty bytes, and seams between what is copied of two places.
    fn runs_and_seams(spans: &[(Range<u64>, Span)]) -> u64 {
        let runs = joined(spans);
        let dirty = runs.iter().filter(|run| run.how == How::Send).count();
        let seams = runs.windows(2).filter(|pair| pair.iter().all(|run| run.how != How::Send)).count();
        (dirty + seams) as u64
    }

    /// Least bytes sent within `most` parts, byte by byte: every part may begin anywhere.
    fn least(spans: &[(Range<u64>, Span)], limits: Limits) -> Option<u64> {
        let size = spans.last().unwrap().0.end;
        let runs = joined(spans);
        let mut best = vec![vec![None; size as usize + 1]; limits.most as usize + 1];
        best[0][0] = Some(0);
        for parts in 0..limits.most as usize {
            for at in 0..size {
                let Some(so_far) = best[parts][at as usize] else { continue };
                for end in at + 1..=size.min(at + limits.largest) {
                    if end - at < limits.smallest && end < size {
                        continue;
                    }
                    let copied = runs.iter().any(|run| run.how != How::Send && run.range.start <= at && end <= run.range.end);
                    let cost = so_far + if copied { 0 } else { end - at };
                    let there: &mut Option<u64> = &mut best[parts + 1][end as usize];
                    *there = Some(there.map_or(cost, |there| there.min(cost)));
                }
            }
        }
        best.iter().filter_map(|row| row[size as usize]).min()
    }

    fn small_spans() -> impl Strategy<Value = Vec<(Range<u64>, Span)>> {
        prop::collection::vec((1..9u64, prop_oneof![2 => Just(None), 3 => (0..3usize).prop_map(Some)]), 1..9).prop_map(|lens| {
            let mut at = 0;
            let place = |(len, source): (u64, Option<usize>)| {
                let range = at..at + len;
                at += len;
                // A source of its own offset each time, or the base at its own.
                let span = source.map_or(Span::Ours, |source| Span::Of(source, if source == 0 { range.start } else { range.start * 3 }));
                (range, span)
            };
            lens.into_iter().map(place).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn no_plan_sends_less(spans in small_spans(), smallest in 1..4u64, room in 0..8u64) {
            let limits = Limits { smallest, largest: 2 * smallest + room, most: 100, first: smallest };
            if let Plan::Upload(parts) = plan(&spans, limits).unwrap() {
                check(&spans, &parts, limits);
                prop_assert_eq!(Some(sent(&parts)), least(&spans, limits), "{:?}", parts);
            }
        }

        #[test]
        fn no_plan_of_so_few_parts_sends_less(spans in small_spans(), smallest in 1..4u64, most in 1..7u32) {
            let limits = Limits { smallest, largest: 100, most, first: smallest };
            if let Plan::Upload(parts) = plan(&spans, limits).unwrap() {
                check(&spans, &parts, limits);
                prop_assert_eq!(Some(sent(&parts)), least(&spans, limits), "{:?}", parts);
            }
        }

        #[test]
        fn few_small_parts_keep_every_limit(spans in small_spans(), smallest in 1..4u64, room in 0..8u64, most in 1..12u32) {
            let limits = Limits { smallest, largest: 2 * smallest + room, most, first: smallest };
            match plan(&spans, limits) {
                Some(Plan::Upload(parts)) => check(&spans, &parts, limits),
                Some(Plan::Put) => {}
                None => prop_assert!(spans.last().unwrap().0.end > limits.largest * u64::from(most)),
            }
        }

        #[test]
        fn at_most_a_mebibyte_a_run_is_sent_beside_what_is_dirty(
            lens in prop::collection::vec(
                prop_oneof![1..5000u64, 1..3 * MIB, MIB..2 * MIB, 1..100 * MIB, 1..(12u64 << 30), 1..TIB], 1..40),
            ours in any::<bool>(),
            first in prop_oneof![Just(MIB), Just(8 * MIB), MIB..64 * MIB],
        ) {
            let spans = spans(&lens, ours);
            let size = spans.last().unwrap().0.end;
            let limits = cos(first);
            match plan(&spans, limits).unwrap() {
                Plan::Put => prop_assert!(size <= first),
                Plan::Upload(parts) => {
                    prop_assert!(size > first);
                    check(&spans, &parts, limits);
                    let extra = sent(&parts) - dirty(&spans);
                    prop_assert!(extra <= runs_and_seams(&spans) * MIB, "{extra} beside {} runs", runs_and_seams(&spans));
                }
            }
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn what_the_part_limit_forces_is_no_more_than_the_shortest_copies(lens in prop::collection::vec(1..4 * MIB, 80..300), most in 3..60u32) {
            let spans = spans(&lens, false);
            let limits = Limits { most, ..cos(MIB) };
            if let Plan::Upload(parts) = plan(&spans, limits).unwrap() {
                check(&spans, &parts, limits);
                // Keeping the longest copies alone is a plan, too, as each of them with the run before it is two parts.
                let mut copies: Vec<u64> = joined(&spans).iter().filter(|run| run.how != How::Send).map(|run| length(&run.range)).collect();
                copies.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
                let kept: u64 = copies.iter().take(most as usize / 2 - 1).map(|len| len.saturating_sub(2 * MIB)).sum();
                let size = spans.last().unwrap().0.end;
                prop_assert!(sent(&parts) <= size - kept, "{} of {size}, {kept} can be kept", sent(&parts));
            }
        }
    }

    #[test]
    fn an_edit_in_the_middle_of_a_large_object_is_one_small_part_among_copies() {
        for size in [1 << 30, 10 << 30, TIB, 48 * TIB] {
            let half = size / 2 + 12_345;
            let Some(Plan::Upload(parts)) = plan(&spans(&[half, 4096, size - half - 4096], false), cos(8 * MIB)) else { panic!() };
            assert_eq!(sent(&parts), MIB);
            assert_eq!(parts.iter().filter(|part| part.how == How::Send).count(), 1);
        }
    }

    #[test]
    fn a_change_of_the_first_or_last_byte_and_an_append_cost_one_part() {
        for lens in [&[1, (1 << 30) - 1][..], &[0, (1 << 30) - 1, 1], &[0, (1 << 30) + 5, 4096]] {
            let spans: Vec<_> = spans(lens, true).into_iter().filter(|(range, _)| !range.is_empty()).collect();
            let Some(Plan::Upload(parts)) = plan(&spans, cos(8 * MIB)) else { panic!() };
            check(&spans, &parts, cos(8 * MIB));
            assert_eq!(parts.len(), 2);
            assert!(sent(&parts) <= MIB);
        }
    }

    #[test]
    fn terabytes_fit_and_more_than_any_upload_does_not() {
        let largest = 10_000 * (5 << 30);
        for size in [40 * TIB, largest] {
            let spans = [(0..size, Span::Ours)];
            let Some(Plan::Upload(parts)) = plan(&spans, cos(8 * MIB)) else { panic!() };
            check(&spans, &parts, cos(8 * MIB));
            let Some(Plan::Upload(parts)) = plan(&[(0..size, Span::Of(0, 0))], cos(8 * MIB)) else { panic!() };
            assert_eq!(sent(&parts), 0);
        }
        assert_eq!(plan(&[(0..largest + 1, Span::Ours)], cos(8 * MIB)), None);
    }

    #[test]
    fn a_base_of_absurd_size_is_refused_without_planning_it() {
        // What a lying HEAD may say: a plan of it would not fit this host's memory.
        assert_eq!(plan(&[(0..4096, Span::Ours), (4096..u64::MAX >> 1, Span::Of(0, 4096))], cos(8 * MIB)), None);
    }

    #[test]
    fn ten_thousand_edits_and_more_still_fit() {
        // Copies that can spare a whole part; and such that can spare little, or are none.
        for copy in [|n: u64| 3 * MIB + n * 7, |n| n * 104_729 % (2 * MIB) + 1] {
            let lens: Vec<u64> = (0..21_000).map(|n| if n % 2 == 0 { copy(n) } else { 4096 }).collect();
            let spans = spans(&lens, false);
            let Some(Plan::Upload(parts)) = plan(&spans, cos(8 * MIB)) else { panic!() };
            check(&spans, &parts, cos(8 * MIB));
            let copied = spans.last().unwrap().0.end - sent(&parts);
            assert!(copied > 4000 * MIB, "{copied} in {} parts", parts.len());
        }
    }

    #[test]
    fn a_range_of_another_object_is_copied_where_the_whole_would_be_one_put() {
        let spans = [(0..2 * MIB, Span::Of(1, 77)), (2 * MIB..2 * MIB + 5, Span::Ours)];
        let Some(Plan::Upload(parts)) = plan(&spans, cos(8 * MIB)) else { panic!() };
        assert_eq!(parts.iter().map(|part| part.how).collect::<Vec<_>>(), [How::Copy(1, 77), How::Send]);
        assert_eq!(plan(&[(0..MIB - 1, Span::Of(1, 77)), (MIB - 1..MIB, Span::Ours)], cos(8 * MIB)), Some(Plan::Put));
    }
}
