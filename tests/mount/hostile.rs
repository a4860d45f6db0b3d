//! A bucket whose keys, and a server whose answers, are chosen to do harm: nothing outside the mount's own directories is touched, memory and
//! time stay bounded, and the mount goes on (P40, P41, P44; rules 7, 9, 11 and 12 of `docs/security.md`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    common::{BUCKET, Mounted, wait},
    liar::{self, Asked, Liar},
};

/// What an answer may cost.
const MEMORY: u64 = 64 << 20;
const TIME: Duration = Duration::from_secs(5);

/// A mount of a server that lies.
fn mount_of(liar: &Liar) -> Mounted {
    Mounted::builder().arg("--endpoint").arg(liar.endpoint()).start()
}

/// Runs `call`, and checks what it took of time and memory.
fn bounded<T>(mount: &Mounted, what: &str, call: impl FnOnce() -> T) -> T {
    let (before, start) = (mount.peak_memory(), Instant::now());
    let result = call();
    let (took, more) = (start.elapsed(), mount.peak_memory() - before);
    assert!(took < TIME, "{what} took {took:?}");
    assert!(more < MEMORY, "{what} took {} MiB more", more >> 20);
    println!("{what}: {} ms, {} KiB more", took.as_millis(), more >> 10);
    result
}

/// The names in a directory, or why there are none.
fn names(path: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().as_bytes().to_vec())).collect()
}

fn listing(body: &str) -> String {
    format!("<ListBucketResult>{body}</ListBucketResult>")
}

fn entry(key: &str) -> String {
    format!("<Contents><Key>{key}</Key><LastModified>2020-01-01T00:00:00Z</LastModified><ETag>e</ETag><Size>5000</Size></Contents>")
}

/// Answers to the listing of a directory.
fn bombs() -> Vec<(&'static str, String)> {
    let mebibyte = 1 << 20;
    vec![
        (
            "entities",
            format!(
                "<!DOCTYPE a [<!ENTITY a0 \"x\">{}]>{}",
                {
                    let doubling = |n: usize| format!("<!ENTITY a{n} \"{}\">", format!("&a{};", n - 1).repeat(10));
                    (1..10).map(doubling).collect::<String>()
                },
                listing("&a9;")
            ),
        ),
        ("a million deep", "<a>".repeat(1_000_000)),
        ("a million wide", listing(&"<Contents/>".repeat(700_000))),
        ("a long text", listing(&format!("<Contents><Key>{}</Key></Contents>", "x".repeat(8 * mebibyte - 100)))),
        ("too long", listing(&"x".repeat(100 * mebibyte))),
        ("attributes", format!("<ListBucketResult {}/>", "a='b' ".repeat(mebibyte))),
        ("comments", listing(&format!("<!--{}-->", "-x".repeat(3 * mebibyte)))),
        ("never closed", format!("<ListBucketResult><Contents><Key>{}", "%41".repeat(2 * mebibyte))),
        ("a marker that stays", listing(&format!("<IsTruncated>true</IsTruncated><NextMarker>a</NextMarker>{}", entry("b")))),
        (
            "a marker of megabytes",
            listing(&format!("<IsTruncated>true</IsTruncated><NextMarker>{}</NextMarker>", "z".repeat(7 * mebibyte))),
        ),
        ("another prefix", listing(&"<CommonPrefixes><Prefix>../</Prefix></CommonPrefixes>".replace("../", "a/b/"))),
    ]
}

#[test]
fn documents_that_are_bombs_cost_nothing() {
    for (what, document) in bombs() {
        let liar = Liar::cos(move |asked, stream| {
            (asked.is_list() && asked.param("prefix") == Some("d%2F")).then(|| liar::document(stream, &document))
        });
        let mount = mount_of(&liar);
        let refused = bounded(&mount, what, || names(&mount.path().join("d"))).unwrap_err();
        // Attributes and comments mean nothing: that is an empty list.
        let errno = if ["attributes", "comments"].contains(&what) { nix::libc::ENOENT } else { nix::libc::EIO };
        assert_eq!(refused.raw_os_error(), Some(errno), "{what}: {refused}");
    }
}

