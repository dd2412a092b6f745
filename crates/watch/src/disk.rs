//! Room on a disk, asked for a limited time: one whose file server is away never answers.

use crate::Trouble;
use crate::facts::DiskFacts;
use nix::sys::statvfs::statvfs;
use std::path::Path;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// How long a disk may take to say how full it is.
const LIMIT: Duration = Duration::from_secs(3);

/// What a file system says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Room {
    free_bytes: u64,
    total_bytes: u64,
}

/// Asks one disk. A thread waits for the answer, for as long as that takes; until it comes nobody asks again.
#[derive(Default)]
pub(crate) struct Disk {
    asked: Option<JoinHandle<Option<Room>>>,
}

impl Disk {
    /// Room on the file system of a directory; of its nearest parent that exists. `None` where no directory is meant, or none is there.
    pub(crate) async fn look(&mut self, name: &str, path: Option<&Path>, needed_bytes: Option<u64>) -> Result<Option<DiskFacts>, Trouble> {
        let Some(path) = path else { return Ok(None) };
        let there = path.to_owned();
        let room = self.ask(LIMIT, move || room(&there)).await.map_err(|_| silent(path))?;
        let facts = |Room { free_bytes, total_bytes }| DiskFacts {
            name: name.to_owned(),
            path: path.display().to_string(),
            free_bytes,
            total_bytes,
            needed_bytes,
        };
        Ok(room.map(facts))
    }

    async fn ask(&mut self, limit: Duration, ask: impl FnOnce() -> Option<Room> + Send + 'static) -> Result<Option<Room>, Elapsed> {
        let asked = self.asked.get_or_insert_with(|| spawn_blocking(ask));
        let answer = timeout(limit, asked).await?;
        self.asked = None;
        Ok(answer.ok().flatten())
    }
}

fn room(path: &Path) -> Option<Room> {
    let there = path.ancestors().find(|ancestor| ancestor.exists())?;
    let found = statvfs(there).ok()?;
    let block = found.fragment_size();
    // As df counts: what is kept for root is room for nobody, and neither used nor free.
    let total = found.blocks().saturating_sub(found.blocks_free()).saturating_add(found.blocks_available());
    Some(Room { free_bytes: found.blocks_available().saturating_mul(block), total_bytes: total.saturating_mul(block) })
}

fn silent(path: &Path) -> Trouble {
    Trouble {
        slug: "disk-silent".into(),
        summary: format!("the disk of {} does not say how full it is", path.display()),
        detail: format!("it did not answer within {} s.", LIMIT.as_secs()),
        hint: "It may be a network file system whose server is away: df on it hangs, too.".into(),
        is_damage: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn a_disk_that_hangs_keeps_nobody_waiting_and_is_asked_no_second_time_until_it_answers() {
        let (answer, hangs) = channel::<Room>();
        let room = |bytes| Room { free_bytes: bytes, total_bytes: bytes };
        let mut disk = Disk::default();
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
        assert!(disk.ask(short, move || hangs.recv().ok()).await.is_err());
        assert!(disk.ask(short, || panic!("a second thread hangs, too")).await.is_err());
        answer.send(room(1)).expect("it waits for that");
        assert_eq!(disk.ask(long, || panic!("it was asked already")).await, Ok(Some(room(1))));
        assert_eq!(disk.ask(long, move || Some(room(2))).await, Ok(Some(room(2))), "and now anew");
        let found = disk.look("drill", Some(Path::new("/nowhere/at/all")), Some(7)).await.expect("it answers").expect("of the root");
        assert!(found.total_bytes > 0 && found.needed_bytes == Some(7), "{found:?}");
    }
}
