//! Tells the kernel of what it did not ask for: remote changes, inodes that are wanted back.
//!
//! The kernel takes a notification only when nobody holds the directory or the page it is about, and a program holds those while it waits for
//! our answer to its request. So whoever has news only puts it into a queue; one thread, which holds no lock of ours and serves no request,
//! writes it to the kernel and may wait there as long as it must (F4).
//!
//! The queue is merged (what waits already is not put in twice) and bounded. Past the bound news is dropped and counted: names and attributes
//! are then believed until their TTL ends, and pages until the next open.

use std::{
    collections::{HashSet, VecDeque},
    ffi::{OsStr, OsString},
    io,
    sync::Arc,
};

use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex};

use crate::vfs::{Ino, Notify};

/// Most items that wait. One is about 100 bytes with its name.
const LONGEST_QUEUE: usize = 1 << 16;

/// The kernel, as `vfs` tells it things. Made before the mount; items wait until a session is attached.
#[derive(Debug, Clone, Default)]
pub struct KernelNotify {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Item>,
    // Invariant: the same items as `order`.
    waiting: HashSet<Item>,
    dropped: u64,
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Entry(Ino, OsString),
    Inode(Ino),
}

impl KernelNotify {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts the thread that writes to the kernel.
    pub(super) fn attach(&self, kernel: Notifier) -> io::Result<()> {
        self.deliver_to(move |item| match item {
            Item::Entry(parent, name) => kernel.inval_entry(INodeNo(parent.0), name),
            // From offset 0 to the end: pages and attributes.
            Item::Inode(ino) => kernel.inval_inode(INodeNo(ino.0), 0, 0),
        })
    }

    /// Ends the thread; what still waits is forgotten. The thread itself may be waiting in the kernel, so nobody joins it.
    pub fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.order.clear();
        queue.waiting.clear();
        self.shared.news.notify_all();
    }

    /// How many items were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.shared.queue.lock().dropped
    }

    /// Whether nothing waits. What was taken last may still be on its way.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.queue.lock().order.is_empty()
    }

    fn deliver_to(&self, write: impl Fn(&Item) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new().name("fuse-notify".to_owned()).spawn(move || {
            while let Some(item) = shared.next() {
                if let Err(error) = write(&item) {
                    // ENOENT (the kernel does not know it any more) is no error to fuser. What is left is ENOTEMPTY and EBUSY of a directory that
                    // is in use, or a connection that is gone: nothing that could be done better here.
                    tracing::debug!(?item, %error, "the kernel refused a notification");
                }
            }
        })?;
        Ok(())
    }

    fn put(&self, item: Item) {
        let mut queue = self.shared.queue.lock();
        if queue.closed || queue.waiting.contains(&item) {
            return;
        }
        if queue.order.len() >= LONGEST_QUEUE {
            queue.dropped += 1;
            return;
        }
        queue.waiting.insert(item.clone());
        queue.order.push_back(item);
        drop(queue);
        self.shared.news.notify_one();
    }
}

impl Notify for KernelNotify {
    fn entry(&self, parent: Ino, name: &OsStr) {
        self.put(Item::Entry(parent, name.to_owned()));
    }

    fn inode(&self, ino: Ino) {
        self.put(Item::Inode(ino));
    }
}

impl Shared {
    /// The oldest item, waiting for one; `None` when closed. It leaves the queue before it is written, so news that comes meanwhile is news.
    fn next(&self) -> Option<Item> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(item) = queue.order.pop_front() {
                queue.waiting.remove(&item);
                return Some(item);
            }
            self.news.wait(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn waiting_items_are_merged_and_delivered_in_order() {
        let notify = KernelNotify::new();
        for _ in 0..3 {
            notify.inode(Ino(7));
            notify.entry(Ino::ROOT, OsStr::new("a"));
        }
        notify.entry(Ino(7), OsStr::new("a"));
        let (tell, told) = mpsc::channel();
        notify.deliver_to(move |item| tell.send(item.clone()).map_err(io::Error::other)).unwrap();
        assert_eq!(told.recv().unwrap(), Item::Inode(Ino(7)));
        assert_eq!(told.recv().unwrap(), Item::Entry(Ino::ROOT, "a".into()));
        assert_eq!(told.recv().unwrap(), Item::Entry(Ino(7), "a".into()));
        notify.inode(Ino(7));
        assert_eq!(told.recv().unwrap(), Item::Inode(Ino(7)), "what was delivered is news again");
        notify.close();
        assert!(told.recv().is_err(), "the thread ends and drops its side");
    }

    #[test]
    fn putting_never_waits_for_a_kernel_that_does() {
        let notify = KernelNotify::new();
        let (release, wait) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        notify
            .deliver_to(move |_| {
                tell.send(()).map_err(io::Error::other)?;
                wait.recv().map_err(io::Error::other)
            })
            .unwrap();
        notify.inode(Ino(1));
        told.recv().unwrap();
        for ino in 0..(LONGEST_QUEUE as u64 + 10) {
            notify.inode(Ino(ino));
        }
        assert_eq!(notify.dropped(), 10);
        notify.close();
        drop(release);
    }
}