#[test]
fn headers_and_lengths_without_end_cost_nothing() {
    type Lie = fn(&Asked, &mut TcpStream) -> std::io::Result<()>;
    let lies: [(&str, Lie); 5] = [
        ("blanks without end", |_, stream| {
            stream.write_all(&liar::head("200 OK", "Transfer-Encoding: chunked\r\n"))?;
            (0..1024).try_for_each(|_| stream.write_all(&[&b"10000\r\n"[..], &[b' '; 65536], b"\r\n"].concat()))
        }),
        ("64 MiB of headers", |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            let line = format!("x-filler: {}\r\n", "y".repeat(4000));
            (0..64 * 256).try_for_each(|_| stream.write_all(line.as_bytes()))
        }),
        ("1 TiB of length", |_, stream| {
            stream.write_all(&liar::head("200 OK", "Content-Length: 1099511627776\r\n"))?;
            stream.write_all(&[b'<'; 1 << 20])
        }),
        ("chunks without end", |_, stream| {
            stream.write_all(&liar::head("200 OK", "Transfer-Encoding: chunked\r\n"))?;
            (0..1024).try_for_each(|_| stream.write_all(&[&b"10000\r\n"[..], &[b'<'; 65536], b"\r\n"].concat()))
        }),
        ("a chunk of 16 EiB", |_, stream| {
            stream.write_all(&liar::head("200 OK", "Transfer-Encoding: chunked\r\n"))?;
            stream.write_all(b"FFFFFFFFFFFFFFFF\r\nxxxx")?;
            stream.write_all(&[b'x'; 20 << 20])
        }),
    ];
    for (what, lie) in lies {
        let liar = Liar::cos(move |asked, stream| {
            (asked.is_list() && asked.param("prefix") == Some("d%2F"))
                .then(|| lie(asked, stream).and(Err(std::io::ErrorKind::Other.into())))
        });
        let mount = mount_of(&liar);
        bounded(&mount, what, || names(&mount.path().join("d"))).unwrap_err();
    }
}

#[test]
fn an_object_of_a_tebibyte_that_sends_nothing_reserves_nothing() {
    let head = "ETag: \"e\"\r\nLast-Modified: Wed, 28 Oct 2020 20:30:00 GMT\r\nContent-Length: 1099511627776\r\n";
    let liar = Liar::cos(move |asked, stream| match asked.method.as_str() {
        "HEAD" if asked.target.ends_with("/object") => Some(stream.write_all(&liar::head("200 OK", head))),
        // The range that was asked for, said to be as long as the whole.
        "GET" if asked.target.ends_with("/object") => {
            let range =
                asked.headers.lines().find_map(|line| line.strip_prefix("range: bytes=").or_else(|| line.strip_prefix("Range: bytes=")));
            let range = range.unwrap_or_default();
            let answer = liar::head("206 Partial Content", &format!("Content-Range: bytes {range}/1099511627776\r\n{head}"));
            Some(stream.write_all(&answer).and(Err(std::io::ErrorKind::Other.into())))
        }
        _ => None,
    });
    let mount = mount_of(&liar);
    let mut file = bounded(&mount, "1 TiB", || {
        assert_eq!(fs::metadata(mount.path().join("object")).unwrap().len(), 1 << 40);
        fs::File::open(mount.path().join("object")).unwrap()
    });
    bounded(&mount, "its bytes", || file.read_exact(&mut [0; 4096])).unwrap_err();
}

