//! Ordinary programs, unchanged, on a real mount: what people do with a directory.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use cosmount::emulator::Op;

use crate::common::{Mounted, checksum, sh, write_tree};

#[test]
fn cp_archive_of_2000_files_is_the_same_tree() {
    let mount = Mounted::new();
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path(), 2000);
    sh(mount.path(), &format!("cp -a {} copy", source.path().display()));
    sh(mount.path(), &format!("diff -r --no-dereference {} copy", source.path().display()));
    let mount = mount.remounted();
    sh(mount.path(), &format!("diff -r --no-dereference {} copy", source.path().display()));
    let (old, new) =
        (fs::symlink_metadata(source.path().join("d0/f0")).unwrap(), fs::symlink_metadata(mount.path().join("copy/d0/f0")).unwrap());
    assert_eq!((old.mtime(), old.mtime_nsec(), old.mode(), old.uid()), (new.mtime(), new.mtime_nsec(), new.mode(), new.uid()));
}

#[test]
fn rsync_moves_nothing_the_second_time() {
    let mount = Mounted::new();
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path(), 200);
    let rsync = format!("rsync -a --itemize-changes {}/ mirror/", source.path().display());
    let first = sh(mount.path(), &rsync);
    assert!(first.lines().count() >= 200, "{first}");
    assert_eq!(sh(mount.path(), &rsync), "", "the second run moves nothing");
    let mount = mount.remounted();
    assert_eq!(sh(mount.path(), &rsync), "", "nor does one after a remount");
    sh(mount.path(), &format!("diff -r --no-dereference {} mirror", source.path().display()));
}

#[test]
fn tar_goes_in_and_out() {
    let mount = Mounted::new();
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path(), 300);
    sh(mount.path(), &format!("tar -C {} -cf tree.tar .", source.path().display()));
    sh(mount.path(), "mkdir out && tar -C out -xpf tree.tar");
    sh(mount.path(), &format!("diff -r --no-dereference {} out", source.path().display()));
    sh(mount.path(), "tar -C out -cf - . | tar -df - -C out");
}

#[test]
fn git_keeps_a_repository() {
    let mount = Mounted::new();
    let git = "git -c user.name=t -c user.email=t@example.com -c init.defaultBranch=main -c gc.auto=0";
    sh(mount.path(), &format!("{git} init -q repo"));
    let repo = mount.path().join("repo");
    write_tree(&repo, 120);
    sh(&repo, &format!("{git} add -A && {git} commit -qm one"));
    sh(&repo, &format!("{git} checkout -q -b other && echo changed > d0/f0 && rm -r d1 && {git} commit -qam two"));
    sh(&repo, &format!("{git} checkout -q main && test -d d1 && {git} checkout -q other && test ! -e d1 && grep -q changed d0/f0"));
    sh(&repo, &format!("{git} gc -q && {git} fsck --full --strict"));
    assert_eq!(sh(&repo, &format!("{git} status --porcelain")), "");
    sh(mount.path(), &format!("{git} clone -q repo clone && cd clone && {git} checkout -q main && test -d d1 && {git} fsck --full"));
    let mount = mount.remounted();
    sh(mount.path().join("repo"), &format!("{git} fsck --full && test -z \"$({git} status --porcelain)\""));
}

#[test]
fn sqlite_commits_with_rollback_journal_and_wal() {
    let mount = Mounted::new();
    for mode in ["delete", "wal"] {
        sh(mount.path(), &format!("sqlite3 {mode}.db 'pragma journal_mode={mode}; create table t(k integer primary key, v text);'"));
        let inserts: String = (0..60).map(|n| format!("insert into t(v) values('{}');", "x".repeat(n * 37 % 3000))).collect();
        fs::write(
            mount.path().join(format!("{mode}.sql")),
            format!("pragma journal_mode={mode};{inserts}begin;delete from t where k%3=0;rollback;update t set v=v||'y';"),
        )
        .unwrap();
        sh(mount.path(), &format!("sqlite3 {mode}.db < {mode}.sql"));
        assert_eq!(sh(mount.path(), &format!("sqlite3 {mode}.db 'pragma integrity_check; select count(*) from t;'")).trim(), "ok\n60");
    }
    let mount = mount.remounted();
    for mode in ["delete", "wal"] {
        assert_eq!(sh(mount.path(), &format!("sqlite3 {mode}.db 'pragma integrity_check; select count(*) from t;'")).trim(), "ok\n60");
    }
}

