//! A target that holds data already: whether it is this cluster's, what of it has no place in the backup, and which chunks of it are right.

use crate::RestoreError;
use crate::feed::{MADE_ANYWAY, path_until_the_end};
use crate::files::TablespaceMap;
use crate::paths::{decode, inside, stays_inside};
use crate::place::{Item, Place, Shared, Span};
use crate::target::{Target, stays};
use nix::unistd::geteuid;
use pg::{CONTROL_FILE, ControlFile};
use repo::{ChunkRef, Entry, ManifestReader};
use seal::{Digest, Digester};
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use terms::SystemId;
use tokio::runtime::Handle;

/// The old control file's name while its cluster is being overwritten: nothing can start there, and a second run still knows whose it is.
pub(crate) const CONTROL_FILE_FORMER: &str = "global/pg_control.bowline-former";
/// Wanted frames with less than this between them (512 KiB stored) are fetched by one request.
const GAP_BYTES: u64 = 512 << 10;

/// What becomes of what lies in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Occupied {
    /// It is renamed aside, whole.
    #[default]
    MoveAside,
    /// It is this same cluster's, and is overwritten where it differs from the backup: the old copy is destroyed.
    Rewrite,
    /// It is an interrupted restore, whose journal says so: what is right of it is kept. Unlike [`Occupied::Rewrite`] it need not have a
    /// control file that tells whose it is.
    Resume,
}