/// A directory without end: a marker that grows for ever.
fn endless(entries: u64) -> Liar {
    Liar::cos(move |asked, stream| {
        let prefix = asked.param("prefix").filter(|prefix| asked.is_list() && prefix.starts_with("d%2F"))?;
        let (full, after) = (prefix == "d%2F", asked.param("marker").and_then(|marker| marker.rsplit("%2F").next()?.parse::<u64>().ok()));
        let from = after.map_or(0, |after| after + 1);
        // One entry tells that the directory is there; then as many a page as were asked for here.
        let count = if asked.param("max-keys") == Some("1") { 1 } else { entries };
        let body: String = (from..from + count).map(|n| entry(&format!("d/{n:012}"))).collect();
        let next = from + count.max(1) - 1;
        full.then(|| {
            liar::document(stream, &listing(&format!("<IsTruncated>true</IsTruncated><NextMarker>d/{next:012}</NextMarker>{body}")))
        })
    })
}

#[test]
fn a_listing_without_end_takes_bounded_memory() {
    let liar = endless(1000);
    let mount = mount_of(&liar);
    let directory = mount.path().join("d");
    let before = mount.peak_memory();
    let start = Instant::now();
    let mut last = Vec::new();
    for entry in fs::read_dir(&directory).unwrap().take(100_000) {
        let name = entry.unwrap().file_name().as_bytes().to_vec();
        assert!(name > last);
        last = name;
    }
    assert_eq!(last, b"000000099999");
    let more = mount.peak_memory() - before;
    println!("100,000 entries: {} ms, {} KiB more", start.elapsed().as_millis(), more >> 10);
    assert!(more < MEMORY, "{} MiB more", more >> 20);

    let refused = bounded(&mount, "rmdir", || fs::remove_dir(&directory)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::ENOTEMPTY));
    let asked = liar.seen().len();
    let refused = fs::rename(&directory, mount.path().join("e")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EXDEV), "past --rename-limit");
    assert!(liar.seen().len() < asked + 50);
    assert!(mount.peak_memory() - before < MEMORY);
}

/// Nothing can interrupt a program that waits in readdir: pages that bring nothing must come to an end.
#[test]
fn a_listing_of_nothing_without_end_is_an_error() {
    let liar = endless(0);
    let mount = mount_of(&liar);
    let directory = mount.path().join("d");
    assert!(fs::metadata(&directory).unwrap().is_dir());
    for (what, call) in [
        ("readdir", Box::new(|| names(&directory).map(drop)) as Box<dyn Fn() -> std::io::Result<()>>),
        ("rmdir", Box::new(|| fs::remove_dir(&directory))),
        ("rename", Box::new(|| fs::rename(&directory, mount.path().join("e")))),
    ] {
        let refused = bounded(&mount, what, call).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EIO), "{what}");
    }
    assert!(mount.log().contains("hold nothing"), "{}", mount.log());
}

/// Long answers to many requests at once: not each gets its megabytes.
#[test]
fn many_long_answers_at_once_wait_for_each_other() {
    let document = listing(&format!("<!--{}-->", "x".repeat((8 << 20) - 200)));
    let liar = Liar::cos(move |asked, stream| match asked.param("prefix") {
        Some(prefix) if asked.is_list() && prefix.starts_with('n') => Some(liar::document(stream, &document)),
        _ => None,
    });
    let mount = mount_of(&liar);
    let before = mount.peak_memory();
    std::thread::scope(|scope| {
        for n in 0..32 {
            let path = mount.path().join(format!("n{n}"));
            scope.spawn(move || assert!(fs::metadata(path).is_err()));
        }
    });
    let more = mount.peak_memory() - before;
    println!("32 answers of 8 MiB: {} MiB more", more >> 20);
    assert!(more < 2 * MEMORY, "{} MiB more", more >> 20);
}