#[test]
fn a_c_program_is_configured_compiled_and_linked() {
    let mount = Mounted::new();
    let dir = mount.path().join("program");
    fs::create_dir(&dir).unwrap();
    let units = 12;
    fs::write(
        dir.join("configure"),
        "#!/bin/sh\nset -e\n: > config.h\nfor h in stdio.h stdlib.h unistd.h no_such_header.h; do\n  printf '#include <%s>\\nint main(void){return 0;}\\n' $h > conftest.c\n  \
         n=$(echo $h | tr 'a-z./' 'A-Z__')\n  if ${CC:-cc} -o conftest conftest.c 2>conftest.log && ./conftest; then echo \"#define HAVE_$n 1\" >> config.h; fi\ndone\n\
         rm -f conftest conftest.c conftest.log\nsed 's/@CC@/cc/' Makefile.in > Makefile\n",
    )
    .unwrap();
    fs::set_permissions(dir.join("configure"), fs::Permissions::from_mode(0o755)).unwrap();
    let objects: Vec<String> = (0..units).map(|n| format!("u{n}.o")).collect();
    fs::write(
        dir.join("Makefile.in"),
        format!("CC=@CC@\nOBJS=main.o {objects}\nprogram: libu.a main.o\n\t$(CC) -o $@ main.o libu.a\nlibu.a: {objects}\n\tar rcs $@ $^\n%.o: %.c config.h\n\t$(CC) -O0 -c -o $@ $<\n", objects = objects.join(" ")),
    )
    .unwrap();
    let mut main = String::from(
        "#include \"config.h\"\n#ifdef HAVE_STDIO_H\n#include <stdio.h>\n#endif\n#ifdef HAVE_NO_SUCH_HEADER_H\n#error\n#endif\n",
    );
    for n in 0..units {
        fs::write(dir.join(format!("u{n}.c")), format!("#include \"config.h\"\nint u{n}(void) {{ return {n}; }}\n")).unwrap();
        main += &format!("int u{n}(void);\n");
    }
    main += &format!(
        "int main(void) {{ printf(\"%d\\n\", {}); return 0; }}\n",
        (0..units).map(|n| format!("u{n}()")).collect::<Vec<_>>().join("+")
    );
    fs::write(dir.join("main.c"), main).unwrap();
    sh(&dir, "./configure && make -s -j2");
    assert_eq!(sh(&dir, "./program").trim(), (0..units).sum::<i32>().to_string());
    assert_eq!(sh(&dir, "touch u3.c && make | grep -c -- '-c -o'").trim(), "1", "make sees one newer file");
}

#[test]
fn editors_and_dd_change_files_in_place() {
    let mount = Mounted::new();
    let path = &mount.path();
    fs::write(path.join("text"), "one\ntwo\nthree\n").unwrap();
    sh(path, "sed -i s/two/2/ text && test \"$(cat text)\" = \"$(printf 'one\\n2\\nthree')\"");
    sh(path, "vim -es -u NONE -c '%s/three/3/' -c wq text && grep -qx 3 text");
    let big: Vec<u8> = (0..3u32 << 20).map(|n| (n % 251) as u8).collect();
    fs::write(path.join("big"), &big).unwrap();
    sh(path, "printf PATCH | dd of=big bs=1 seek=1500000 conv=notrunc status=none");
    let mut expected = big;
    expected[1_500_000..1_500_005].copy_from_slice(b"PATCH");
    assert_eq!(fs::read(path.join("big")).unwrap(), expected);
    let mount = mount.remounted();
    assert_eq!(fs::read(mount.path().join("big")).unwrap(), expected);
    assert_eq!(&mount.object("big")[..], &expected[..]);
}

