//! What other processes of this host have open, as `/proc` shows it.

use std::fs;

use tokio::task::spawn_blocking;

/// Descriptors looked at in one process: who has more is not worth the time.
const MOST: usize = 256;

/// Whether one of these processes has a descriptor of a file with this inode number. `false` where that cannot be known.
///
/// A descriptor that is being closed is no longer one, and a process that ends has none.
pub async fn has_open(pids: Vec<u32>, ino: u64) -> bool {
    spawn_blocking(move || pids.into_iter().any(|pid| is_among(pid, ino))).await.unwrap_or(false)
}

fn is_among(pid: u32, ino: u64) -> bool {
    // `ino:` is there since Linux 5.14. Reading it asks nothing of the file system that the file is in.
    let wanted = format!("ino:\t{ino}");
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    let infos = descriptors.take(MOST).filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    infos.into_iter().any(|info| info.lines().any(|line| line == wanted))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn a_descriptor_is_seen_until_it_is_closed() {
        let file = tempfile::tempfile().unwrap();
        let (ino, me) = (file.metadata().unwrap().ino(), std::process::id());
        assert!(has_open(vec![0, me], ino).await);
        drop(file);
        assert!(!has_open(vec![me], ino).await);
        assert!(!has_open(Vec::new(), ino).await);
    }
}
