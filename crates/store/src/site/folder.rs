//! The files of a folder as objects: walked in the order of keys' bytes, written beside and linked into place.

use super::sort::{Record, Sorter};
use super::{Item, ItemFacts};
use crate::StoreError;
use crate::token::token;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::cmp::Ordering;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use terms::Timestamp;
use tokio::sync::mpsc;

/// What the names of files begin with that are being written.
const TEMPORARY: &str = ".bowline-tmp-";
/// What folders begin with into which goes what is in the way, where they lie within.
const ASIDE: &str = ".bowline-aside-";
/// What of a file's mode is kept and brought back. What makes a program run as its owner is no part of an object: brought back by root it
/// would run as root.
const MODE_BITS: u32 = 0o777;
/// How many items travel from the walking thread at once.
const BATCH: usize = 256;

/// A folder.
pub(super) struct FolderSite {
    root: PathBuf,
}

impl FolderSite {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn address(&self) -> String {
        format!("file://{}", self.root.display())
    }

    pub(super) fn failed(&self, operation: &'static str, key: &str, why: &str) -> StoreError {
        StoreError::Failed { store: self.address(), operation, path: key.to_owned(), why: why.to_owned() }
    }

    fn fail(&self, operation: &'static str, key: &str, error: &io::Error) -> StoreError {
        let (store, path, why) = (self.address(), key.to_owned(), error.to_string());
        match error.kind() {
            ErrorKind::PermissionDenied => StoreError::Denied { store, operation, path, why },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full { store, operation, path, why },
            ErrorKind::NotFound if !self.root.is_dir() => StoreError::NoStore { why: format!("{} is not there", self.root.display()), store },
            _ => StoreError::Failed { store, operation, path, why },
        }
    }

