//! Serves WAL to the server that is being recovered: what is in the plan is fetched ahead and handed over, what is not
//! is answered as absent, and everything else as a failure, so that recovery never ends because of one.
//!
//! `restore_command` is `bowline wal fetch --supply SOCKET %f %p`, a small process without keys or configuration.
//! It sends the wanted name as one line and reads one line: `placed`, `file PATH`, `absent`, or `failed WHY`.
//!
//! A segment is put into pg_wal under its own name, and the server is told that the archive has none: it then reads the one in pg_wal
//! (`XLogFileReadAnyTLI`, src/backend/access/transam/xlogrecovery.c). One that the archive delivers it would sync, rename, and sync again
//! with its directory (`KeepFileRestoredFromArchive`, xlogarchive.c), and wait for the disk three times a segment, for bytes of which the
//! repository has a copy and which no restored server needs once it is promoted.

use crate::RestoreError;
use crate::ahead::Window;
use crate::fetch::write_durably;
use crate::plan::RestorePlan;
use crate::tablespaces::Lookout;
use crate::tail::refuse_foreign;
use crate::target::create_anew;
use pg::Owner;
use repo::Reader;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use terms::{Event, Events, Explain, SegmentName, SegmentSize, SystemId, Timeline, WalName};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The most segments that are fetched before they are asked for, and the most bytes they may have.
const SEGMENTS_AHEAD: u64 = 32;
const BYTES_AHEAD: u64 = 512 << 20;
/// What fetching ahead may hold in memory: segments as they are and as they are stored.
const IN_MEMORY_BYTES: u64 = 128 << 20;
/// How often a store that fails is asked again before the server is told.
const TRIES: u32 = 5;

/// What a history that cannot be had is replaced by: no line of it names an ancestor.
const STAND_IN: &[u8] = b"# This timeline's history is damaged or missing in the repository. Its number is taken.\n";

/// Serves until it is dropped.
pub(crate) struct Supply {
    task: JoinHandle<()>,
    socket: PathBuf,
    shelf: Arc<Shelf>,
}

/// A segment on its way to the folder, or there.
type Fetching = JoinHandle<Result<PathBuf, RestoreError>>;

struct Shelf {
    reader: Reader,
    system_id: SystemId,
    segment_size: SegmentSize,
    histories: HashSet<Timeline>,
    /// The place of every segment in the plan.
    order: HashMap<SegmentName, usize>,
    plan: Vec<SegmentName>,
    folder: PathBuf,
    pg_wal: PathBuf,
    owner: Owner,
    lookout: Lookout,
    events: Arc<dyn Events>,
    /// Segments on their way or there.
    ahead: Mutex<Window<Fetching>>,
    /// Bounds what is on its way; who waits longest goes first.
    turns: Semaphore,
    waited_micros: AtomicU64,
    /// Why a file that was asked for could not be had, the first time.
    failure: std::sync::Mutex<Option<(WalName, RestoreError)>>,
    /// Timelines of which only that they were there is known.
    without_history: HashSet<Timeline>,
}