#[test]
fn truncate_goes_down_and_up() {
    let mount = Mounted::new();
    let file = mount.path().join("file");
    fs::write(&file, vec![7; 300_000]).unwrap();
    sh(mount.path(), "truncate -s 1000 file");
    assert_eq!(fs::read(&file).unwrap(), vec![7; 1000]);
    sh(mount.path(), "truncate -s 200000 file");
    let mut expected = vec![7; 1000];
    expected.resize(200_000, 0);
    assert_eq!(fs::read(&file).unwrap(), expected);
    assert_eq!(&mount.object("file")[..], &expected[..]);
    sh(mount.path(), "truncate -s 0 file");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
    let mount = mount.remounted();
    assert_eq!(fs::metadata(mount.path().join("file")).unwrap().len(), 0);
}

#[test]
fn mv_of_a_directory_with_500_files_and_rm_of_it() {
    let mount = Mounted::new();
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path(), 500);
    sh(mount.path(), &format!("cp -a {} before && mv before after && test ! -e before", source.path().display()));
    sh(mount.path(), &format!("diff -r --no-dereference {} after", source.path().display()));
    let mount = mount.remounted();
    sh(mount.path(), &format!("test ! -e before && diff -r --no-dereference {} after", source.path().display()));
    assert!(mount.keys("before").is_empty(), "{:?}", mount.keys("before"));
    sh(mount.path(), "rm -rf after");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    assert!(mount.keys("").is_empty(), "{:?}", mount.keys(""));
}

#[test]
fn two_programs_write_one_file_at_different_offsets() {
    let mount = Mounted::new();
    sh(
        mount.path(),
        "(for i in $(seq 0 2 38); do printf A%.0s $(seq 5000) | dd of=f bs=5000 seek=$i conv=notrunc status=none; done) & \
                      (for i in $(seq 1 2 39); do printf B%.0s $(seq 5000) | dd of=f bs=5000 seek=$i conv=notrunc status=none; done) & wait",
    );
    let expected: Vec<u8> = (0..40).flat_map(|n| std::iter::repeat_n(if n % 2 == 0 { b'A' } else { b'B' }, 5000)).collect();
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), expected);
    assert_eq!(&mount.object("f")[..], &expected[..]);
}

#[test]
fn a_shared_mapping_written_after_close_arrives() {
    let mount = Mounted::new();
    fs::write(mount.path().join("mapped"), vec![b'.'; 100_000]).unwrap();
    sh(
        mount.path(),
        "python3 -c \"\nimport mmap, os\nfd = os.open('mapped', os.O_RDWR)\nm = mmap.mmap(fd, 100000, mmap.MAP_SHARED)\nos.close(fd)\nm[50000:50005] = b'PATCH'\nm.close()\n\"",
    );
    let mut expected = vec![b'.'; 100_000];
    expected[50_000..50_005].copy_from_slice(b"PATCH");
    assert_eq!(fs::read(mount.path().join("mapped")).unwrap(), expected);
    let mount = mount.remounted();
    assert_eq!(fs::read(mount.path().join("mapped")).unwrap(), expected);
}

