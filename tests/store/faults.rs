//! Answers that are lost, late, refused or broken, from the emulator: each is ridden out, settled, or said.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use cosmount::{
    emulator::{Account, Action, Config, Op, Rule, Token},
    store::{
        Key, Kind, ListRequest, Outcome, PartNumber, Payload, Replaces, Segment, Source,
        cos::{Credentials, NoCredentials, Provider, Refused},
    },
    support::Metrics,
};
use parking_lot::Mutex;

use crate::{BUCKET, Stage, client, clock, context, key, meta, name, noise};

impl Stage {
    fn fault(&self, op: Op, action: Action) -> u64 {
        self.server().faults().add(Rule::on(op, action).times(1))
    }

    fn always(&self, op: Op, action: Action) -> u64 {
        self.server().faults().add(Rule::on(op, action))
    }

    async fn impatient() -> Self {
        Self::cos_with(Config::with_bucket(BUCKET), Duration::from_millis(1500)).await
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_put_is_settled_by_the_token() {
    let stage = Stage::cos().await;
    stage.fault(Op::PutObject, Action::LoseAnswer);
    let stored = stage.bucket.put(&stage.cx, &key("a"), &meta(1), noise(1000).into(), &Replaces::Absent).await.unwrap();
    assert_eq!((stage.requests(Op::PutObject), stage.requests(Op::HeadObject)), (1, 1));
    assert_eq!(stage.read(&stored.version).await.unwrap(), noise(1000));
}

#[tokio::test]
async fn a_lost_put_is_put_again() {
    let stage = Stage::cos().await;
    stage.fault(Op::PutObject, Action::ResetInRequest { after: 10 });
    stage.bucket.put(&stage.cx, &key("a"), &meta(1), noise(1 << 20).into(), &Replaces::Absent).await.unwrap();
    assert_eq!((stage.requests(Op::PutObject), stage.requests(Op::HeadObject)), (2, 1));
    assert_eq!(stage.peek(&key("a")).unwrap(), noise(1 << 20));
}

#[tokio::test]
async fn a_lost_put_does_not_overwrite_what_came_meanwhile() {
    let stage = Stage::cos().await;
    let base = stage.put("a", "base").await.version;
    stage.fault(Op::PutObject, Action::ResetBefore);
    stage.fault(Op::HeadObject, Action::Delay { delay: Duration::from_millis(300) });
    let target = key("a");
    let payload = Payload::from(Bytes::from_static(b"ours"));
    let (fresh, base) = (meta(2), Replaces::Version(base));
    let put = stage.bucket.put(&stage.cx, &target, &fresh, payload, &base);
    let foreign = async {
        while stage.requests(Op::HeadObject) == 0 {
            tokio::task::yield_now().await;
        }
        stage.foreign(&target, "theirs");
    };
    let (put, ()) = tokio::join!(put, foreign);
    assert_eq!(put.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(stage.peek(&target).unwrap(), "theirs");
    // One put the base, one was lost.
    assert_eq!(stage.requests(Op::PutObject), 2);
}

#[tokio::test]
async fn a_lost_answer_to_a_complete_is_settled_by_the_token() {
    for repeat in [false, true] {
        let stage = Stage::cos().await;
        let upload = stage.bucket.create_upload(&stage.cx, &key("a"), &meta(1)).await.unwrap();
        let part = stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), noise(1000).into()).await.unwrap();
        stage.fault(Op::CompleteUpload, Action::LoseAnswer);
        if repeat {
            // The HEAD that would settle it is refused, too: it is asked again, the complete is not.
            stage.fault(Op::HeadObject, Action::slow_down());
        }
        let stored = stage.bucket.complete_upload(&stage.cx, &upload, &[part], &Replaces::Absent).await.unwrap();
        assert_eq!(stored.version.size, 1000);
        assert_eq!((stage.requests(Op::CompleteUpload), stage.requests(Op::HeadObject)), (1, 1 + u64::from(repeat)));
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_copy_is_settled_by_the_token() {
    let stage = Stage::cos().await;
    let source = stage.put("a", noise(1000)).await.version;
    stage.fault(Op::CopyObject, Action::LoseAnswer);
    let stored = stage.bucket.copy(&stage.cx, &source, &key("b"), &meta(2), &Replaces::Absent).await.unwrap();
    assert_eq!((stored.version.size, stage.requests(Op::CopyObject)), (1000, 1));
}

#[tokio::test]
async fn a_lost_answer_to_a_delete_is_a_delete() {
    let stage = Stage::cos().await;
    let version = stage.put("a", "x").await.version;
    stage.fault(Op::DeleteObject, Action::LoseAnswer);
    stage.bucket.delete(&stage.cx, &key("a"), Some(&version)).await.unwrap();
    assert_eq!((stage.requests(Op::DeleteObject), stage.peek(&key("a"))), (1, None));
}

/// The answer to `op`, which `work` sends for a key, is lost; before anybody can look, somebody else writes that key.
async fn with_a_foreign_write_in_the_window<T>(stage: &Stage, op: Op, target: &Key, work: impl Future<Output = T>) -> T {
    stage.server().clear_log();
    stage.fault(op, Action::LoseAnswer);
    stage.fault(Op::HeadObject, Action::Delay { delay: Duration::from_millis(60) });
    let foreign = async {
        while stage.requests(Op::HeadObject) == 0 {
            clock().sleep(Duration::from_millis(1)).await;
        }
        stage.foreign(target, "theirs");
    };
    let (done, ()) = tokio::join!(work, foreign);
    assert_eq!(stage.requests(op), 1, "{op} is not repeated over what is newer");
    assert_eq!(stage.peek(target).unwrap(), "theirs", "{op}");
    done
}

#[tokio::test]
async fn what_is_newer_is_not_touched_after_a_lost_answer() {
    let rounds: u8 = std::env::var("COSMOUNT_LOST").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4);
    let stage = Stage::cos().await;
    let cx = || stage.cx.detached(cosmount::support::Urgency::WriteOut);
    let source = stage.put("source", noise(1000)).await.version;
    for round in 0..rounds {
        let at = |what: &str| key(&format!("{what}/{round}"));
        let (target, cx, fresh) = (at("put"), cx(), meta(round));
        let put = stage.bucket.put(&cx, &target, &fresh, noise(1000).into(), &Replaces::Absent);
        let put = with_a_foreign_write_in_the_window(&stage, Op::PutObject, &target, put).await;
        assert_eq!(put.unwrap_err().kind(), Kind::Exists);

        let target = at("copy");
        let base = Replaces::Version(stage.put(target.as_str(), "base").await.version);
        let copy = stage.bucket.copy(&cx, &source, &target, &fresh, &base);
        let copy = with_a_foreign_write_in_the_window(&stage, Op::CopyObject, &target, copy).await;
        assert_eq!(copy.unwrap_err().kind(), Kind::Conflict);

        let target = at("complete");
        let upload = stage.bucket.create_upload(&cx, &target, &fresh).await.unwrap();
        let part = stage.bucket.upload_part(&cx, &upload, PartNumber(1), noise(1000).into()).await.unwrap();
        let parts = [part];
        let complete = stage.bucket.complete_upload(&cx, &upload, &parts, &Replaces::Absent);
        let complete = with_a_foreign_write_in_the_window(&stage, Op::CompleteUpload, &target, complete).await;
        assert_eq!(complete.unwrap_err().kind(), Kind::Exists);

        let target = at("delete");
        let version = stage.put(target.as_str(), "old").await.version;
        let delete = stage.bucket.delete(&cx, &target, Some(&version));
        with_a_foreign_write_in_the_window(&stage, Op::DeleteObject, &target, delete).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_delete_is_repeated() {
    let stage = Stage::cos().await;
    let version = stage.put("a", "x").await.version;
    stage.fault(Op::DeleteObject, Action::ResetBefore);
    stage.bucket.delete(&stage.cx, &key("a"), Some(&version)).await.unwrap();
    assert_eq!((stage.requests(Op::DeleteObject), stage.peek(&key("a"))), (2, None));
}

#[tokio::test]
async fn a_lost_answer_to_many_deletes_is_settled_key_by_key() {
    let stage = Stage::cos().await;
    let mut gone = Vec::new();
    for index in 0..20 {
        gone.push(stage.put(&format!("d/{index}"), "x").await.version);
    }
    stage.fault(Op::DeleteMany, Action::LoseAnswer);
    let refused = stage.bucket.delete_many(&stage.cx, &gone).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!((stage.requests(Op::DeleteMany), stage.requests(Op::HeadObject), stage.requests(Op::DeleteObject)), (1, 20, 0));
}

#[tokio::test]
async fn a_lost_request_of_many_deletes_deletes_what_was_to_go_however_young_and_leaves_what_is_newer() {
    let stage = Stage::cos().await;
    let mut gone = Vec::new();
    for name in ["old", "young", "other bytes", "written again"] {
        gone.push(stage.put(name, "x").await.version);
    }
    stage.foreign(&key("other bytes"), "y");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(stage.server().set_last_modified(BUCKET, "old", 1_700_000_000));
    assert!(stage.server().set_last_modified(BUCKET, "written again", now + 60));
    stage.fault(Op::DeleteMany, Action::ResetBefore);
    let refused = stage.bucket.delete_many(&stage.cx, &gone).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(stage.server().keys(BUCKET, ""), ["other bytes", "written again"]);
}

#[tokio::test]
async fn a_storm_is_ridden_out_with_few_requests() {
    let stage = Stage::cos().await;
    let rule = stage.always(Op::PutObject, Action::slow_down());
    let storm = async {
        clock().sleep(Duration::from_secs(2)).await;
        stage.server().faults().remove(rule);
    };
    let payload = Payload::from(noise(10_000));
    let (absent, fresh, target) = (Replaces::Absent, meta(1), key("a"));
    let (put, ()) = tokio::join!(stage.bucket.put(&stage.cx, &target, &fresh, payload, &absent), storm);
    put.unwrap();
    let requests = stage.requests(Op::PutObject);
    assert!((2..40).contains(&requests), "{requests} requests in two seconds");
    assert_eq!(stage.requests(Op::HeadObject), 0, "a refusal needs no settling");
    assert!(stage.metrics.snapshot()["store_put_throttled"] > 0);
}

#[tokio::test]
async fn a_storm_without_end_ends_at_the_deadline() {
    let stage = Stage::impatient().await;
    stage.always(Op::PutObject, Action::slow_down());
    let start = stage.cx.clock().now();
    let cx = stage.cx.detached(cosmount::support::Urgency::WriteOut);
    // Bytes that are sent again and again are no progress.
    let error = stage.bucket.put(&cx, &key("a"), &meta(1), noise(3 << 20).into(), &Replaces::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.status(), error.outcome()), (Kind::Throttled, Some(503), Outcome::NotDone));
    assert!(error.tries() > 1 && error.request_id().is_some(), "{error}");
    assert!(stage.cx.clock().now() - start < Duration::from_secs(5));
}

#[tokio::test]
async fn a_refusal_is_no_progress() {
    let stage = Stage::impatient().await;
    stage.always(Op::PutObject, Action::status(403, "AccessDenied"));
    let cx = stage.cx.detached(cosmount::support::Urgency::WriteOut);
    let before = cx.deadline();
    stage.bucket.put(&cx, &key("a"), &meta(1), Payload::default(), &Replaces::Absent).await.unwrap_err();
    assert_eq!(cx.deadline(), before, "its document brought the caller no nearer");
}

#[tokio::test]
async fn an_answer_that_is_always_cut_behind_its_head_ends_at_the_deadline() {
    let stage = Stage::impatient().await;
    let version = stage.put("a", noise(3 << 20)).await.version;
    stage.always(Op::GetObject, Action::ResetInResponse { after: 0 });
    let start = stage.cx.clock().now();
    let cx = stage.cx.detached(cosmount::support::Urgency::Demand);
    let read = async { stage.bucket.get(&cx, &version, 0..version.size).await?.collect().await };
    let error = read.await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Corrupt), "{error}");
    assert!(stage.cx.clock().now() - start < Duration::from_secs(6));
}

#[tokio::test]
async fn every_attempt_is_signed_and_refusals_are_not_repeated() {
    let stage = Stage::cos().await;
    stage.fault(Op::HeadObject, Action::status(400, "InvalidArgument"));
    stage.foreign(&key("a"), "x");
    assert_eq!(stage.bucket.head(&stage.cx, &key("a")).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(stage.requests(Op::HeadObject), 1);
    for (status, code, kind) in
        [(403, "AccessDenied", Kind::Denied), (402, "PaymentRequired", Kind::Quota), (501, "NotImplemented", Kind::Unsupported)]
    {
        stage.server().clear_log();
        stage.fault(Op::PutObject, Action::status(status, code));
        let error = stage.bucket.put(&stage.cx, &key("b"), &meta(1), noise(10).into(), &Replaces::Anything).await.unwrap_err();
        assert_eq!((error.kind(), error.code(), error.outcome()), (kind, Some(code), Outcome::NotDone));
        assert_eq!(stage.requests(Op::PutObject), 1);
    }
}

#[tokio::test]
async fn a_server_error_after_a_put_is_settled() {
    let stage = Stage::cos().await;
    stage.fault(Op::PutObject, Action::status(500, "InternalError"));
    stage.put("a", noise(10)).await;
    assert_eq!((stage.requests(Op::PutObject), stage.requests(Op::HeadObject)), (2, 1));
}

#[tokio::test]
async fn a_body_that_is_cut_goes_on_at_the_missing_byte() {
    const LEN: usize = 8 << 20;
    for action in [Action::ResetInResponse { after: 3 << 20 }, Action::TruncateBody { keep: 3 << 20, honest: false }] {
        let stage = Stage::cos().await;
        let version = stage.put("a", noise(LEN)).await.version;
        stage.server().clear_log();
        stage.fault(Op::GetObject, action);
        assert_eq!(stage.read(&version).await.unwrap(), noise(LEN));
        let log = stage.server().log();
        assert_eq!(log.len(), 2);
        let sent: u64 = log.iter().map(|entry| entry.bytes_out).sum();
        assert!(sent <= (LEN as u64) + (1 << 20), "{sent} bytes for {LEN}");
        assert_ne!(log[1].range.as_deref(), log[0].range.as_deref());
    }
}

#[tokio::test]
async fn a_body_that_is_cut_does_not_go_on_in_another_version() {
    let stage = Stage::cos().await;
    let version = stage.put("a", noise(8 << 20)).await.version;
    stage.fault(Op::GetObject, Action::ResetInResponse { after: 1 << 20 });
    let mut body = stage.bucket.get(&stage.cx, &version, 0..version.size).await.unwrap();
    let mut read = body.next().await.unwrap().unwrap().len();
    stage.foreign(&key("a"), noise(8 << 20).iter().rev().copied().collect::<Vec<_>>());
    let error = loop {
        match body.next().await.unwrap() {
            Ok(bytes) => read += bytes.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Precondition);
    assert!(read < 8 << 20);
}

#[tokio::test]
async fn a_wrong_byte_never_passes_for_the_whole_object() {
    let stage = Stage::cos().await;
    let small = stage.put("small", noise(100_000)).await.version;
    stage.fault(Op::GetObject, Action::CorruptBody { at: 5 });
    assert_eq!(stage.read(&small).await.unwrap(), noise(100_000), "checked before it is handed up, so asked for again");
    let large = stage.put("large", noise(4 << 20)).await.version;
    stage.fault(Op::GetObject, Action::CorruptBody { at: 5 });
    assert_eq!(stage.read(&large).await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn what_is_always_corrupt_is_not_asked_for_ever() {
    let stage = Stage::cos().await;
    let small = stage.put("small", noise(100_000)).await.version;
    stage.always(Op::GetObject, Action::CorruptBody { at: 5 });
    let error = stage.read(&small).await.unwrap_err();
    assert_eq!((error.kind(), stage.requests(Op::GetObject)), (Kind::Corrupt, 4));
}

#[tokio::test]
async fn an_answer_of_another_range_or_version_is_asked_for_again() {
    for action in [Action::WrongRange, Action::IgnoreRange, Action::WrongETag, Action::TruncateBody { keep: 7, honest: true }] {
        let stage = Stage::cos().await;
        let version = stage.put("a", noise(100_000)).await.version;
        stage.fault(Op::GetObject, action.clone());
        let body = stage.bucket.get(&stage.cx, &version, 1000..50_000).await.unwrap();
        assert_eq!(body.collect().await.unwrap(), noise(100_000).slice(1000..50_000), "{action:?}");
        assert_eq!(stage.requests(Op::GetObject), 2, "{action:?}");
    }
}

#[tokio::test]
async fn bytes_that_arrived_wrong_are_sent_again() {
    let stage = Stage::cos().await;
    stage.fault(Op::PutObject, Action::WrongCrc);
    stage.bucket.put(&stage.cx, &key("a"), &meta(1), noise(1000).into(), &Replaces::Anything).await.unwrap();
    assert_eq!(stage.requests(Op::PutObject), 2);
    let upload = stage.bucket.create_upload(&stage.cx, &key("b"), &meta(2)).await.unwrap();
    stage.fault(Op::UploadPart, Action::WrongCrc);
    stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), noise(1000).into()).await.unwrap();
    assert_eq!(stage.requests(Op::UploadPart), 2);
}

#[tokio::test]
async fn an_object_whose_parts_do_not_add_up_is_said() {
    let stage = Stage::cos().await;
    let upload = stage.bucket.create_upload(&stage.cx, &key("b"), &meta(2)).await.unwrap();
    let mut part = stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), noise(1000).into()).await.unwrap();
    part.crc64 = Some(1);
    let error = stage.bucket.complete_upload(&stage.cx, &upload, &[part], &Replaces::Absent).await.unwrap_err();
    assert_eq!((error.kind(), stage.requests(Op::CompleteUpload)), (Kind::Corrupt, 1));
}

#[tokio::test]
async fn a_200_with_an_error_is_an_error() {
    for (code, heads) in [("InternalError", 1), ("SlowDown", 0)] {
        let stage = Stage::cos().await;
        let source = stage.put("a", noise(1000)).await.version;
        stage.fault(Op::CopyObject, Action::ErrorIn200 { code: code.to_owned() });
        stage.bucket.copy(&stage.cx, &source, &key("b"), &meta(2), &Replaces::Absent).await.unwrap();
        assert_eq!((stage.requests(Op::CopyObject), stage.requests(Op::HeadObject)), (2, heads), "{code}");
        assert_eq!(stage.peek(&key("b")).unwrap(), noise(1000));
    }
    let stage = Stage::cos().await;
    let upload = stage.bucket.create_upload(&stage.cx, &key("c"), &meta(2)).await.unwrap();
    let part = stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), noise(1000).into()).await.unwrap();
    stage.always(Op::CompleteUpload, Action::ErrorIn200 { code: "AccessDenied".to_owned() });
    let error = stage.bucket.complete_upload(&stage.cx, &upload, &[part], &Replaces::Absent).await.unwrap_err();
    assert_eq!((error.kind(), stage.peek(&key("c"))), (Kind::Denied, None));
}

