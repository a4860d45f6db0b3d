//! Short memory and full disks: every wait ends.

use super::*;

/// Every PUT and every initiate is refused, for as long as anybody asks.
fn refuse_everything(s: &Setting) {
    for _ in 0..20_000 {
        s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
        s.bucket.fail_next(Operation::CreateUpload, Kind::Denied, Effect::Refused);
    }
}

fn check(s: &Setting, longest: Duration) {
    assert!(longest <= Duration::from_secs(90), "{longest:?}");
    assert!(s.budget.used(Share::Dirty) <= s.budget.share(Share::Dirty));
    assert!(s.data.room.blocks.memory.held() <= s.budget.idle());
}

#[tokio::test(start_paused = true)]
async fn a_random_writer_over_eight_times_the_memory() {
    for refused in [false, true] {
        let s = Setting::with(16, Config::default(), Capabilities::cos(), true);
        if refused {
            refuse_everything(&s);
        }
        let size = 64 * MIB;
        let file = s.new_file();
        file.truncate(&s.cx, size).await.unwrap();
        let mut expected = vec![0; size as usize];
        let mut longest = Duration::ZERO;
        for n in 0..20_000u64 {
            let at = n * 7_919 % (size / 4096) * 4096;
            let start = s.cx.clock().now();
            s.write(&file, at, &[n as u8; 4096]).await.unwrap();
            longest = longest.max(s.cx.clock().now() - start);
            expected[at as usize..][..4096].fill(n as u8);
            assert!(s.budget.used(Share::Dirty) <= s.budget.share(Share::Dirty));
            if n % 5000 == 4999 {
                assert_eq!(file.commit(&s.fresh(), target("a", Replaces::Anything)).await.is_err(), refused);
            }
        }
        check(&s, longest);
        assert!(s.counter("spilled_bytes") > 16 * MIB);
        for at in (0..size).step_by(1 << 20) {
            assert!(s.read(&file, at..at + MIB).await.unwrap() == expected[at as usize..][..1 << 20]);
        }
        s.bucket.clear_faults();
        file.commit(&s.fresh(), target("a", Replaces::Anything)).await.unwrap();
        assert!(s.peek("a") == expected);
        drop(file);
        s.idle().await;
        assert_eq!(s.disk.list().await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_of_dirty_files() {
    for refused in [false, true] {
        let s = Setting::with(16, Config::default(), Capabilities::cos(), true);
        if refused {
            refuse_everything(&s);
        }
        let (mut files, mut longest) = (Vec::new(), Duration::ZERO);
        for n in 0..3000u64 {
            let start = s.cx.clock().now();
            let file = s.new_file();
            s.write(&file, 0, &pattern(n, 4096 + n % 12_288)).await.unwrap();
            longest = longest.max(s.cx.clock().now() - start);
            files.push(file);
        }
        check(&s, longest);
        for (file, n) in files.iter().zip(0..) {
            let key = format!("{n}");
            assert_eq!(file.commit(&s.fresh(), target(&key, Replaces::Absent)).await.is_err(), refused);
            assert!(s.read(file, 0..u64::MAX).await.unwrap() == pattern(n, 4096 + n % 12_288));
        }
        s.bucket.clear_faults();
        for (file, n) in files.iter().zip(0..) {
            file.commit(&s.fresh(), target(&format!("{n}"), Replaces::Absent)).await.unwrap();
        }
        s.idle().await;
        assert_eq!((s.bucket.keys().len(), s.budget.used(Share::Dirty)), (3000, 0));
        assert_eq!(s.disk.list().await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn without_room_the_writer_is_told_at_once_and_loses_nothing() {
    // The last is one that is never quite full.
    for limit in [None, Some(4 * MIB), Some(4 * MIB + 1000)] {
        let config = Config { staging_limit: ByteSize(limit.unwrap_or_default()), ..Config::default() };
        let s = Setting::with(16, config, Capabilities::cos(), limit.is_some());
        let file = s.new_file();
        let start = s.cx.clock().now();
        let mut taken = 0;
        let error = loop {
            match s.write(&file, taken, &pattern(taken, 64 * KIB)).await {
                Ok(_) => taken += 64 * KIB,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::NoRoom), "{error}");
        assert!(taken >= 8 * MIB && s.cx.clock().now() - start < Duration::from_secs(5));
        for at in (0..taken).step_by(64 << 10) {
            assert!(s.read(&file, at..at + 64 * KIB).await.unwrap() == pattern(at, 64 * KIB));
        }
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        s.idle().await;
        s.write(&file, taken, b"there is room again").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_no_room_and_heals() {
    let s = Setting::with(16, Config::default(), Capabilities::cos(), true);
    s.disk.limit(Some(MIB));
    let file = s.new_file();
    let mut taken = 0;
    while s.write(&file, taken, &pattern(taken, 64 * KIB)).await.is_ok() {
        taken += 64 * KIB;
    }
    s.disk.limit(None);
    s.cx.clock().sleep(Duration::from_secs(2)).await;
    s.write(&file, taken, &pattern(taken, 64 * KIB)).await.unwrap();
    file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
    let expected: Vec<u8> = (0..=taken).step_by(64 << 10).flat_map(|at| pattern(at, 64 * KIB)).collect();
    assert!(s.peek("a") == expected);
}

#[tokio::test(start_paused = true)]
async fn streams_that_fill_memory_with_short_parts_send_them() {
    let s = Setting::with(32, Config::default(), Capabilities::cos(), false);
    let files: Vec<_> = (0..24u64).map(|_| s.new_file()).collect();
    for (file, n) in files.iter().zip(0..) {
        file.stream_to(Some(target(&format!("{n}"), Replaces::Absent)));
        for at in (0..MIB + 256 * KIB).step_by(128 << 10) {
            s.write(file, at, &pattern(n + at, 128 * KIB)).await.unwrap();
        }
    }
    for (file, n) in files.iter().zip(0..) {
        file.commit(&s.fresh(), target(&format!("{n}"), Replaces::Absent)).await.unwrap();
        let expected: Vec<u8> = (0..MIB + 256 * KIB).step_by(128 << 10).flat_map(|at| pattern(n + at, 128 * KIB)).collect();
        assert!(s.peek(&format!("{n}")) == expected);
    }
}

#[tokio::test(start_paused = true)]
async fn many_streams_at_once_with_staging() {
    many_streams_at_once(true).await;
}

#[tokio::test(start_paused = true)]
async fn many_streams_at_once_without_staging() {
    many_streams_at_once(false).await;
}

async fn many_streams_at_once(staging: bool) {
    let s = Setting::with(32, Config::default(), Capabilities::cos(), staging);
    s.bucket.set_latency(Duration::from_millis(50));
    let writers = (0..12u64).map(|n| {
        let s = &s;
        async move {
            let key = format!("{n}");
            let file = s.new_file();
            file.stream_to(Some(target(&key, Replaces::Absent)));
            for at in (0..10 * MIB).step_by(128 << 10) {
                s.write(&file, at, &pattern(n + at, 128 * KIB)).await.unwrap();
            }
            file.commit(&s.fresh(), target(&key, Replaces::Absent)).await.unwrap().unwrap();
            let expected: Vec<u8> = (0..10 * MIB).step_by(128 << 10).flat_map(|at| pattern(n + at, 128 * KIB)).collect();
            assert!(s.peek(&key) == expected, "file {n}");
        }
    });
    futures_util::future::join_all(writers).await;
    check(&s, Duration::ZERO);
}
