//! Writers, readers and commits at once.

use super::*;

/// Four threads, each with its own stripe of one file, write, read back and commit at once.
#[test]
fn writers_readers_and_commits_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = Config { part_size: ByteSize::mib(1), ..Config::default() };
        let s = Arc::new(Setting::with(16, config, Capabilities::cos(), true));
        let file = s.object("a", vec![0; 8 << 20]);
        let stripes = (0..4u64).map(|stripe| {
            let (s, file) = (Arc::clone(&s), Arc::clone(&file));
            tokio::spawn(async move {
                let mut expected = vec![0; 2 << 20];
                for n in 0..300u64 {
                    let at = n * 7_919 * 31 % (2 * MIB - 20_000);
                    let bytes = vec![(n % 250) as u8 + 1; 1 + (n * 131 % 19_000) as usize];
                    expected[at as usize..][..bytes.len()].copy_from_slice(&bytes);
                    s.write(&file, stripe * 2 * MIB + at, &bytes).await.unwrap();
                    let from = n * 104_729 % (2 * MIB - 5000);
                    let read = s.read(&file, stripe * 2 * MIB + from..stripe * 2 * MIB + from + 5000).await.unwrap();
                    assert!(read == expected[from as usize..][..5000], "stripe {stripe}, write {n}");
                    if n % 20 == stripe * 5 {
                        file.commit(&s.fresh(), target("a", Replaces::Anything)).await.unwrap();
                    }
                    if n % 50 == 0 {
                        s.data.room.blocks.memory.trim(0);
                    }
                }
                expected
            })
        });
        let mut expected = Vec::new();
        for stripe in futures_util::future::join_all(stripes).await {
            expected.extend(stripe.unwrap());
        }
        file.commit(&s.fresh(), target("a", Replaces::Anything)).await.unwrap();
        assert!(s.peek("a") == expected);
        assert_eq!(s.budget.used(Share::Dirty), 0);
    });
}