#[tokio::test]
async fn a_complete_may_say_200_long_before_it_is_done() {
    let stage = Stage::impatient().await;
    let upload = stage.bucket.create_upload(&stage.cx, &key("a"), &meta(1)).await.unwrap();
    let part = stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), noise(1000).into()).await.unwrap();
    // Longer in all than anybody waits, but it shows life.
    let early = Action::EarlyOk { blanks: 10, interval: Duration::from_millis(250), error: None };
    stage.fault(Op::CompleteUpload, early);
    let stored = stage.bucket.complete_upload(&stage.cx, &upload, std::slice::from_ref(&part), &Replaces::Absent).await.unwrap();
    assert_eq!((stored.version.size, stored.crc64), (1000, part.crc64));
    assert_eq!(stage.requests(Op::CompleteUpload), 1);
    let upload = stage.bucket.create_upload(&stage.cx, &key("b"), &meta(2)).await.unwrap();
    let part = stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), noise(1000).into()).await.unwrap();
    let early = Action::EarlyOk { blanks: 2, interval: Duration::from_millis(10), error: Some("InternalError".to_owned()) };
    stage.fault(Op::CompleteUpload, early);
    stage.bucket.complete_upload(&stage.cx, &upload, &[part], &Replaces::Absent).await.unwrap();
    assert_eq!(stage.peek(&key("b")).unwrap(), noise(1000));
}

