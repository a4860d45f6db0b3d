//! Reads: what is fetched, what is kept, who waits for whom.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_read_is_not_asked_again_and_a_random_read_takes_only_its_sectors() {
    let s = Setting::new();
    let bytes = pattern(1, 5 * MIB + 100);
    let file = s.object("a", bytes.clone());
    for _ in 0..3 {
        assert_eq!(s.read(&file, 2 * MIB + 5..2 * MIB + 4101).await.unwrap(), bytes[2 * 1024 * 1024 + 5..][..4096]);
    }
    assert_eq!((s.bucket.requests(Operation::Get), s.bucket.bytes_read()), (1, 16 * KIB));
    assert_eq!(s.read(&file, 5 * MIB..6 * MIB).await.unwrap(), bytes[5 * 1024 * 1024..]);
    assert_eq!(s.bucket.bytes_read(), 16 * KIB + 100);
    assert_eq!(s.read(&file, 0..u64::MAX).await.unwrap(), bytes);
    assert_eq!(s.read(&file, 9 * MIB..10 * MIB).await.unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn many_readers_of_one_sector_make_one_request_and_one_who_leaves_takes_nothing_along() {
    let s = Setting::new();
    let bytes = pattern(2, MIB);
    let file = s.object("a", bytes.clone());
    s.bucket.set_latency(Duration::from_secs(1));
    let leaves = tokio::time::timeout(Duration::from_millis(10), s.read(&file, 0..100));
    assert!(leaves.await.is_err());
    let readers = (0..50).map(|n| s.read(&file, n..n + 100));
    let all = futures_util::future::join_all(readers).await;
    assert!(all.into_iter().zip(0..).all(|(read, n)| read.unwrap() == bytes[n..n + 100]));
    assert_eq!(s.bucket.requests(Operation::Get), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_is_read_ahead_in_large_requests() {
    let s = Setting::with(128, Config::default(), Capabilities::cos(), false);
    let bytes = pattern(3, 100 * MIB);
    let file = s.object("a", bytes.clone());
    s.bucket.set_latency(Duration::from_millis(50));
    let (reader, start) = (file.reader(), s.cx.clock().now());
    for at in (0..100 * MIB).step_by(128 << 10) {
        let read = file.read(&s.fresh(), &reader, at..at + 128 * KIB).await.unwrap().concat();
        assert_eq!(read, bytes[at as usize..][..128 << 10]);
    }
    assert_eq!(s.bucket.bytes_read(), 100 * MIB, "nothing is fetched twice");
    assert!(s.bucket.requests(Operation::Get) < 60, "{:?}", s.requests());
    assert!(s.cx.clock().now() - start < Duration::from_secs(2), "{:?}", s.cx.clock().now() - start);
    s.idle().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_bytes_are_there_before_the_rest() {
    let s = Setting::new();
    let file = s.object("a", pattern(4, 4 * MIB));
    s.bucket.stall_next_body(300 * KIB);
    let all = {
        let (file, cx, reader) = (Arc::clone(&file), s.fresh(), file.reader());
        tokio::spawn(async move { file.read(&cx, &reader, 0..MIB).await })
    };
    tokio::task::yield_now().await;
    assert_eq!(s.read(&file, 0..100 * KIB).await.unwrap(), pattern(4, 100 * KIB));
    assert!(matches!(all.await.unwrap(), Err(Error::Store(_) | Error::NoProgress(_))));
    assert_eq!(s.read(&file, 0..MIB).await.unwrap(), pattern(4, MIB), "a failed fetch is not kept");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_object_is_stale_but_for_what_is_cached() {
    let s = Setting::new();
    let file = s.object("a", pattern(5, 2 * MIB));
    s.read(&file, 0..16 * KIB).await.unwrap();
    s.bucket.put_foreign(&Key::new("a"), "other");
    assert_eq!(s.read(&file, 0..16 * KIB).await.unwrap(), pattern(5, 16 * KIB));
    assert!(matches!(s.read(&file, MIB..MIB + 1).await, Err(Error::Stale)));
    s.bucket.delete_foreign(&Key::new("a"));
    assert!(matches!(s.read(&file, MIB..MIB + 1).await, Err(Error::Stale)));
}

#[tokio::test(start_paused = true)]
async fn the_cache_gives_way_to_what_is_reserved() {
    let s = Setting::with(32, Config::default(), Capabilities::cos(), false);
    let file = s.object("a", pattern(6, 64 * MIB));
    for at in 0..64 {
        s.read(&file, at * MIB..(at + 1) * MIB).await.unwrap();
    }
    s.idle().await;
    let held = s.data.room.blocks.memory.held();
    assert!(held > 20 * MIB && held <= 32 * MIB, "{held}");
    let dirty = s.new_file();
    for at in 0..15 {
        s.write(&dirty, at * MIB, &pattern(7, MIB)).await.unwrap();
    }
    assert!(s.data.room.blocks.memory.held() <= 17 * MIB);
}
