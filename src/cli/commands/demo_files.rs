//! What the demo's bucket holds: photographs, logs, a program, texts, tables and one large object. The same every time.

use std::{fmt::Write as _, io};

use crate::emulator::Server;

/// Size of the large object. The server keeps one block of it.
const LARGE: u64 = 1 << 30;

/// Puts everything into the bucket and returns how many objects that was.
pub(super) fn fill(server: &Server, bucket: &str) -> io::Result<usize> {
    let mut files = vec![("README.txt".to_owned(), README.to_owned(), "text/plain")];
    files.extend(photos());
    files.extend(logs());
    files.extend(program());
    files.extend(texts());
    files.extend(tables());
    for (key, body, kind) in &files {
        server.put(bucket, key, body.clone(), &[("content-type", kind)])?;
    }
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    server.put_repeated(bucket, "large/1GiB.bin", block, LARGE)?;
    Ok(files.len() + 1)
}

type File = (String, String, &'static str);

/// Drawn landscapes: twelve albums of twelve.
fn photos() -> impl Iterator<Item = File> {
    (1..=12).flat_map(|month: u32| {
        (1..=12).map(move |number: u32| {
            let (hue, sun) = (month * 30 % 360, 30 + number * 15);
            let hills = (0..5).fold(String::new(), |mut path, n| {
                // Writing into a String cannot fail.
                let _ = write!(path, " Q{} {} {} 150", n * 60 + 15, 90 + (n * 37 + number * 11) % 50, n * 60 + 60);
                path
            });
            let body = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 300 200\">\
                 <rect width=\"300\" height=\"200\" fill=\"hsl({hue},60%,80%)\"/>\
                 <circle cx=\"{sun}\" cy=\"50\" r=\"18\" fill=\"gold\"/>\
                 <path d=\"M0 150{hills} V200 H0 Z\" fill=\"hsl({hue},40%,35%)\"/></svg>\n"
            );
            (format!("photos/2026/{month:02}/IMG_{:04}.svg", month * 100 + number), body, "image/svg+xml")
        })
    })
}

/// Two months of a web server's day.
fn logs() -> impl Iterator<Item = File> {
    (0..60).map(|day: u32| {
        let (month, day_of_month) = (10 + day / 30, 1 + day % 30);
        let mut body = String::new();
        for line in 0..200 {
            let (minute, trouble) = (line * 7 % 1440, (line * 31 + day * 17) % 97 < 3);
            let (level, what) = if trouble { ("ERROR", "upstream timed out") } else { ("INFO", "request served") };
            let _ = writeln!(
                body,
                "2026-{month:02}-{day_of_month:02}T{:02}:{:02}:00Z {level} worker-{} {what}",
                minute / 60,
                minute % 60,
                line % 8
            );
        }
        (format!("logs/app/2026-{month:02}-{day_of_month:02}.log"), body, "text/plain")
    })
}

/// A program of a main file and forty modules.
fn program() -> impl Iterator<Item = File> {
    let modules = 1..=40;
    let calls = modules.clone().fold(String::new(), |mut text, n| {
        let _ = writeln!(text, "    sum += part_{n:02}();");
        text
    });
    let declared = modules.clone().fold(String::new(), |mut text, n| {
        let _ = writeln!(text, "int part_{n:02}(void);");
        text
    });
    let main = format!(
        "#include <stdio.h>\n{declared}\nint main(void) {{\n    int sum = 0;\n{calls}    printf(\"hello from the bucket: %d\\n\", sum);\n    return 0;\n}}\n"
    );
    let makefile = "hello: $(patsubst %.c,%.o,$(wildcard *.c))\n\t$(CC) -o $@ $^\n\nclean:\n\trm -f *.o hello\n".to_owned();
    [("src/main.c".to_owned(), main, "text/x-c"), ("src/Makefile".to_owned(), makefile, "text/plain")]
        .into_iter()
        .chain(modules.map(|n| (format!("src/part_{n:02}.c"), format!("int part_{n:02}(void) {{ return {n}; }}\n"), "text/x-c")))
}

fn texts() -> impl Iterator<Item = File> {
    let plan = "# Plan\n\nStatus: draft\n\n1. Mount the bucket.\n2. Use it like a directory.\n3. Unmount it.\n".to_owned();
    [("docs/plan.md".to_owned(), plan, "text/markdown")].into_iter().chain((1..=30).map(|n: u32| {
        let body = (1..=12).fold(format!("# Note {n}\n\n"), |mut text, line| {
            let _ = writeln!(text, "- item {line}: {}", n * line * 7919 % 1000);
            text
        });
        (format!("docs/notes/note-{n:02}.md"), body, "text/markdown")
    }))
}

fn tables() -> impl Iterator<Item = File> {
    (1..=24).map(|station: u32| {
        let body = (0..365).fold("day,temperature,rain\n".to_owned(), |mut text, day: u32| {
            let _ = writeln!(text, "{},{},{}", day + 1, (day * 13 + station * 7) % 35, (day * 29 + station * 3) % 20);
            text
        });
        (format!("tables/station-{station:02}.csv"), body, "text/csv")
    })
}

const README: &str = "This is a bucket of a built-in COS server, mounted as a directory by cosmount.\n\
    What you change here is uploaded when you close the file, as it would be to COS, and gone when the demo ends.\n";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_few_hundred_files_under_names_of_their_own() {
        let files: Vec<File> = photos().chain(logs()).chain(program()).chain(texts()).chain(tables()).collect();
        let names: BTreeSet<_> = files.iter().map(|file| &file.0).collect();
        assert_eq!(names.len(), files.len());
        assert!((200..1000).contains(&files.len()), "{}", files.len());
        assert!(files.iter().all(|file| !file.1.is_empty()));
    }
}
