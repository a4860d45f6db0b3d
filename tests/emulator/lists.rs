//! Listings: a page is exactly what the rules say, held against a model that scans.

use std::time::Instant;

use crate::http::elements;
use crate::{BUCKET, Emulator};

/// What listing all pages of `limit` must give: (key or prefix, is prefix), page by page.
fn model(keys: &[String], prefix: &str, delimiter: &str, marker: &str, limit: usize) -> (Vec<String>, Vec<String>, Option<String>) {
    let (mut found, mut common, mut last) = (Vec::new(), Vec::<String>::new(), None);
    for key in keys.iter().filter(|key| key.starts_with(prefix) && key.as_str() > marker) {
        let at = if delimiter.is_empty() { None } else { key[prefix.len()..].find(delimiter) };
        let entry = at.map(|at| key[..prefix.len() + at + delimiter.len()].to_owned());
        if entry.as_ref().is_some_and(|entry| common.last() == Some(entry) || entry == marker) {
            continue;
        }
        if found.len() + common.len() == limit {
            return (found, common, last);
        }
        last = Some(entry.clone().unwrap_or_else(|| key.clone()));
        match entry {
            Some(entry) => common.push(entry),
            None => found.push(key.clone()),
        }
    }
    (found, common, None)
}

#[test]
fn pages_follow_the_model() {
    let emulator = Emulator::start();
    let mut keys: Vec<String> =
        ["a", "a/", "a/b", "a/b/c", "a/b/d", "a/c", "a//", "a//x", "b/x/y", "b/x/z", "b/~", "c", "ä/ö", "z/"].map(String::from).to_vec();
    keys.sort();
    for key in &keys {
        emulator.0.put(BUCKET, key, "x", &[]).unwrap();
    }
    let mut pages = 0;
    for prefix in ["", "a", "a/", "a/b", "b/", "nothing", "z/"] {
        for delimiter in ["", "/", "b"] {
            for limit in [1, 2, 3, 5, 1000] {
                let mut markers = vec![String::new(), "a/".to_owned(), "a/b/c".to_owned(), "b".to_owned(), "zz".to_owned()];
                while let Some(marker) = markers.pop() {
                    let path = format!("/?prefix={prefix}&delimiter={delimiter}&marker={marker}&max-keys={limit}")
                        .replace('ä', "%C3%A4")
                        .replace('ö', "%C3%B6");
                    let answer = emulator.get(&path);
                    let text = answer.text();
                    let own = text.split("<CommonPrefixes>").skip(1).filter_map(|part| elements(part, "Prefix").into_iter().next());
                    let got = (elements(&text, "Key"), own.collect::<Vec<_>>(), answer.element("NextMarker"));
                    assert_eq!(got, model(&keys, prefix, delimiter, &marker, limit), "{path}\n{text}");
                    assert_eq!(answer.element("IsTruncated").unwrap(), got.2.is_some().to_string());
                    markers.extend(got.2);
                    pages += 1;
                }
            }
        }
    }
    assert!(pages > 500, "{pages}");
}

#[test]
fn keys_are_encoded_on_request_only() {
    let emulator = Emulator::start();
    emulator.0.put(BUCKET, "a b+<&>'\u{1}照", "x", &[]).unwrap();
    emulator.0.put(BUCKET, b"b\xff", "x", &[]).unwrap();
    let encoded = emulator.get("/?encoding-type=url&marker=%20").text();
    assert_eq!(elements(&encoded, "Key"), ["a%20b%2B%3C%26%3E%27%01%E7%85%A7", "b%FF"]);
    assert_eq!((elements(&encoded, "Marker"), elements(&encoded, "EncodingType")), (vec!["%20".into()], vec!["url".into()]));
    let plain = emulator.get("/").text();
    assert_eq!(elements(&plain, "Key")[0], "a b+&lt;&&gt;&apos;\u{1}照");
    assert!(!plain.contains("EncodingType") && !plain.contains("<Delimiter"));
}

#[test]
fn bad_listings_are_refused() {
    let emulator = Emulator::start();
    for (path, code) in [
        ("/?delimiter=ab", "InvalidDelimiter"),
        ("/?max-keys=x", "InvalidArgument"),
        ("/?max-keys=-1", "InvalidArgument"),
        ("/?encoding-type=base64", "InvalidArgument"),
        ("/?uploads&delimiter=ab", "InvalidDelimiter"),
    ] {
        assert_eq!(emulator.get(path).code(), (400, code.into()), "{path}");
    }
    assert_eq!(emulator.get("/?max-keys=5000").element("MaxKeys").unwrap(), "1000");
    assert_eq!(emulator.get("/?policy").status, 501);
}

#[test]
fn page_costs_what_it_shows() {
    let emulator = Emulator::start();
    for n in 0..30_000 {
        emulator.0.put(BUCKET, format!("d{}/{n:06}", n % 3), "", &[]).unwrap();
    }
    assert_eq!(elements(&emulator.get("/?delimiter=%2F").text(), "Prefix"), ["d0/", "d1/", "d2/"]);
    // The best of ten, since others use this machine too.
    let best = |path: &str| {
        let time = |_| {
            let begun = Instant::now();
            assert_eq!(emulator.get(path).status, 200);
            begun.elapsed()
        };
        (0..10).map(time).min().unwrap()
    };
    let (delimited, page) = (best("/?delimiter=%2F"), best("/?prefix=d2%2F&max-keys=1000"));
    assert!(delimited < page, "three common prefixes over 30,000 keys took {delimited:?}, a page of a thousand {page:?}");
}