#[test]
fn a_reader_keeps_the_old_file_through_an_atomic_save() {
    let mount = Mounted::new();
    let (file, fresh) = (mount.path().join("document"), mount.path().join("document.new"));
    let old: Vec<u8> = (0..5_000_000u32).map(|n| (n % 253) as u8).collect();
    fs::write(&file, &old).unwrap();
    let mount = mount.remounted();
    let mut reader = File::open(&file).unwrap();
    let mut start = vec![0; 10];
    reader.read_exact(&mut start).unwrap();
    fs::write(&fresh, b"new text").unwrap();
    fs::rename(&fresh, &file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new text");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!([start, rest].concat(), old);
    drop(reader);
    assert_eq!(mount.keys_when(|keys| keys.len() == 1), ["document"], "nothing set aside is left");
}

#[test]
fn three_gib_go_in_and_out_within_400_mib() {
    let mount = Mounted::new();
    let path = mount.path().join("large");
    let mut block: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let blocks = 3 << 10;
    let mut file = File::create(&path).unwrap();
    let mut sum = checksum();
    for n in 0..blocks as u64 {
        block[..8].copy_from_slice(&n.to_le_bytes());
        sum.update(&block);
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let written = sum.finalize();
    let mount = mount.remounted();
    let mut file = File::open(&path).unwrap();
    let mut sum = checksum();
    for _ in 0..blocks {
        file.read_exact(&mut block).unwrap();
        sum.update(&block);
    }
    assert_eq!(file.read(&mut block).unwrap(), 0);
    assert_eq!(sum.finalize(), written);
    assert!(mount.peak_memory() < 400 << 20, "peak {} MiB", mount.peak_memory() >> 20);
}

#[test]
fn two_handles_and_an_append_are_coherent() {
    let mount = Mounted::new();
    let path = mount.path().join("log");
    let mut writer = File::create(&path).unwrap();
    writer.write_all(b"first\n").unwrap();
    let mut appender = File::options().append(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    appender.write_all(b"second\n").unwrap();
    writer.seek(SeekFrom::Start(0)).unwrap();
    writer.write_all(b"FIRST").unwrap();
    let mut all = vec![0; 13];
    reader.read_exact_at(&mut all, 0).unwrap();
    assert_eq!(all, b"FIRST\nsecond\n");
    writer.set_len(3).unwrap();
    appender.write_all(b"!").unwrap();
    drop((writer, appender));
    assert_eq!(fs::read(&path).unwrap(), b"FIR!");
    assert_eq!(&mount.object("log")[..], b"FIR!");
}

#[test]
fn symlinks_and_empty_directories_stay() {
    let mount = Mounted::new();
    fs::create_dir_all(mount.path().join("a/empty")).unwrap();
    symlink("../elsewhere/\u{fc}", mount.path().join("a/link")).unwrap();
    let mount = mount.remounted();
    assert!(mount.path().join("a/empty").is_dir());
    assert_eq!(fs::read_link(mount.path().join("a/link")).unwrap(), Path::new("../elsewhere/\u{fc}"));
}

/// touch(1) opens for writing, sets the time through the handle and closes, without a byte.
#[test]
fn times_set_through_a_handle_that_writes_nothing_stay() {
    let mount = Mounted::builder().arg("--metadata-ttl=0").start();
    mount.put("file", b"bytes", &[]);
    let path = mount.path().join("file");
    let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(then).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
    drop(file);
    for _ in 0..2 {
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 1);
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.modified().unwrap(), found.permissions().mode() & 0o7777), (then, 0o640));
    }
    let mount = mount.remounted();
    assert_eq!(fs::metadata(mount.path().join("file")).unwrap().modified().unwrap(), then);
}

/// A shell moves the new descriptor to its place and closes the first, and children close what they inherit: none of that makes an empty object.
#[test]
fn what_a_shell_redirects_is_one_object_at_once() {
    let mount = Mounted::new();
    let puts = |script: &str| {
        let before = mount.counters().of(Op::PutObject).requests;
        sh(mount.path(), script);
        mount.counters().of(Op::PutObject).requests - before
    };
    assert_eq!(puts("echo x > builtin"), 1);
    assert_eq!(puts("cat /etc/hostname > program"), 1);
    assert_eq!(puts("{ /bin/true; /bin/true; echo x; } > group"), 1);
    assert_eq!(puts("(sleep 0.1; echo x) > child"), 1);
    assert_eq!(puts("echo longer > builtin"), 1, "an old one is replaced at once, too");
    assert_eq!(puts(": > empty"), 1);
    assert_eq!(mount.object("empty"), "");
    sh(mount.path(), "touch touched");
    assert_eq!(mount.object("touched"), "");
    assert_eq!((mount.object("builtin"), mount.object("child")), ("longer\n".into(), "x\n".into()));
}