impl Supply {
    /// Listens on `socket`, in a folder that nobody else can enter yet, and begins at once to fetch into `folder`, which is on the filesystem
    /// of `pg_wal`.
    pub(crate) fn start(
        reader: &Reader,
        plan: &RestorePlan,
        segment_size: SegmentSize,
        socket: PathBuf,
        folder: PathBuf,
        pg_wal: PathBuf,
        owner: Owner,
        lookout: Lookout,
        events: Arc<dyn Events>,
    ) -> Result<Self, RestoreError> {
        let listener = UnixListener::bind(&socket).map_err(RestoreError::file("listen on", &socket))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map_err(RestoreError::file("set the mode of", &socket))?;
        lchown(&socket, Some(owner.uid), Some(owner.gid)).map_err(RestoreError::file("own", &socket))?;
        let shelf = Arc::new(Shelf {
            reader: reader.clone(),
            system_id: plan.backup.system_id,
            segment_size,
            histories: plan.histories.iter().copied().collect(),
            without_history: plan.without_history.iter().copied().collect(),
            order: plan.segments.iter().enumerate().map(|(at, name)| (*name, at)).collect(),
            plan: plan.segments.clone(),
            folder,
            pg_wal,
            owner,
            lookout,
            events,
            ahead: Mutex::new(Window::new(plan.segments.len(), (BYTES_AHEAD / segment_size.bytes()).clamp(2, SEGMENTS_AHEAD) as usize)),
            turns: Semaphore::new((IN_MEMORY_BYTES / (2 * segment_size.bytes())).clamp(1, 8) as usize),
            waited_micros: AtomicU64::new(0),
            failure: std::sync::Mutex::default(),
        });
        // Before the server is even started: its first question finds the answer.
        shelf.move_to(&mut *shelf.ahead.try_lock().map_err(|e| RestoreError::Bug(e.to_string()))?, 0);
        let served = shelf.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shelf = served.clone();
                // A client that goes away has nobody to tell; the server asks again.
                tokio::spawn(async move { drop(serve(&shelf, stream).await) });
            }
        });
        Ok(Self { task, socket, shelf })
    }

    /// Makes durable what the server has left of the segments it was given; it has ended. All but the last are gone by then.
    pub(crate) fn settle(&self) -> Result<(), RestoreError> {
        for path in self.shelf.plan.iter().map(|name| self.shelf.pg_wal.join(name.to_string())) {
            match fs::File::open(&path).and_then(|file| file.sync_all()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(RestoreError::file("sync", &path)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Why the server was told that a file cannot be had, the first time it was.
    pub(crate) fn failure(&self) -> Option<(WalName, RestoreError)> {
        self.shelf.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// What was moved from where the log creates tablespaces.
    pub(crate) fn moved(&self) -> Vec<(PathBuf, PathBuf)> {
        self.shelf.lookout.moved()
    }

    /// How long the server waited for segments that were not there when it asked.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_micros(self.shelf.waited_micros.load(Ordering::Relaxed))
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        self.task.abort();
        if let Ok(mut ahead) = self.shelf.ahead.try_lock() {
            ahead.clear().for_each(|task| task.abort());
        }
        drop(fs::remove_file(&self.socket));
    }
}

async fn serve(shelf: &Arc<Shelf>, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let Ok(name) = line.trim_end().parse::<WalName>() else { return write.write_all(b"absent\n").await };
    let answer = match shelf.answer(&name).await {
        Ok(Answer::Placed) => "placed\n".to_owned(),
        Ok(Answer::File(path)) => format!("file {}\n", path.display()),
        Ok(Answer::Absent) => "absent\n".to_owned(),
        Err(e) => {
            let why = e.in_a_line().replace('\n', " ");
            shelf.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert((name, e));
            format!("failed {why}\n")
        }
    };
    write.write_all(answer.as_bytes()).await
}

enum Answer {
    /// Where the server looks next.
    Placed,
    File(PathBuf),
    Absent,
}

impl Shelf {
    async fn answer(self: &Arc<Self>, name: &WalName) -> Result<Answer, RestoreError> {
        match name {
            WalName::Segment(segment) => match self.order.get(segment) {
                Some(at) => {
                    let path = self.segment(*segment, *at).await?;
                    let former = at.checked_sub(1).map(|before| self.plan[before]).map(|name| (name, self.pg_wal.join(name.to_string())));
                    self.lookout.look(*segment, &path, former.as_ref().map(|(name, path)| (*name, path.as_path())))?;
                    place(&self.pg_wal, *segment, &path, self.owner)?;
                    self.events.tell(Event::SegmentReplayed { segment: *segment });
                    Ok(Answer::Placed)
                }
                None => Ok(Answer::Absent),
            },
            WalName::History(timeline) if self.histories.contains(timeline) => fetch(self.clone(), name.clone()).await.map(Answer::File),
            // The server only looks whether it is there, so as not to give its number to the new timeline.
            WalName::History(timeline) if self.without_history.contains(timeline) => put_down(self, name, STAND_IN).map(Answer::File),
            _ => Ok(Answer::Absent),
        }
    }

    async fn segment(self: &Arc<Self>, segment: SegmentName, at: usize) -> Result<PathBuf, RestoreError> {
        let mine = {
            let mut ahead = self.ahead.lock().await;
            self.move_to(&mut ahead, at);
            ahead.take(at).ok_or_else(|| RestoreError::Bug(format!("{segment} was not begun")))?
        };
        let begun = Instant::now();
        let is_there = mine.is_finished();
        let path = match mine.await.map_err(|e| RestoreError::Bug(e.to_string()))? {
            // What failed a while ago, before anybody asked, may go well now.
            Err(e) if is_there && e.class() == terms::Class::Transient => fetch(self.clone(), WalName::Segment(segment)).await?,
            fetched => fetched?,
        };
        if !is_there {
            self.waited_micros.fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        Ok(path)
    }

    fn move_to(self: &Arc<Self>, ahead: &mut Window<Fetching>, at: usize) {
        let begin = |place: usize| {
            let shelf = self.clone();
            tokio::spawn(async move {
                // What the server waits for now does not stand in line behind what it may want later.
                let _turn = if place == at { None } else { Some(shelf.turns.acquire().await.map_err(|e| RestoreError::Bug(e.to_string()))?) };
                fetch(shelf.clone(), WalName::Segment(shelf.plan[place])).await
            })
        };
        for (place, task) in ahead.move_to(at, begin) {
            task.abort();
            drop(fs::remove_file(self.folder.join(self.plan[place].to_string())));
        }
    }
}

/// Puts a fetched segment into pg_wal, marked as archived, as the server does with what an archive delivers (`XLogArchiveForceDone`).
fn place(pg_wal: &Path, segment: SegmentName, path: &Path, owner: Owner) -> Result<(), RestoreError> {
    let done = pg_wal.join("archive_status").join(format!("{segment}.done"));
    // The folder is the owner's, whose link would have root empty and give away what it leads to.
    let mark = create_anew(&done, 0o600).map_err(RestoreError::file("write", &done))?;
    fchown(&mark, Some(owner.uid), Some(owner.gid)).map_err(RestoreError::file("own", &done))?;
    let placed = pg_wal.join(segment.to_string());
    fs::rename(path, &placed).map_err(RestoreError::file("rename", path))
}

/// Fetches a file of the plan into the folder. That it is listed and cannot be had is a failure, never an absence.
async fn fetch(shelf: Arc<Shelf>, name: WalName) -> Result<PathBuf, RestoreError> {
    let mut pause = Duration::from_millis(200);
    for attempt in 1.. {
        let found = match name {
            WalName::Segment(segment) => {
                shelf.reader.fetch_segment(shelf.system_id, segment, shelf.segment_size).await.map(|stored| stored.padded(shelf.segment_size))
            }
            _ => shelf.reader.fetch_wal(shelf.system_id, &name).await,
        };
        match found {
            Ok(Some(bytes)) => {
                if let WalName::Segment(segment) = name {
                    refuse_foreign(&bytes, segment, shelf.system_id, shelf.segment_size)?;
                }
                let put = tokio::task::spawn_blocking(move || {
                    if let WalName::Segment(segment) = name {
                        shelf.lookout.glance(segment, &bytes);
                    }
                    put_down(&shelf, &name, &bytes)
                });
                return put.await.map_err(|e| RestoreError::Bug(e.to_string()))?;
            }
            Ok(None) => return Err(RestoreError::Fetch { name: name.to_string(), why: "It was listed and is gone.".into() }),
            Err(e) if e.class() == terms::Class::Transient && attempt < TRIES => {
                sleep(pause).await;
                pause *= 2;
            }
            Err(e) => return Err(e.into()),
        }
    }
    unreachable!("the loop returns")
}

fn put_down(shelf: &Shelf, name: &WalName, bytes: &[u8]) -> Result<PathBuf, RestoreError> {
    let path = shelf.folder.join(name.to_string());
    let written = match name {
        WalName::Segment(_) => write_quickly(&path, bytes, shelf.owner),
        _ => write_durably(&path, bytes, Some(shelf.owner)),
    };
    written.map_err(RestoreError::file("write", &path))?;
    Ok(path)
}

/// Not durable: a restore that power loss interrupts fetches it again, and one that ends has no more need of it.
fn write_quickly(to: &Path, bytes: &[u8], owner: Owner) -> std::io::Result<()> {
    let mut file = create_anew(to, 0o600)?;
    fchown(&file, Some(owner.uid), Some(owner.gid))?;
    file.write_all(bytes)
}

/// How a request to a supply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supplied {
    /// It lies in pg_wal, where the server looks for what its archive does not have.
    Placed,
    /// The file is where it was wanted.
    Delivered,
    /// It is not in the plan.
    Absent,
    /// It could not be had; nothing may be concluded from that.
    Failed(String),
}

/// The other end: asks the supply at `socket` for `name` and moves the file to `to`. Blocking, and without any set-up:
/// recovery starts this once for every segment.
pub fn ask_supply(socket: &Path, name: &str, to: &Path) -> Supplied {
    use std::io::{BufRead, Write};
    let ask = || -> std::io::Result<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(600)))?;
        writeln!(stream, "{name}")?;
        let mut answer = String::new();
        std::io::BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Err(e) => Supplied::Failed(format!("the restore that started this server does not answer: {e}")),
        Ok(answer) => match answer.trim_end().split_once(' ') {
            Some(("file", path)) => match crate::fetch::move_file(Path::new(path), to) {
                Ok(()) => Supplied::Delivered,
                Err(e) => Supplied::Failed(format!("cannot move {path} to {}: {e}", to.display())),
            },
            Some(("failed", why)) => Supplied::Failed(why.to_owned()),
            None if answer.trim_end() == "placed" => Supplied::Placed,
            None if answer.trim_end() == "absent" => Supplied::Absent,
            _ => Supplied::Failed(format!("an answer that makes no sense: {answer:?}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_file_of_the_supply_goes_through_a_link_that_somebody_laid_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, folder, precious) = (dir.path().join("pg_wal"), dir.path().join("wal"), dir.path().join("precious"));
        fs::create_dir_all(wal.join("archive_status")).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&precious, "precious").unwrap();
        let segment: SegmentName = "000000010000000000000003".parse().unwrap();
        let (fetched, history) = (folder.join(segment.to_string()), folder.join("00000002.history"));
        let done = wal.join("archive_status").join(format!("{segment}.done"));
        for link in [&fetched, &folder.join("00000002.history.bowline"), &done, &wal.join(segment.to_string())] {
            symlink(&precious, link).unwrap();
        }
        let owner = Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        write_quickly(&fetched, b"a segment", owner).unwrap();
        write_durably(&history, b"a history", Some(owner)).unwrap();
        place(&wal, segment, &fetched, owner).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_to_string(wal.join(segment.to_string())).unwrap(), "a segment");
        assert_eq!(fs::read_to_string(&history).unwrap(), "a history");
        assert!(fs::symlink_metadata(&done).unwrap().is_file());
    }
}
