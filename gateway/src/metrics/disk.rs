//! The room on the disk of the data directory. A folder that hangs, as one of a network may, costs a scrape a moment and no
//! more than one thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest wait of a scrape for the disk.
const LOOK_TIME: Duration = Duration::from_millis(500);

/// The disk that holds a folder.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    /// A look is under way, possibly of an earlier scrape.
    is_looking: Arc<AtomicBool>,
}

/// The room on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) free: u64,
    pub(super) most: u64,
}

impl Disk {
    /// The disk that holds `folder`.
    pub fn of(folder: PathBuf) -> Self {
        Self { folder, is_looking: Arc::default() }
    }

    /// Asks how much room there is. `None` when the folder is not there or the disk does not answer in time.
    pub(super) async fn room(&self) -> Option<Room> {
        if self.is_looking.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (folder, is_looking) = (self.folder.clone(), Arc::clone(&self.is_looking));
        let look = tokio::task::spawn_blocking(move || {
            let found = rustix::fs::statvfs(&folder);
            is_looking.store(false, Ordering::Release);
            found
        });
        let found = tokio::time::timeout(LOOK_TIME, look).await.ok()?.ok()?.ok()?;
        // What only root may use is not free.
        Some(Room {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            most: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_room_of_a_folder_is_found_again_and_again() {
        let disk = Disk::of(std::env::temp_dir());
        for _ in 0..2 {
            let room = disk.room().await.expect("a folder of this machine");
            assert!(room.free <= room.most && room.most > 0, "{room:?}");
        }
        assert_eq!(Disk::of("/nowhere/at/all".into()).room().await, None);
    }
}