    /// Every file, in the order of keys' bytes.
    pub(super) fn list(self: &Arc<Self>) -> BoxStream<'static, Result<Item, StoreError>> {
        let (give, mut take) = mpsc::channel::<Vec<Result<Item, StoreError>>>(2);
        let site = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut batch = Vec::new();
            let mut tell = |item| {
                batch.push(item);
                batch.len() < BATCH || give.blocking_send(std::mem::take(&mut batch)).is_ok()
            };
            if let Err(error) = site.walk("", &mut tell) {
                tell(Err(error));
            }
            // Nobody listens any more when this fails.
            let _ = give.blocking_send(batch);
        });
        stream::poll_fn(move |context| take.poll_recv(context)).map(stream::iter).flatten().boxed()
    }

    fn walk(&self, prefix: &str, tell: &mut impl FnMut(Result<Item, StoreError>) -> bool) -> Result<bool, StoreError> {
        let folder = self.root.join(prefix);
        let read = match fs::read_dir(&folder) {
            // It went while its parent was read.
            Err(error) if error.kind() == ErrorKind::NotFound && !prefix.is_empty() => return Ok(true),
            read => read.map_err(|error| self.fail("list", prefix, &error))?,
        };
        let unsorted = |error: io::Error| self.failed("sort the listing of", prefix, &format!("no room for temporary files: {error}"));
        let mut entries = Sorter::new();
        for entry in read {
            let entry = entry.map_err(|error| self.fail("list", prefix, &error))?;
            let kind = entry.file_type().map_err(|error| self.fail("list", prefix, &error))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                let why = format!("the name {:?} is not UTF-8", entry.file_name());
                return Err(self.failed("list", prefix, &why));
            };
            if name.starts_with(TEMPORARY) || (prefix.is_empty() && name.starts_with(ASIDE)) {
                continue;
            }
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => entries.push(Entry { name: format!("{name}/") }).map_err(unsorted)?,
                (_, true) => entries.push(Entry { name }).map_err(unsorted)?,
                _ => {
                    return Err(self.failed(
                        "list",
                        &format!("{prefix}{name}"),
                        "it is neither a file nor a folder (a link?), and cannot be kept as an object",
                    ));
                }
            }
        }
        for entry in entries.finish().map_err(unsorted)? {
            let key = format!("{prefix}{}", entry.map_err(unsorted)?.name);
            let goes_on = match key.ends_with('/') {
                true => self.walk(&key, tell)?,
                false => match fs::symlink_metadata(self.root.join(&key)) {
                    Ok(found) => tell(Ok(item(key, &found))),
                    Err(error) if error.kind() == ErrorKind::NotFound => true,
                    Err(error) => return Err(self.fail("list", &key, &error)),
                },
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let site = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&site)).await {
            Ok(result) => result.map_err(|error| self.fail(operation, key, &error)),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(self.failed(operation, key, "the program is ending")),
        }
    }

    pub(super) async fn read(self: &Arc<Self>, wanted: &Item, range: Range<u64>) -> Result<Option<(Bytes, ItemFacts)>, StoreError> {
        let expected = wanted.clone();
        self.blocking("read", &wanted.key, move |site| {
            let file = match File::open(site.root.join(&expected.key)) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let mut body = vec![0; (range.end - range.start) as usize];
            match file.read_exact_at(&mut body, range.start) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            }
            // Asked last: what was written meanwhile is not what was listed.
            let found = file.metadata()?;
            let facts = ItemFacts { mode: Some(found.permissions().mode() & MODE_BITS), ..ItemFacts::default() };
            Ok((item(expected.key.clone(), &found).etag == expected.etag).then(|| (Bytes::from(body), facts)))
        })
        .await
    }

    /// Where its files go that are in the way: beside it, the same for every run of this name; within it where it is a mount point, since
    /// no file can be moved out of that.
    pub(super) fn aside(&self, name: &str) -> PathBuf {
        match is_mount_point(&self.root) {
            true => self.root.join(format!("{ASIDE}{name}")),
            false => PathBuf::from(format!("{}.aside-{name}", self.root.display())),
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.root.is_dir()
    }

    pub(super) async fn look(self: &Arc<Self>, key: &str) -> Result<Option<Item>, StoreError> {
        let name = key.to_owned();
        self.blocking("read", key, move |site| match fs::symlink_metadata(site.root.join(&name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(|found| Some(item(name, &found))),
        })
        .await
    }

    pub(super) async fn set_aside(self: &Arc<Self>, key: &str, aside: PathBuf) -> Result<(), StoreError> {
        let name = key.to_owned();
        self.blocking("move aside", key, move |site| move_aside(&site.root.join(&name), &aside.join(&name))).await
    }

    pub(super) async fn begin(
        site: &Arc<Self>,
        key: &str,
        facts: &ItemFacts,
        modified: Timestamp,
        aside: Option<PathBuf>,
    ) -> Result<Upload, StoreError> {
        let is_plain = !key.split('/').any(|part| part.is_empty() || part == "." || part == "..") && !key.contains('\0');
        if !is_plain {
            return Err(site.failed("write", key, "no file can have this key as its name"));
        }
        let (target, mode) = (site.root.join(key), facts.mode.unwrap_or(0o644) & MODE_BITS);
        let folder = target.parent().unwrap_or(&site.root).to_owned();
        let temporary = folder.join(format!("{TEMPORARY}{}", token()));
        let made = temporary.clone();
        let (file, made_folders) = site
            .blocking("write", key, move |site| {
                let made_folders = made_above(&folder, &site.root);
                fs::create_dir_all(&folder)?;
                let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&made)?;
                site.give(&file, &made_folders)?;
                // The umask took from it.
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                Ok((file, made_folders))
            })
            .await?;
        let aside = aside.map(|aside| aside.join(key));
        Ok(Upload {
            site: Arc::clone(site),
            key: key.to_owned(),
            file: Arc::new(file),
            temporary: Temporary(temporary),
            target,
            modified,
            aside,
            made_folders,
        })
    }
}

impl FolderSite {
    /// What root makes belongs to the owner of the whole folder, like what the application puts there itself: it could not use it otherwise.
    fn give(&self, file: &File, folders: &[PathBuf]) -> io::Result<()> {
        let owner = fs::metadata(&self.root)?;
        if file.metadata()?.uid() != 0 || owner.uid() == 0 {
            return Ok(());
        }
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
        folders.iter().try_for_each(|made| lchown(made, Some(owner.uid()), Some(owner.gid())))
    }
}

/// A file's name, or a folder's with a slash behind it, which is how keys sort.
struct Entry {
    name: String,
}

impl Record for Entry {
    fn order(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
    fn text_bytes(&self) -> usize {
        self.name.len()
    }
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.name.as_bytes());
    }
    fn read(from: &[u8]) -> Option<Self> {
        String::from_utf8(from.to_vec()).ok().map(|name| Self { name })
    }
}

/// A file on its way.
pub(super) struct Upload {
    site: Arc<FolderSite>,
    key: String,
    file: Arc<File>,
    temporary: Temporary,
    target: PathBuf,
    modified: Timestamp,
    aside: Option<PathBuf>,
    /// Those that were made for it.
    made_folders: Vec<PathBuf>,
}

impl Upload {
    pub(super) async fn piece(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let file = Arc::clone(&self.file);
        self.site.blocking("write", &self.key, move |_| (&*file).write_all(&bytes)).await
    }