#[tokio::test]
async fn a_clock_that_is_off_is_corrected_once() {
    for seconds in [86_400, -86_400] {
        let server = cosmount::emulator::Server::start(Config::with_bucket(BUCKET)).unwrap();
        server.faults().add(Rule::always(Action::ClockSkew { seconds }));
        let cx = context(Duration::from_secs(10));
        let service = client(&server, crate::signed(), &Metrics::default());
        let bucket = service.open(&cx, &name()).await.unwrap();
        assert_eq!(server.counters().of(Op::HeadBucket).requests, 2, "{seconds}");
        bucket.put(&cx, &key("a"), &meta(1), noise(10).into(), &Replaces::Absent).await.unwrap();
        bucket.list(&cx, &ListRequest::default()).await.unwrap();
        assert_eq!(server.counters().total().errors, 1, "{seconds}");
    }
}

/// Temporary credentials that are fetched anew when told to.
#[derive(Debug)]
struct Renewing {
    now: Mutex<Arc<Credentials>>,
    fetched: AtomicU64,
}

impl Renewing {
    fn token(number: u64) -> Arc<Credentials> {
        Arc::new(Credentials::new("AKIDEXAMPLE", "exampleSecretKey").with_token(format!("token-{number}")))
    }
}

#[async_trait::async_trait]
impl Provider for Renewing {
    async fn credentials(&self) -> Result<Arc<Credentials>, NoCredentials> {
        Ok(Arc::clone(&self.now.lock()))
    }

