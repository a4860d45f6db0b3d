//! The switches of the differential tester do what they say.

use super::*;

async fn with(defect: Option<Defect>) -> (Vec<u8>, Vec<u8>) {
    let s = Setting::with(64, Config { defect, ..Config::default() }, Capabilities::cos(), false);
    let file = s.object("a", vec![7; 100]);
    file.truncate(&s.cx, 50).await.unwrap();
    file.write(&s.cx, At::End, Bytes::from_static(b"append")).await.unwrap();
    file.truncate(&s.cx, 70).await.unwrap();
    let seen = s.read(&file, 0..100).await.unwrap();
    file.commit(&s.cx, over(&file, "a")).await.unwrap();
    (seen, s.peek("a"))
}

#[tokio::test(start_paused = true)]
async fn each_shows() {
    let right = [&[7; 50][..], b"append", &[0; 14]].concat();
    assert_eq!(with(None).await, (right.clone(), right.clone()));
    let (seen, _) = with(Some(Defect::OldBytesInHole)).await;
    assert_eq!(seen, [&[7; 50][..], b"append", &[7; 14]].concat());
    let (seen, _) = with(Some(Defect::AppendLostAfterTruncate)).await;
    assert_eq!(seen, [&[7; 50][..], &[0; 20]].concat());
    let (seen, made) = with(Some(Defect::LastExtentDroppedAtFlush)).await;
    assert_eq!((seen, made), (right, [&[7; 50][..], &[0; 20]].concat()));
}