/// Components that are no names, look like escapes, or speak to terminals and logs.
fn components() -> Vec<String> {
    let mut all: Vec<String> = [
        ".",
        "..",
        "",
        "...",
        "....",
        " ",
        "  ",
        ". ",
        ".. ",
        "-rf",
        "--",
        "~",
        "$HOME",
        "`id`",
        "$(id)",
        ";id",
        "|id",
        "&",
        "*",
        "?",
        "[a]",
        "{a,b}",
        "'",
        "\"",
        "\\",
        "a\\..\\b",
        "%",
        "%2e%2e",
        "%2F",
        "%00",
        "%2E",
        "..%2f",
        "@cos:",
        "@cos:%2E%2E",
        "@cos:@cos:x",
        "@cos",
        "@cos:%40cos:",
        "@cos:a%00b",
        "@cos:%2e",
        ".cosmount",
        ".cosmount ",
        ".Cosmount",
        ".lock",
        ".new",
        "ledger-0000",
        "spill-1",
        "etc",
        "passwd",
        "proc",
        "self",
        "con",
        "nul",
        "aux",
        "a:b",
        "a*b",
        "a\tb",
        "a\nb",
        "a\rb",
        "a\r\nb",
        "\n",
        "\u{1}",
        "\u{7}",
        "\u{8}",
        "\u{b}",
        "\u{c}",
        "\u{18}",
        "\u{1b}[2J",
        "\u{1b}]0;title\u{7}",
        "a\nERROR cosmount: all is lost",
        "a\u{0}b",
        "\0",
        "\u{7f}",
        "\u{80}",
        "\u{9b}31m",
        "\u{ad}",
        "\u{200b}",
        "\u{202e}gpj.exe",
        "\u{2028}",
        "\u{feff}",
        "\u{fffd}",
        "\u{fffe}",
        "\u{e000}",
        "\u{10ffff}",
        "\u{fc}",
        "u\u{308}",
        "\u{6c5f}",
        "\u{1f600}",
        "A",
        "a",
        "a.",
        "a ",
        " a",
        "a..",
        "..a",
        "a..b",
        "<a>",
        "&amp;",
        "]]>",
        "<!--",
        "%s%n",
        "{0}",
        "NULL",
    ]
    .map(str::to_owned)
    .to_vec();
    for length in [254, 255, 256, 300, 849] {
        all.push("x".repeat(length));
        all.push("\u{fc}".repeat(length / 2));
    }
    // Escapes of these are longer than a name may be.
    all.push(format!("@cos:{}", "y".repeat(250)));
    all.push(format!("\0{}", ".".repeat(200)));
    all
}

/// At least two thousand keys in the worst of company.
fn hostile_keys() -> BTreeSet<Vec<u8>> {
    let components = components();
    let mut keys = BTreeSet::new();
    for (index, component) in components.iter().enumerate() {
        let other = &components[(index * 7 + 3) % components.len()];
        let forms = [
            component.clone(),
            format!("{component}/"),
            format!("d{index}/{component}"),
            format!("d{index}/{component}/f"),
            format!("d{index}/a{component}"),
            format!("d{index}/{component}z"),
            format!("e/{component}/{component}/f"),
            format!("e/{component}/{other}"),
            format!("e/{component}/{other}/"),
            format!("../{component}"),
            format!("../../../../../../tmp/{component}"),
            format!("g/../{component}/x"),
            format!("g/./{component}/x"),
            format!("g//{component}"),
            format!("h{index}//{component}//"),
            format!(".cosmount/{component}"),
            format!("i/.cosmount/open/{component}"),
            format!("j/@cos:{component}"),
            format!("k/%2E%2E/{component}"),
            format!("l/{component}{other}"),
            format!("m{index}/\u{1b}[31m/{component}"),
            format!("n/{}/{component}", "p/".repeat(100)),
        ];
        keys.extend(forms.into_iter().map(String::into_bytes));
    }
    for length in [849, 850] {
        keys.insert("q".repeat(length).into_bytes());
        keys.insert(format!("{}r", "r/".repeat(length / 2)).as_bytes()[..length].to_vec());
    }
    for raw in [&b"\xff"[..], b"s/\xff\xfe", b"s/\xc3\x28/x", b"s/\xed\xa0\x80", b"s/a\xffb", b"\xe6\xb1", b"s/\xf5jrn"] {
        keys.insert(raw.to_vec());
    }
    keys.retain(|key| !key.is_empty() && key.len() <= 850);
    keys
}