    async fn refresh(&self, refused: &Arc<Credentials>, _how: Refused) -> Result<bool, NoCredentials> {
        let mut now = self.now.lock();
        if Arc::ptr_eq(&now, refused) {
            *now = Self::token(self.fetched.fetch_add(1, Ordering::SeqCst) + 1);
        }
        Ok(true)
    }
}

/// A source that hangs from some time on.
#[derive(Debug)]
struct Hanging(AtomicBool);

#[async_trait::async_trait]
impl Provider for Hanging {
    async fn credentials(&self) -> Result<Arc<Credentials>, NoCredentials> {
        if self.0.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(Arc::new(Credentials::new("AKIDEXAMPLE", "exampleSecretKey")))
    }

    async fn refresh(&self, _refused: &Arc<Credentials>, _how: Refused) -> Result<bool, NoCredentials> {
        Ok(false)
    }
}

#[tokio::test]
async fn a_source_of_credentials_that_hangs_is_named_instead_of_the_store() {
    let server = cosmount::emulator::Server::start(Config::with_bucket(BUCKET)).unwrap();
    let provider = Arc::new(Hanging(AtomicBool::new(false)));
    let service = client(&server, Arc::clone(&provider) as Arc<dyn Provider>, &Metrics::default());
    let bucket = service.open(&context(Duration::from_secs(10)), &name()).await.unwrap();
    provider.0.store(true, Ordering::SeqCst);
    let why = bucket.head(&context(Duration::from_millis(300)), &key("a")).await.unwrap_err();
    assert!(why.to_string().contains("no credentials") && why.outcome() == Outcome::NotDone, "{why}");
}

