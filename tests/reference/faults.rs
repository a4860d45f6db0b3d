//! The mixed fault script: 32 rules that together strike one request in ten.
//!
//! What COS cannot tell and no client can is left out: a flipped bit in a ranged GET, which has no checksum of its own, and an ETag that is wrong in the
//! answer that first names it.

use std::time::Duration;

use cosmount::emulator::{Action, Op, Rule};

/// Requests that a rule for all of them strikes, one for a single operation, and one for an operation that is rare.
const ANY: f64 = 0.0055;
const ONE: f64 = 0.025;
const RARE: f64 = 0.1;

pub fn script() -> Vec<Rule> {
    let any = |action| Rule::always(action).chance(ANY);
    let one = |op, action| Rule::on(op, action).chance(ONE);
    let rare = |op, action| Rule::on(op, action).chance(RARE);
    let millis = Duration::from_millis;
    vec![
        any(Action::slow_down()),
        any(Action::status(503, "ServiceUnavailable")),
        any(Action::status(500, "InternalError")),
        any(Action::status(429, "TooManyRequests")),
        any(Action::gateway(502)),
        any(Action::gateway(503)),
        any(Action::ResetBefore),
        any(Action::LoseAnswer),
        any(Action::NoCrc),
        any(Action::Delay { delay: millis(150) }),
        any(Action::ResetInResponse { after: 0 }),
        Rule::always(Action::BlackHole).chance(ANY / 8.0),
        one(Op::PutObject, Action::ResetInRequest { after: 0 }),
        one(Op::PutObject, Action::LoseAnswer),
        one(Op::PutObject, Action::WrongCrc),
        one(Op::PutObject, Action::PathConflict { concurrent_only: false }),
        one(Op::PutObject, Action::SlowRequest { bytes_per_second: 256 << 10 }),
        rare(Op::UploadPart, Action::ResetInRequest { after: 300_000 }),
        rare(Op::UploadPart, Action::WrongCrc),
        one(Op::CopyObject, Action::LoseAnswer),
        one(Op::CopyObject, Action::ErrorIn200 { code: "InternalError".to_owned() }),
        one(Op::DeleteObject, Action::LoseAnswer),
        rare(Op::DeleteMany, Action::ResetBefore),
        rare(Op::CompleteUpload, Action::LoseAnswer),
        rare(Op::CompleteUpload, Action::EarlyOk { blanks: 3, interval: millis(20), error: None }),
        one(Op::GetObject, Action::ResetInResponse { after: 700 }),
        one(Op::GetObject, Action::TruncateBody { keep: 1000, honest: false }),
        one(Op::GetObject, Action::WrongRange),
        one(Op::GetObject, Action::WrongETag),
        one(Op::GetObject, Action::SlowBody { bytes_per_second: 256 << 10 }),
        one(Op::HeadObject, Action::gateway(404)),
        one(Op::ListObjects, Action::Body { text: "<ListBucketResult><Name>".to_owned() }),
    ]
}