/// What a component is shown as, by the table of `vfs/keymap.rs`, said once more.
fn shown(component: &str) -> Option<String> {
    let refused = |c: char| matches!(c, '\0' | '\u{18}'..='\u{1b}');
    let odd = matches!(component, "" | "." | "..") || component.contains(refused) || component.starts_with("@cos:");
    let name = if odd {
        let escape = |(index, c): (usize, char)| match c {
            '%' | '.' => format!("%{:02X}", c as u32),
            '@' if index == 0 => "%40".to_owned(),
            c if c.is_control() => c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect(),
            c => c.to_string(),
        };
        format!("@cos:{}", component.char_indices().map(escape).collect::<String>())
    } else {
        component.to_owned()
    };
    (component != ".cosmount" && name.len() <= 255).then_some(name)
}

/// The paths under which files are to be found, with the keys whose bytes they have. A file wins over what is below it.
fn expected(keys: &BTreeSet<Vec<u8>>) -> BTreeMap<PathBuf, String> {
    // COS takes no keys that begin with a slash or backslash, and no request can name the last two.
    let can_be = |key: &&str| !key.starts_with(['/', '\\']) && !matches!(*key, "." | "..");
    let texts: BTreeSet<&str> = keys.iter().filter_map(|key| std::str::from_utf8(key).ok()).filter(can_be).collect();
    let mut files = BTreeMap::new();
    'keys: for key in &texts {
        if key.ends_with('/') {
            continue;
        }
        let mut path = PathBuf::new();
        let mut end = 0;
        for component in key.split('/') {
            let Some(name) = shown(component) else { continue 'keys };
            path.push(name);
            end += component.len();
            // What lies below a file cannot be reached.
            let above = &key[..end];
            if end < key.len() && !above.ends_with('/') && texts.contains(above) {
                continue 'keys;
            }
            end += 1;
        }
        files.insert(path, (*key).to_owned());
    }
    files
}

/// Every file below `directory`, with its bytes.
fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?} is listed, and {error}")).file_type();
        if kind.is_dir() {
            walk(root, &path, found);
        } else {
            assert!(kind.is_file(), "{path:?}");
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert!(found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes).is_none(), "{path:?} is listed twice");
        }
    }
}

#[test]
fn hostile_keys_are_shown_once_and_touch_nothing_else() {
    let keys = hostile_keys();
    assert!(keys.len() >= 2000, "{}", keys.len());
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut mount = Mounted::builder()
        // (The tracer would else not see what it traces; what a core may hold is not this test's.)
        .under(&[
            "strace",
            "-D",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=%file",
            "-e",
            "signal=none",
            "-o",
            trace.to_str().unwrap(),
        ])
        .arg("--allow-core")
        .args(&["--log-level", "debug", "--consistency", "ttl", "--metadata-ttl", "60s"])
        .start();
    let mut put = BTreeSet::new();
    for key in &keys {
        // The emulator takes what COS takes.
        if mount.server().put(BUCKET, key, key.clone(), &[]).is_ok() {
            put.insert(key.clone());
        }
    }
    assert!(put.len() >= 2000, "only {} keys can be had", put.len());
    let expected = expected(&put);
    let mut found = BTreeMap::new();
    walk(&mount.path(), &mount.path(), &mut found);
    for (path, key) in &expected {
        assert_eq!(found.get(path).map(Vec::as_slice), Some(key.as_bytes()), "{key:?} is to be at {path:?}");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "nothing is to be at {path:?}");
    }

    // Writing goes by the same names: each lands under its own key, and nowhere else.
    let mut changed = 0;
    // (COS makes no new object of a key with these control characters.)
    let writable = expected.iter().filter(|(_, key)| !key.contains(|c| matches!(c, '\u{18}'..='\u{1b}')));
    for (path, key) in writable.step_by(40) {
        fs::write(mount.path().join(path), format!("changed {key}")).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        changed += 1;
        assert_eq!(&mount.object(key)[..], format!("changed {key}").as_bytes());
    }
    assert!(changed > 20, "{changed}");
    for name in ["@cos:%1B", "@cos:a%1Bb", "@cos:plain", "@cos:"] {
        let refused = fs::write(mount.path().join(name), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EINVAL), "{name}: {refused}");
    }
    mount.unmount();

    let log = fs::read(mount.log_file()).unwrap();
    let bad = log.iter().find(|byte| **byte < 0x20 && **byte != b'\n' || **byte == 0x7f);
    assert_eq!(bad, None, "a control character reached the log");
    assert!(!String::from_utf8_lossy(&log).lines().any(|line| line.starts_with("ERROR cosmount: all is lost")), "a key forged a line");
    check_trace(&fs::read_to_string(&trace).unwrap(), &mount, &put);
}