#[tokio::test]
async fn a_token_that_ends_is_fetched_once_for_all() {
    let account = |number: u64| Account { token: Some(Token { value: format!("token-{number}"), expires: None }), ..Account::example() };
    let server = cosmount::emulator::Server::start(Config { accounts: vec![account(0)], ..Config::with_bucket(BUCKET) }).unwrap();
    let provider = Arc::new(Renewing { now: Mutex::new(Renewing::token(0)), fetched: AtomicU64::new(0) });
    let provided: Arc<dyn Provider> = Arc::clone(&provider) as Arc<dyn Provider>;
    let service = client(&server, provided, &Metrics::default());
    let cx = context(Duration::from_secs(10));
    let bucket = service.open(&cx, &name()).await.unwrap();
    server.put(BUCKET, "a", noise(1000), &[]).unwrap();
    for round in 1..4 {
        server.set_accounts(vec![account(round)]);
        let (a, b) = (key("a"), key("b"));
        let (fresh, anything) = (meta(1), Replaces::Anything);
        let heads = futures_util::future::join_all((0..8).map(|_| bucket.head(&cx, &a)));
        let put = bucket.put(&cx, &b, &fresh, noise(10).into(), &anything);
        let (heads, put) = tokio::join!(heads, put);
        put.unwrap();
        assert!(heads.iter().all(Result::is_ok), "{heads:?}");
        assert_eq!(provider.fetched.load(Ordering::SeqCst), round);
    }
}