    pub(super) async fn finish(self) -> Result<(), StoreError> {
        let Self { site, key, file, temporary, target, modified, aside, made_folders } = self;
        site.blocking("write", &key, move |_| {
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_micros(modified.unix_micros().max(0).unsigned_abs()))?;
            file.sync_all()?;
            // A folder of that name holds other objects: it stays, and the link fails.
            if let Some(aside) = aside.filter(|_| fs::symlink_metadata(&target).is_ok_and(|there| !there.is_dir())) {
                move_aside(&target, &aside)?;
            }
            // A link replaces nothing: whatever came meanwhile stays.
            fs::hard_link(&temporary.0, &target)?;
            drop(temporary);
            made_folders.iter().try_for_each(|made| sync_folder(made))?;
            sync_folder(&target)
        })
        .await
    }
}

/// A file that is gone when nobody needs it any more, finished or not.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays is no object: listings pass it over.
        let _ = fs::remove_file(&self.0);
    }
}

/// The folders from this one up to the root that are not there yet.
fn made_above(folder: &Path, root: &Path) -> Vec<PathBuf> {
    folder.ancestors().take_while(|above| above.starts_with(root) && !above.exists()).map(Path::to_owned).collect()
}

fn move_aside(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
    // An earlier run may have moved another one there: neither is lost.
    let mut place = to.to_owned();
    for number in 2.. {
        if fs::symlink_metadata(&place).is_err() {
            break;
        }
        place = PathBuf::from(format!("{}.{number}", to.display()));
    }
    fs::rename(from, &place)?;
    sync_folder(&place)
}

fn sync_folder(of: &Path) -> io::Result<()> {
    File::open(of.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn is_mount_point(root: &Path) -> bool {
    let (Ok(root), Ok(mounts)) = (fs::canonicalize(root), fs::read_to_string("/proc/self/mountinfo")) else { return false };
    // Some letters are written as \ooo.
    let plain = |text: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
    };
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|place| Path::new(&plain(place)) == root)
}

fn item(key: String, found: &Metadata) -> Item {
    let micros = found.mtime() * 1_000_000 + found.mtime_nsec() / 1_000;
    // The time of the last change to anything about it, too: `rsync -a` and `touch -r` set the other one.
    let (size, times) = (found.len(), (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()));
    let etag = format!("{:x}-{size:x}-{:x}.{:x}-{:x}.{:x}", found.ino(), times.0, times.1, times.2, times.3);
    Item { key, id: None, bytes: found.len(), modified: Timestamp::from_unix_micros(micros), etag, is_latest: true, is_removal: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_goes_where_it_can_be_moved_and_is_no_object_there() {
        assert_eq!(FolderSite::new("/proc".into()).aside("t"), PathBuf::from("/proc/.bowline-aside-t"));
        let folder = tempfile::tempdir().unwrap();
        let site = FolderSite::new(folder.path().to_owned());
        assert_eq!(site.aside("t"), PathBuf::from(format!("{}.aside-t", folder.path().display())));
        fs::create_dir(folder.path().join(".bowline-aside-t")).unwrap();
        for name in ["kept", ".bowline-aside-t/in-the-way"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let mut keys = Vec::new();
        site.walk("", &mut |item| {
            keys.push(item.unwrap().key);
            true
        })
        .unwrap();
        assert_eq!(keys, ["kept"]);
    }

    #[test]
    fn a_file_that_was_rewritten_with_its_former_time_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "one").unwrap();
        let before = fs::metadata(&file).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&file, "two").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
        let (before, after) = (item("a".into(), &before), item("a".into(), &fs::metadata(&file).unwrap()));
        assert_eq!(before.modified, after.modified);
        assert_ne!(before.etag, after.etag);
    }

    #[tokio::test]
    async fn what_comes_back_runs_as_nobody_else_and_belongs_to_the_owner_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        let owner = if is_root { 65_534 } else { nix::unistd::geteuid().as_raw() };
        std::os::unix::fs::chown(folder.path(), Some(owner), None).unwrap();
        let site = Arc::new(FolderSite::new(folder.path().to_owned()));
        let facts = ItemFacts { mode: Some(0o6755), ..ItemFacts::default() };
        let mut upload = FolderSite::begin(&site, "new/tool", &facts, Timestamp::from_unix_micros(0), None).await.unwrap();
        upload.piece(Bytes::from_static(b"x")).await.unwrap();
        upload.finish().await.unwrap();
        let made = |name: &str| fs::metadata(folder.path().join(name)).unwrap();
        assert_eq!(made("new/tool").mode() & 0o7777, 0o755);
        assert_eq!((made("new").uid(), made("new/tool").uid()), (owner, owner));
        // What was marked so by hand is not kept so.
        fs::set_permissions(folder.path().join("new/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        let found = site.look("new/tool").await.unwrap().unwrap();
        let (_, facts) = site.read(&found, 0..1).await.unwrap().unwrap();
        assert_eq!(facts.mode, Some(0o755));
    }
}