/// No path outside the mount's own directories is opened for writing or changed, and no part of a key is in any path.
fn check_trace(trace: &str, mount: &Mounted, keys: &BTreeSet<Vec<u8>>) {
    // (The last is the read-ahead of this mount, a number and a name of the kernel's.)
    let own = [
        mount.staging(),
        mount.path(),
        PathBuf::from("/run/cosmount"),
        PathBuf::from("/dev/fuse"),
        PathBuf::from("/dev/null"),
        PathBuf::from("/sys/class/bdi"),
    ];
    let changes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];
    let changing =
        ["mkdir", "rename", "unlink", "rmdir", "link", "symlink", "mknod", "chmod", "chown", "truncate", "utime", "setxattr", "creat"];
    let mut writes = 0;
    // Single words such as `a` are in every path; these are in none by chance.
    let telling: Vec<String> = keys
        .iter()
        .filter_map(|key| std::str::from_utf8(key).ok())
        .flat_map(|key| key.split('/'))
        .filter(|part| part.len() > 7 && !part.contains(['"', '\\']) && part.is_ascii() && !["@cos:%2E"].contains(part))
        .map(str::to_owned)
        .collect();
    let telling: BTreeSet<String> =
        telling.into_iter().filter(|part| part.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && part != ".cosmount").collect();
    assert!(telling.len() > 50);
    for line in trace.lines() {
        let Some((call, rest)) = line.split_once(' ').and_then(|(_, call)| call.trim_start().split_once('(')) else { continue };
        let paths: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
        if call == "execve" {
            continue;
        }
        for path in &paths {
            assert!(!path.split('/').any(|part| part == ".."), "{line}");
            for part in &telling {
                assert!(!path.contains(part.as_str()), "the key part {part:?} is in a path: {line}");
            }
        }
        if changes.iter().any(|flag| rest.contains(flag)) || changing.iter().any(|name| call.starts_with(name)) {
            writes += 1;
            for path in paths {
                // What is relative is relative to the staging directory, the only one that is held open.
                let inside =
                    !path.starts_with('/') || own.iter().any(|own| Path::new(path).starts_with(own)) || path.starts_with("/proc/self/");
                let failed_or_parent = own.iter().any(|own| own.starts_with(path));
                assert!(inside || failed_or_parent, "outside of its own directories: {line}");
                assert!(path.starts_with('/') || path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{line}");
            }
        }
    }
    assert!(writes > 3, "the trace has too little in it:\n{}", &trace[..trace.len().min(2000)]);
}