#[tokio::test]
async fn what_is_not_from_cos_is_no_absence() {
    let stage = Stage::impatient().await;
    stage.foreign(&key("a"), "x");
    for action in [Action::gateway(404), Action::redirect("http://127.0.0.1:1/"), Action::gateway(403), Action::gateway(502)] {
        let rule = stage.always(Op::HeadObject, action.clone());
        let cx = stage.cx.detached(cosmount::support::Urgency::Demand);
        assert_eq!(stage.bucket.head(&cx, &key("a")).await.unwrap_err().kind(), Kind::Unavailable, "{action:?}");
        stage.server().faults().remove(rule);
    }
    // Another client: this one has learnt that nobody answers, and asks once a second.
    let stage = Stage::impatient().await;
    stage.foreign(&key("a"), "x");
    stage.fault(Op::HeadObject, Action::gateway(404));
    let cx = stage.cx.detached(cosmount::support::Urgency::Demand);
    assert!(stage.bucket.head(&cx, &key("a")).await.is_ok());
}

#[tokio::test]
async fn a_stalled_connection_is_given_up_for_another() {
    let stage = Stage::impatient().await;
    let version = stage.put("a", noise(4 << 20)).await.version;
    let cx = stage.cx.detached(cosmount::support::Urgency::Demand);
    stage.fault(Op::HeadObject, Action::BlackHole);
    stage.bucket.head(&cx, &key("a")).await.unwrap();
    stage.fault(Op::GetObject, Action::SlowBody { bytes_per_second: 1 });
    assert_eq!(stage.read(&version).await.unwrap(), noise(4 << 20));
}

