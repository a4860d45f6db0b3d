//! copy_file_range, fallocate, lseek: bytes that are changed or looked for without being sent through this host.
//!
//! A copy between two files of the mount is made by the bucket: the destination refers to the version that the source has (`data::File::refer`), and its commit
//! copies from there, a whole small object with one request. What of the source is not in COS yet, and ranges shorter than a part, are read and
//! written as any program would. The source is claimed while it is referred to, so that nobody removes its object between the look at it and the note.

use std::{ops::Range, sync::Arc};

use crate::data::{self, File, Referred};

use crate::support::Ctx;

use crate::vfs::{Error, Fh, Result, Space, Vfs, handles::FileHandle, io::drop_privileges};

/// Bytes that are read and written at once where nothing else can be done.
const STEP: u64 = 1 << 20;
/// Bytes that one call reads and writes at most: the caller asks again for the rest, and can be interrupted between.
const MOST_READ: u64 = 32 << 20;
/// Bytes that one call copies at most: what fits the kernel's 32-bit answer, in whole pages.
const MOST_COPIED: u64 = (u32::MAX as u64) & !4095;

impl Vfs {
    /// Copies up to `len` bytes between files; returns how many.
    pub async fn copy_range(self: &Arc<Self>, cx: &Ctx, from: (Fh, u64), to: (Fh, u64), len: u64) -> Result<u32> {
        let (source, target) = (self.handles.file(from.0)?, self.handles.file(to.0)?);
        if !source.read || !target.write {
            return Err(Error::BadHandle);
        }
        self.may_change()?;
        let end = from.1.saturating_add(len.min(MOST_COPIED)).min(source.file.size());
        let (mut at, mut read) = (from.1, 0);
        let done = loop {
            if at >= end || read >= MOST_READ {
                break Ok(());
            }
            let there = to.1.saturating_add(at - from.1);
            match self.copy_step(cx, &source, at..end, &target, there).await {
                Ok(Referred::Done(bytes)) => at += bytes,
                // The source was cut meanwhile.
                Ok(Referred::Data(0)) => break Ok(()),
                Ok(Referred::Data(bytes)) => {
                    at += bytes;
                    read += bytes;
                }
                Err(error) => break Err(error),
            }
        };
        let copied = at - from.1;
        if copied == 0 {
            return done.map(|()| 0);
        }
        target.writers.lock().wrote(None);
        if self.note_changed(target.ino) && cx.uid != 0 {
            self.change_attributes(cx, target.ino, drop_privileges).await?;
        }
        // What was copied counts; the rest is the next call's error.
        u32::try_from(copied).map_err(|_| Error::Invalid("more bytes than a copy can have"))
    }

    async fn copy_step(
        self: &Arc<Self>,
        cx: &Ctx,
        source: &Arc<FileHandle>,
        range: Range<u64>,
        target: &Arc<FileHandle>,
        there: u64,
    ) -> Result<Referred> {
        let mut data = range.end - range.start;
        if source.ino != target.ino {
            let refer = || async {
                let _claim = self.claim(cx, &[source.ino]).await?;
                Ok::<_, Error>(target.file.refer(cx, there, &source.file, range.clone()).await)
            };
            let referred = match refer().await? {
                // What is there has left with a stream.
                Err(data::Error::Streaming) => {
                    self.commit(cx, target.ino).await?;
                    refer().await?
                }
                referred => referred,
            };
            match referred? {
                Referred::Done(bytes) => return Ok(Referred::Done(bytes)),
                Referred::Data(bytes) => data = bytes,
            }
        }
        let range = range.start..range.start + data.min(STEP);
        let read = |file: Arc<File>| {
            let range = range.clone();
            async move { file.read(cx, &source.reader, range).await }
        };
        let bytes = self.committing(cx, source.ino, || read(Arc::clone(&source.file))).await?;
        let bytes: bytes::Bytes = bytes.concat().into();
        self.committing(cx, target.ino, || target.file.write(cx, data::At::Offset(there), bytes.clone())).await?;
        cx.progressed();
        Ok(Referred::Data(bytes.len() as u64))
    }

    /// fallocate(2). No space is ever reserved in a bucket: what only reserves succeeds.
    pub async fn allocate(self: &Arc<Self>, cx: &Ctx, fh: Fh, range: Range<u64>, space: Space) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.write {
            return Err(Error::BadHandle);
        }
        self.may_change()?;
        let file = &handle.file;
        let size = file.size();
        let cut = range.start.min(size)..range.end.min(size);
        match space {
            Space::Reserve { keep_size: true } => return Ok(()),
            Space::Reserve { keep_size: false } if range.end <= size => return Ok(()),
            Space::Reserve { keep_size: false } => self.committing(cx, handle.ino, || file.truncate(cx, range.end)).await?,
            Space::Zero { keep_size: true } if cut.is_empty() => return Ok(()),
            Space::Zero { keep_size: true } => self.committing(cx, handle.ino, || file.punch(cx, cut.clone())).await?,
            Space::Zero { keep_size: false } => self.committing(cx, handle.ino, || file.punch(cx, range.clone())).await?,
        }
        handle.writers.lock().wrote(None);
        self.note_changed(handle.ino);
        Ok(())
    }

    /// lseek(2) with SEEK_DATA, or with SEEK_HOLE (`hole`).
    pub fn seek(&self, fh: Fh, from: u64, hole: bool) -> Result<u64> {
        self.handles.file(fh)?.file.seek(from, hole).ok_or(Error::NoData)
    }
}