/// Refuses a target that is not this cluster's own. Touches nothing.
pub fn recognise(target: &Target, occupied: Occupied, wanted: SystemId) -> Result<(), RestoreError> {
    if occupied == Occupied::MoveAside || !target.is_occupied() {
        return Ok(());
    }
    let refused = |why: String| {
        let hint = "Without --delta what is there is moved aside and kept.".into();
        Err(RestoreError::Target { path: target.data_dir.clone(), why, hint })
    };
    let names = [CONTROL_FILE.into(), CONTROL_FILE_FORMER.into(), path_until_the_end(CONTROL_FILE.into())];
    let control = |name: &PathBuf| ControlFile::parse(&fs::read(target.data_dir.join(name)).ok()?).ok();
    match names.iter().find_map(control).map(|control| control.system_id) {
        Some(found) if found == wanted => Ok(()),
        Some(found) => refused(format!("It holds another cluster (system identifier {found}, not {wanted}), which would be destroyed.")),
        None if occupied == Occupied::Resume => Ok(()),
        None => refused(format!("It has no readable {CONTROL_FILE}, so nothing proves that what would be overwritten is this cluster.")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// What is known of the place that is restored to. The default is an empty one.
#[derive(Default)]
pub(crate) struct Ground {
    /// Files that are there may be right.
    pub(crate) is_kept: bool,
    /// Where a linked pg_wal lies.
    pub(crate) wal_elsewhere: Option<PathBuf>,
    /// Tablespaces whose link leads where it is to lead already, and what the manifest has in each.
    ours: BTreeMap<u32, Vec<OsString>>,
    /// Everything the manifest names.
    named: Option<Named>,
    /// Whose a linked pg_wal must be. The restore takes the old cluster's place, links included; one elsewhere, with `None`, has no business
    /// behind its links.
    follows_wal_of: Option<u32>,
}

impl Ground {
    /// Reads the whole manifest and the target's links. Touches nothing.
    pub(crate) fn survey(
        mut manifest: ManifestReader,
        target: &Target,
        tablespaces: &TablespaceMap,
        digester: Digester,
        runtime: &Handle,
    ) -> Result<Self, RestoreError> {
        let mut named = Named { digester, digests: HashSet::new() };
        MADE_ANYWAY.iter().chain(&["pg_tblspc"]).for_each(|folder| named.add(Kind::Directory, Path::new(folder)));
        let (mut ours, mut folders) = (BTreeMap::new(), Vec::new());
        while let Some(entry) = runtime.block_on(manifest.next())? {
            match entry {
                Entry::Dir { path, .. } => {
                    let path = inside(&path)?;
                    named.add(Kind::Directory, &path);
                    folders.extend(top_of_a_tablespace(&path).map(|(oid, name)| (oid, name.to_owned())));
                }
                Entry::File(body) => named.add(Kind::File, &path_until_the_end(inside(&body.path)?)),
                Entry::Tablespace { oid, location } => {
                    let place = tablespaces.place(oid).map_or_else(|| decode(&location), Ok)?;
                    let link = target.data_dir.join("pg_tblspc").join(oid.to_string());
                    let is_there = fs::read_link(&link).is_ok() && same_directory(&link, &place);
                    if is_there {
                        ours.insert(oid, Vec::new());
                    }
                }
                Entry::Config(body) if decode(&body.path)?.strip_prefix("/").is_ok_and(stays_inside) => {}
                Entry::Config(body) => return Err(RestoreError::Path { path: body.path }),
                Entry::Header(_) | Entry::End(_) => {}
            }
        }
        for (oid, name) in folders {
            ours.entry(oid).and_modify(|names: &mut Vec<OsString>| names.push(name));
        }
        let follows_wal_of = tablespaces.elsewhere.is_none().then_some(target.owner.uid);
        Ok(Self { is_kept: true, wal_elsewhere: None, ours, named: Some(named), follows_wal_of })
    }

    /// Removes everything from the target that the manifest does not name.
    pub(crate) fn clear(mut self, target: &Target) -> Result<Self, RestoreError> {
        let Some(mut named) = self.named.take() else { return Ok(self) };
        self.sweep(&mut named, &target.data_dir, Path::new(""))?;
        Ok(self)
    }

    fn sweep(&mut self, named: &mut Named, folder: &Path, name: &Path) -> Result<(), RestoreError> {
        for item in fs::read_dir(folder).map_err(RestoreError::file("read", folder))? {
            let item = item.map_err(RestoreError::file("read", folder))?;
            let (path, name) = (item.path(), name.join(item.file_name()));
            let kind = item.file_type().map_err(RestoreError::file("look at", &path))?;
            if name.as_os_str() == item.file_name() && stays(&item.file_name()) {
                continue;
            }
            if kind.is_symlink() {
                if !self.link(named, &path, &name)? {
                    fs::remove_file(&path).map_err(RestoreError::file("remove", &path))?;
                }
            } else if kind.is_dir() {
                if named.has(Kind::Directory, &name) {
                    self.sweep(named, &path, &name)?;
                } else if name != Path::new("pg_wal/lost+found") {
                    fs::remove_dir_all(&path).map_err(RestoreError::file("remove", &path))?;
                }
            } else if !(kind.is_file() && (name == Path::new(CONTROL_FILE_FORMER) || named.has(Kind::File, &name))) {
                fs::remove_file(&path).map_err(RestoreError::file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Whether a link stays. Behind it is cleared then; else nothing behind it is touched.
    fn link(&mut self, named: &mut Named, path: &Path, name: &Path) -> Result<bool, RestoreError> {
        if let Some(uid) = self.follows_wal_of.filter(|_| name == Path::new("pg_wal"))
            && let Ok(real) = fs::canonicalize(path)
            && fs::symlink_metadata(&real).is_ok_and(|meta| meta.is_dir() && (meta.uid() == uid || !geteuid().is_root()))
        {
            // As root only what is the owner's: he can link whatever he likes, and would have it emptied.
            self.sweep(named, &real, name)?;
            self.wal_elsewhere = Some(real);
            return Ok(true);
        }
        let oid = name.strip_prefix("pg_tblspc").ok().and_then(Path::to_str).and_then(|oid| oid.parse().ok());
        let Some(folders) = oid.and_then(|oid: u32| self.ours.get(&oid)).cloned() else { return Ok(false) };
        // Other directories there are another cluster's, or are moved aside later.
        for folder in folders {
            let below = path.join(&folder);
            match fs::symlink_metadata(&below) {
                Ok(meta) if meta.is_dir() => self.sweep(named, &below, &name.join(&folder))?,
                Ok(_) => fs::remove_file(&below).map_err(RestoreError::file("remove", &below))?,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(RestoreError::file("look at", &below)(e)),
            }
        }
        Ok(true)
    }

    /// Whether this tablespace's link led to its place before the restore.
    pub(crate) fn is_ours(&self, oid: u32) -> bool {
        self.ours.contains_key(&oid)
    }

    /// Whether this directory of a tablespace is rewritten where it is.
    pub(crate) fn keeps_in_tablespace(&self, oid: u32, name: &OsStr) -> bool {
        self.ours.get(&oid).is_some_and(|names| names.iter().any(|known| known == name))
    }
}

/// Paths and kinds of all that a manifest names, as digests: 16 bytes each, however long the names.
struct Named {
    digester: Digester,
    digests: HashSet<Digest>,
}

impl Named {
    fn digest(&mut self, kind: Kind, path: &Path) -> Digest {
        let mut bytes = vec![if kind == Kind::Directory { b'd' } else { b'f' }];
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        self.digester.digest(&bytes)
    }
    fn add(&mut self, kind: Kind, path: &Path) {
        let digest = self.digest(kind, path);
        self.digests.insert(digest);
    }
    fn has(&mut self, kind: Kind, path: &Path) -> bool {
        let digest = self.digest(kind, path);
        self.digests.contains(&digest)
    }
}

/// From here on the directory is no cluster, until the restore has made it one again.
pub(crate) fn put_control_aside(target: &Target) -> Result<(), RestoreError> {
    let (control, former) = (target.data_dir.join(CONTROL_FILE), target.data_dir.join(CONTROL_FILE_FORMER));
    match fs::rename(&control, &former) {
        // An interrupted restore has none, or has put it aside already.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(RestoreError::file("rename", &control))?,
    }
    // A server that was started just now has read it; it is given back before anything else is touched.
    if let Err(e) = target.refuse_running() {
        fs::rename(&former, &control).map_err(RestoreError::file("rename", &former))?;
        return Err(e);
    }
    let folder = target.data_dir.join("global");
    File::open(&folder).and_then(|f| f.sync_all()).map_err(RestoreError::file("sync", &folder))
}

/// `pg_tblspc/{oid}/{name}`.
fn top_of_a_tablespace(path: &Path) -> Option<(u32, &OsStr)> {
    let mut parts = path.strip_prefix("pg_tblspc").ok()?.iter();
    let (oid, name) = (parts.next()?.to_str()?.parse().ok()?, parts.next()?);
    parts.next().is_none().then_some((oid, name))
}

fn same_directory(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// The parts of a span that have to be fetched, for their bytes are not on disk: each chunk that is there is held against its digest.
pub(crate) fn differing(shared: &Shared, span: Span, digester: &mut Digester, there: &mut Vec<u8>) -> Result<Vec<Span>, RestoreError> {
    let mut wanted: Vec<Span> = Vec::new();
    let mut reading: Option<(Arc<Place>, File)> = None;
    for item in span.items {
        if item.is_there && is_right(&item, &mut reading, digester, there)? {
            shared.chunks_kept.fetch_add(1, Ordering::Relaxed);
            shared.bytes_kept.fetch_add(item.plain_bytes, Ordering::Relaxed);
            shared.bytes.fetch_add(item.plain_bytes, Ordering::Relaxed);
            continue;
        }
        let ChunkRef(_, offset, stored, _) = item.chunk;
        let end = offset + u64::from(stored);
        match wanted.last_mut() {
            Some(last) if offset <= last.to.saturating_add(GAP_BYTES) && end.saturating_add(GAP_BYTES) >= last.from => {
                (last.from, last.to) = (last.from.min(offset), last.to.max(end));
                last.items.push(item);
            }
            _ => wanted.push(Span { pack: span.pack.clone(), from: offset, to: end, items: vec![item] }),
        }
    }
    Ok(wanted)
}

/// One file is open for reading at a time, whatever the span holds.
fn is_right(item: &Item, reading: &mut Option<(Arc<Place>, File)>, digester: &mut Digester, there: &mut Vec<u8>) -> Result<bool, RestoreError> {
    let path = &item.place.path;
    if !reading.as_ref().is_some_and(|(place, _)| Arc::ptr_eq(place, &item.place)) {
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
        *reading = Some((item.place.clone(), file.map_err(RestoreError::file("open", path))?));
    }
    let Some((_, file)) = reading else { return Ok(false) };
    there.resize(item.plain_bytes as usize, 0);
    file.read_exact_at(there, item.at).map_err(RestoreError::file("read", path))?;
    Ok(digester.digest(there) == item.chunk.3)
}