#[tokio::test]
async fn a_trickle_is_gone_on_with_elsewhere_and_ends_at_the_deadline() {
    let stage = Stage::impatient().await;
    let version = stage.put("a", noise(4 << 20)).await.version;
    stage.always(Op::GetObject, Action::SlowBody { bytes_per_second: 8 << 10 });
    stage.server().clear_log();
    let cx = stage.cx.detached(cosmount::support::Urgency::Demand);
    let start = stage.cx.clock().now();
    let read = async { stage.bucket.get(&cx, &version, 0..version.size).await?.collect().await };
    let error = read.await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::NoProgress), "{error}");
    assert!(stage.cx.clock().now() - start < Duration::from_secs(4), "bytes came all the time, but not as many as a flow has");
    let begun = |entry: &cosmount::emulator::LogEntry| {
        let range = entry.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        range.map_or(0, |(first, _)| first.parse::<u64>().unwrap())
    };
    let begins: Vec<u64> = stage.server().log().iter().map(begun).collect();
    assert!(begins.len() > 1 && begins.is_sorted_by(|one, next| one < next), "{begins:?}");
}

#[tokio::test]
async fn a_reader_that_pauses_is_no_stall() {
    let stage = Stage::impatient().await;
    let version = stage.put("a", noise(16 << 20)).await.version;
    let mut body = stage.bucket.get(&stage.cx, &version, 0..version.size).await.unwrap();
    let first = body.next().await.unwrap().unwrap();
    clock().sleep(Duration::from_millis(1800)).await;
    assert_eq!(body.collect().await.unwrap(), noise(16 << 20).slice(first.len()..));
    assert_eq!(stage.requests(Op::GetObject), 1);
}

#[tokio::test]
async fn a_black_hole_ends_at_the_deadline() {
    let stage = Stage::impatient().await;
    stage.server().faults().add(Rule::always(Action::BlackHole));
    let start = stage.cx.clock().now();
    let cx = stage.cx.detached(cosmount::support::Urgency::Demand);
    let error = stage.bucket.head(&cx, &key("a")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::NoProgress), "{error}");
    let cx = stage.cx.detached(cosmount::support::Urgency::Demand);
    let error = stage.bucket.put(&cx, &key("a"), &meta(1), noise(10).into(), &Replaces::Absent).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert!(stage.cx.clock().now() - start < Duration::from_secs(6));
}

#[tokio::test]
async fn a_server_that_is_away_comes_back() {
    let stage = Stage::cos().await;
    let addr = stage.server().addr();
    let Stage { bucket, cx, back, .. } = stage;
    drop(back);
    let (cx, target) = (cx.detached(cosmount::support::Urgency::Demand), key("a"));
    let error = bucket.head(&cx, &target);
    let returns = async {
        clock().sleep(Duration::from_millis(500)).await;
        cosmount::emulator::Server::start(Config { listen: addr, ..Config::with_bucket(BUCKET) }).unwrap()
    };
    let (error, _server) = tokio::join!(error, returns);
    assert_eq!(error.unwrap_err().kind(), Kind::NotFound);
}

#[derive(Debug)]
struct Broken;

#[async_trait::async_trait]
impl Source for Broken {
    async fn read(&self, _range: std::ops::Range<u64>) -> std::io::Result<Bytes> {
        Err(std::io::Error::other("the disk is gone"))
    }
}