/// P44, with the whole program: what somebody put in the way of staging is refused, with a message, and not followed.
#[test]
fn planted_links_and_foreign_files_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let parent = parent.path().canonicalize().unwrap();
    let victim = parent.join("victim");
    let make = |path: &Path| {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    };
    make(&victim);
    fs::write(victim.join("precious"), "precious").unwrap();
    std::os::unix::fs::symlink(&victim, parent.join("link")).unwrap();
    make(&parent.join("world"));
    fs::set_permissions(parent.join("world"), fs::Permissions::from_mode(0o777)).unwrap();
    make(&parent.join("locked"));
    std::os::unix::fs::symlink(victim.join("precious"), parent.join("locked/.lock")).unwrap();
    make(&parent.join("mnt"));
    let server = cosmount::emulator::Server::start(cosmount::emulator::Config::with_bucket(BUCKET)).unwrap();
    for (staging, words) in [
        ("link", &["symbolic link", "victim"][..]),
        ("link/below", &["symbolic link"]),
        ("world", &["others may write"]),
        ("locked", &[]),
        ("victim/precious", &["no directory"]),
        ("mnt", &["in the mount itself"]),
        ("mnt/below", &["in the mount itself"]),
        ("victim/../mnt/x", &["in the mount itself"]),
    ] {
        let done = Command::new(env!("CARGO_BIN_EXE_cosmount"))
            .arg("mount")
            .arg(format!("cos://{BUCKET}/"))
            .arg(parent.join("mnt"))
            .args(["-f", "--region", "ap-guangzhou", "--endpoint", &server.endpoint()])
            .arg("--staging")
            .arg(parent.join(staging))
            .envs([("COS_SECRET_ID", "AKIDEXAMPLE"), ("COS_SECRET_KEY", "exampleSecretKey")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success(), "{staging} was taken");
        assert!(words.iter().all(|word| said.contains(word)) && said.contains(staging.rsplit('/').next().unwrap()), "{staging}: {said}");
        assert_eq!(fs::read(victim.join("precious")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1, "{staging}: something was made behind the link");
        assert_eq!(fs::read_dir(parent.join("mnt")).unwrap().count(), 0);
    }
}

/// A staging directory in which every file is noise: the mount comes up, or says why not, and takes nothing of it for data.
#[test]
fn noise_in_staging_is_no_data() {
    let mut mount = Mounted::new();
    fs::write(mount.path().join("a"), "a").unwrap();
    let staging = mount.staging();
    let ledger = fs::read_dir(&staging)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("ledger-")));
    let ledger = ledger.expect("a mount has a ledger");
    mount.kill();
    // Sparse and enormous: not even read.
    let file = fs::File::create(&ledger).unwrap();
    file.set_len(1 << 40).unwrap();
    drop(file);
    let start = Instant::now();
    let done = mount.try_again();
    assert!(!done.0.success() && done.1.contains("damaged at its beginning"), "{done:?}");
    assert!(start.elapsed() < TIME + Duration::from_secs(5));
    fs::remove_file(&ledger).unwrap();
    fs::write(staging.join("spill-1"), crate::hostile::noise(100_000)).unwrap();
    fs::write(staging.join("unknown"), "x").unwrap();
    mount.start_again();
    assert_eq!(fs::read(mount.path().join("a")).unwrap(), b"a");
    assert!(wait(Duration::from_secs(10), || !staging.join("spill-1").exists()), "what a dead mount left is cleared away");
    mount.unmount();
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Rule 10 and 2: a proxy's password is a secret, and this host is not reached through one.
#[test]
fn a_proxys_password_is_shown_nowhere() {
    let proxy = Liar::start(|_, stream| stream.write_all(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"));
    let url = format!("http://me:hushhush@{}", proxy.address());
    let mount = Mounted::builder().env("HTTP_PROXY", &url).env("ALL_PROXY", &url).arg("--log-level").arg("trace").start();
    fs::write(mount.path().join("a"), "a").unwrap();
    assert!(proxy.seen().is_empty(), "the emulator is on this host");
    assert!(!mount.log().contains("hushhush"));
    let environ = fs::read(format!("/proc/{}/environ", mount.pid())).unwrap();
    assert!(!environ.windows(8).any(|window| window == b"hushhush"), "the password is in the environment of the process");
}