#[tokio::test]
async fn a_source_that_fails_is_said_and_makes_no_object() {
    let stage = Stage::cos().await;
    let payload = Payload::new(vec![Segment::Zeros(1 << 20), Segment::Source(Arc::new(Broken), 0..1 << 20)]);
    let error = stage.bucket.put(&stage.cx, &key("a"), &meta(1), payload, &Replaces::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (Kind::Source, Outcome::NotDone));
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    // The connection may end before the server has read a word.
    assert!(stage.requests(Op::PutObject) <= 1);
    assert_eq!(stage.peek(&key("a")), None);
}

#[tokio::test]
async fn two_writers_that_meet_both_get_through() {
    let stage = Stage::cos().await;
    stage.fault(Op::PutObject, Action::PathConflict { concurrent_only: false });
    stage.put("a", noise(10)).await;
    assert_eq!(stage.requests(Op::PutObject), 2);
    // A conflict of a name nobody knows, although nothing is there.
    stage.fault(Op::PutObject, Action::status(409, "SomethingNew"));
    stage.bucket.put(&stage.cx, &key("b"), &meta(1), noise(10).into(), &Replaces::Absent).await.unwrap();
    assert_eq!(stage.requests(Op::PutObject), 4);
}

/// Not a promise, but a gross loss would be seen: `cargo nextest run --test store --run-ignored only --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "what it measures is what it is for")]
async fn how_fast_a_gigabyte_is_read_and_written() {
    let stage = Stage::cos().await;
    stage.server().put_repeated(BUCKET, "big", noise(1 << 20), 1 << 30).unwrap();
    let version = stage.bucket.head(&stage.cx, &key("big")).await.unwrap().version;
    let start = stage.cx.clock().now();
    let read = async |range: std::ops::Range<u64>| {
        let mut body = stage.bucket.get(&stage.cx, &version, range).await.unwrap();
        let (mut len, mut pieces) = (0, 0_u64);
        while let Some(bytes) = body.next().await {
            len += bytes.unwrap().len();
            pieces += 1;
        }
        (len, pieces)
    };
    let slices = (0..8_u64).map(|slice| read(slice << 27..(slice + 1) << 27));
    let all = futures_util::future::join_all(slices).await;
    let took = stage.cx.clock().now() - start;
    let (len, pieces) = all.iter().fold((0, 0), |(len, pieces), one| (len + one.0, pieces + one.1));
    println!("read {len} bytes in {pieces} pieces in {took:?}");
    let part = Payload::new([vec![Segment::Bytes(noise(1 << 20)); 64], vec![Segment::Zeros(64 << 20)]].concat());
    let upload = stage.bucket.create_upload(&stage.cx, &key("b"), &meta(1)).await.unwrap();
    let start = stage.cx.clock().now();
    let parts = (1..5).map(|number| stage.bucket.upload_part(&stage.cx, &upload, PartNumber(number), part.clone()));
    futures_util::future::try_join_all(parts).await.unwrap();
    println!("wrote half of it in {:?}", stage.cx.clock().now() - start);
}

#[tokio::test]
async fn ten_percent_of_all_faults_cost_time_not_correctness() {
    let stage = Stage::cos().await;
    for action in [
        Action::slow_down(),
        Action::status(500, "InternalError"),
        Action::gateway(502),
        Action::ResetBefore,
        Action::LoseAnswer,
        Action::ResetInResponse { after: 700 },
        Action::CorruptBody { at: 3 },
    ] {
        stage.server().faults().add(Rule::always(action).chance(0.02));
    }
    for round in 0..60_u8 {
        let name = format!("r/{}", round % 7);
        let bytes = noise(1000 + usize::from(round));
        let cx = stage.cx.detached(cosmount::support::Urgency::WriteOut);
        let stored = stage.bucket.put(&cx, &key(&name), &meta(round), bytes.clone().into(), &Replaces::Anything).await.unwrap();
        assert_eq!(stage.peek(&key(&name)).unwrap(), bytes);
        assert_eq!(stage.bucket.get(&cx, &stored.version, 0..stored.version.size).await.unwrap().collect().await.unwrap(), bytes);
    }
    stage.server().faults().clear();
    let page = stage.bucket.list(&stage.cx, &ListRequest::default()).await.unwrap();
    assert_eq!(page.objects.len(), 7);
}
