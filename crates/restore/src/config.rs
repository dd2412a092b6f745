//! Configuration that lay outside the data directory: what may go back to its place, and what became of each file.

use crate::RestoreError;
use crate::contents::Contents;
use crate::replay::shell_word;
use crate::target::{Target, before, create_anew, not_taken};
use nix::libc::O_NOFOLLOW;
use nix::unistd::geteuid;
use pg::{CONTROL_FILE, ControlFile, data_directory_in};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use terms::{SystemId, Timestamp};

/// A folder with fewer parts than this is the system's and no cluster's: `/etc` has one.
const PARTS_MIN: usize = 2;

/// Where files of configuration may go back to. All else that a backup names stays beside the target: what is put back is put there unasked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigPlaces {
    /// `postgresql.conf` of the cluster that was backed up, where that was outside its data directory.
    pub config_file: Option<PathBuf>,
    /// Its three main files; each counts for itself, wherever it is.
    named: Vec<PathBuf>,
    /// What lies in one of these, at any depth.
    folders: Vec<PathBuf>,
}

impl ConfigPlaces {
    /// As the backup has recorded them, and the folder around the target.
    pub fn of(contents: &Contents, target: &Target) -> Self {
        let host = &contents.host;
        let was_inside = |path: &Path| contents.data_dir.as_ref().is_some_and(|data_dir| path.starts_with(data_dir));
        let is_outside = |path: &&PathBuf| path.is_absolute() && !was_inside(path) && !path.starts_with(&target.data_dir);
        let named: Vec<PathBuf> = [&host.config_file, &host.hba_file, &host.ident_file].into_iter().flatten().filter(is_outside).cloned().collect();
        // Older backups do not say which one was the main file.
        let guessed = contents.config.iter().filter(|path| host.config_file.is_none() && path.ends_with("postgresql.conf")).filter(is_outside);
        let folders = named.iter().chain([&target.data_dir]).chain(guessed).filter_map(|path| path.parent());
        let mut folders: Vec<PathBuf> = folders.filter(|folder| folder.components().count() > PARTS_MIN).map(Path::to_owned).collect();
        folders.dedup();
        Self { config_file: host.config_file.clone().filter(|path| is_outside(&path)), named, folders }
    }

    /// Whether this file may go back.
    pub fn may_hold(&self, original: &Path) -> bool {
        self.named.iter().any(|named| named == original) || self.folders.iter().any(|folder| original.starts_with(folder))
    }
}

/// Whether what lies in the place of the backup's configuration gives way to it: it belongs to no cluster that was restored here, but to
/// none or to another one, as a package's own does on a machine that is new.
pub fn gives_way(target: &Target, system_id: SystemId) -> bool {
    match fs::read(target.data_dir.join(CONTROL_FILE)).ok().and_then(|bytes| ControlFile::parse(&bytes).ok()) {
        Some(control) => control.system_id != system_id,
        None => !target.is_occupied(),
    }
}

/// Whether a cluster that lives elsewhere on this host is configured where this file lies: the nearest postgresql.conf above it names another
/// data directory than the target, and that holds a cluster.
pub fn is_anothers(original: &Path, target: &Target) -> bool {
    let main_file = original.ancestors().skip(1).map(|folder| folder.join("postgresql.conf")).find(|path| path.is_file());
    let data_dir = main_file.and_then(|path| data_directory_in(&path)).filter(|data_dir| !target.is_at(data_dir));
    data_dir.is_some_and(|data_dir| match fs::metadata(data_dir.join(CONTROL_FILE)) {
        Ok(_) => true,
        Err(e) => e.kind() == ErrorKind::PermissionDenied,
    })
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Nothing was there, and it is.
    PutBack,
    /// The same bytes were there.
    Same,
    /// What was there has this name now, and the backup's file is in its place.
    Replaced(PathBuf),
    /// Something else is there, and stays.
    Left,
    /// It was not put there, for this reason.
    Apart(String),
}

/// A file of configuration that lay outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Where it was.
    pub original: PathBuf,
    /// Where it lies beside the target.
    pub kept: PathBuf,
    /// What became of it.
    pub fate: Fate,
}

impl Placed {
    /// Whether its place holds something else than the backup did.
    pub fn is_open(&self) -> bool {
        matches!(self.fate, Fate::Left | Fate::Apart(_))
    }

    /// The command that puts it in its place.
    pub fn remedy(&self) -> String {
        // A percent sign is doubled for PostgreSQL only.
        let word = |path: &Path| shell_word(path).replace("%%", "%");
        let (kept, original) = (word(&self.kept), word(&self.original));
        match self.original.parent().filter(|folder| !folder.is_dir()) {
            Some(folder) => format!("mkdir -p {} && cp -p {kept} {original}", word(folder)),
            None => format!("cp -p {kept} {original}"),
        }
    }
}

/// Puts outside configuration (where it lies now, where it was) back where nothing is now, or where what is there gives way: that is renamed
/// to `NAME.before-TIME`. What [`is_anothers`] never gives way. It is done with the owner's rights: root makes a folder that is missing, and nothing else.
pub fn put_config_back(
    config: &[(PathBuf, PathBuf)],
    places: &ConfigPlaces,
    gives_way: bool,
    target: &Target,
    now: Timestamp,
) -> Result<Vec<Placed>, RestoreError> {
    let mut placed = Vec::new();
    // Before anything is put back: the backup's own main file may name whatever was there then.
    let anothers: Vec<bool> = config.iter().map(|(_, original)| is_anothers(original, target)).collect();
    for ((kept, original), is_anothers) in config.iter().zip(anothers) {
        let put = || {
            make_folder(original, target)?;
            target.as_owner(|| put_one(kept, original, gives_way && !is_anothers, now))
        };
        let fate = match places.may_hold(original) {
            false => Fate::Apart("it lies outside the folders of the cluster's configuration".into()),
            true if is_anothers && fs::symlink_metadata(original).is_err() => Fate::Apart("another cluster of this host is configured there".into()),
            true => match put() {
                Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                    Fate::Apart(format!("the owner of the data directory cannot write it: {e}"))
                }
                fate => fate.map_err(RestoreError::file("put back", original))?,
            },
        };
        placed.push(Placed { original: original.clone(), kept: kept.clone(), fate });
    }
    Ok(placed)
}

/// Under its name it is whole from the beginning: half of it would pass for somebody's changes in a second run.
fn put_one(kept: &Path, original: &Path, gives_way: bool, now: Timestamp) -> io::Result<Fate> {
    let mut new = original.as_os_str().to_owned();
    new.push(".bowline-new");
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(kept)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let fate = match fs::symlink_metadata(original) {
        Err(e) if e.kind() == ErrorKind::NotFound => Fate::PutBack,
        Err(e) => return Err(e),
        Ok(_) if fs::read(original).is_ok_and(|there| there == bytes) => {
            // A run that was killed may have left it.
            drop(fs::remove_file(&new));
            return Ok(Fate::Same);
        }
        Ok(_) if !gives_way => return Ok(Fate::Left),
        Ok(_) => Fate::Replaced(not_taken(before(original, now))),
    };
    let mut file = create_anew(&new, mode)?;
    // Whatever this process's umask says.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    if let Fate::Replaced(aside) = &fate {
        fs::rename(original, aside)?;
    }
    // A link, which unlike a rename goes over nothing that somebody has put there meanwhile.
    match fs::hard_link(&new, original) {
        // Not every file system has them.
        Err(e) if e.kind() != ErrorKind::AlreadyExists => fs::rename(&new, original)?,
        linked => {
            linked?;
            fs::remove_file(&new)?;
        }
    }
    let folder = original.parent().unwrap_or(Path::new("/"));
    File::open(folder)?.sync_all()?;
    Ok(fate)
}

/// Makes the folder of this file where it is missing, the owner's like all that is put into it.
fn make_folder(original: &Path, target: &Target) -> io::Result<()> {
    let Some(folder) = original.parent().filter(|folder| !folder.exists()) else { return Ok(()) };
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        match target.as_owner(|| DirBuilder::new().mode(0o755).create(folder)) {
            // Through a link of somebody else's root would make it where that one likes.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && geteuid().is_root() && is_real(folder.parent()) => {
                DirBuilder::new().mode(0o755).create(folder)?;
                lchown(folder, Some(target.owner.uid), Some(target.owner.gid))?;
            }
            made => made?,
        }
    }
    Ok(())
}

fn is_real(folder: Option<&Path>) -> bool {
    folder.is_some_and(|folder| fs::canonicalize(folder).is_ok_and(|real| real == folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::HostNeeds;

    fn owned(dir: &Path) -> Target {
        let mut target = Target::inspect(&dir.join("data")).unwrap();
        target.owner = pg::Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        target
    }

    fn contents(config_file: &Path, hba_file: &Path) -> Contents {
        let host = HostNeeds { config_file: Some(config_file.into()), hba_file: Some(hba_file.into()), ..HostNeeds::default() };
        Contents { data_dir: Some("/old/data".into()), host, ..Contents::default() }
    }

    #[test]
    fn what_is_no_part_of_the_clusters_configuration_may_not_go_back() {
        let dir = tempfile::tempdir().unwrap();
        let target = owned(dir.path());
        let places = ConfigPlaces::of(&contents(Path::new("/etc/postgresql/18/main/postgresql.conf"), Path::new("/etc/pg_hba.conf")), &target);
        assert_eq!(places.config_file.as_deref(), Some(Path::new("/etc/postgresql/18/main/postgresql.conf")));
        for may in ["/etc/postgresql/18/main/conf.d/a.conf", "/etc/pg_hba.conf"] {
            assert!(places.may_hold(Path::new(may)), "{may}");
        }
        for may_not in ["/etc/ld.so.preload", "/etc/postgresql/18/other/postgresql.conf", "/usr/lib/x.conf"] {
            assert!(!places.may_hold(Path::new(may_not)), "{may_not}");
        }
        let inside = ConfigPlaces::of(&contents(Path::new("/old/data/postgresql.conf"), Path::new("/old/data/pg_hba.conf")), &target);
        assert!(inside.config_file.is_none() && !inside.may_hold(Path::new("/old/data/pg_hba.conf")));
        // An older backup names no main file, and has one all the same.
        let config = vec!["/etc/postgresql/17/main/conf.d/a.conf".into(), "/etc/postgresql/17/main/postgresql.conf".into()];
        let older = ConfigPlaces::of(&Contents { config, ..Contents::default() }, &target);
        assert!(older.may_hold(Path::new("/etc/postgresql/17/main/conf.d/a.conf")) && !older.may_hold(Path::new("/etc/postgresql/17/other/a.conf")));
    }

    #[test]
    fn a_file_is_whole_from_the_moment_that_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, original, new) = (dir.path().join("kept"), dir.path().join("a.conf"), dir.path().join("a.conf.bowline-new"));
        fs::write(&kept, "the backup's").unwrap();
        // More than any umask leaves of it.
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o666)).unwrap();
        // A run before this one was killed while it wrote.
        fs::write(&new, "the b").unwrap();
        let now: Timestamp = "2026-11-22 14:05:00 UTC".parse().unwrap();
        assert_eq!(put_one(&kept, &original, false, now).unwrap(), Fate::PutBack);
        assert_eq!(fs::read_to_string(&original).unwrap(), "the backup's");
        assert_eq!(fs::metadata(&original).unwrap().permissions().mode() & 0o777, 0o666);
        assert!(!new.exists());
        fs::hard_link(&original, &new).unwrap();
        assert_eq!(put_one(&kept, &original, false, now).unwrap(), Fate::Same);
        assert!(!new.exists(), "it was killed just before it had removed it");
    }

    #[test]
    fn what_another_cluster_of_this_host_is_configured_by_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = owned(dir.path());
        let (etc, live, kept) = (dir.path().join("etc/18/main"), dir.path().join("live"), dir.path().join("kept"));
        fs::create_dir_all(etc.join("conf.d")).unwrap();
        fs::create_dir_all(live.join("global")).unwrap();
        fs::write(&kept, "the backup's").unwrap();
        let [main, included, hba] = ["postgresql.conf", "conf.d/a.conf", "pg_hba.conf"].map(|name| etc.join(name));
        let places = ConfigPlaces::of(&contents(&main, &hba), &target);
        let config = [&main, &included, &hba].map(|original| (kept.clone(), original.clone()));
        let now: Timestamp = "2026-11-22 14:05:00 UTC".parse().unwrap();
        let fates = || put_config_back(&config, &places, true, &target, now).unwrap().into_iter().map(|placed| placed.fate).collect::<Vec<_>>();
        fs::write(&main, format!("data_directory = '{}'\t# use data in another directory\ninclude_dir = 'conf.d'\n", live.display())).unwrap();
        fs::write(&hba, "its own").unwrap();
        fs::write(live.join(CONTROL_FILE), "").unwrap();
        let apart = Fate::Apart("another cluster of this host is configured there".into());
        assert_eq!(fates(), [Fate::Left, apart, Fate::Left]);
        assert!(!included.exists());
        // It is none any more.
        fs::remove_file(live.join(CONTROL_FILE)).unwrap();
        assert_eq!(fates(), [Fate::Replaced(before(&main, now)), Fate::PutBack, Fate::Replaced(before(&hba, now))]);
    }

    #[test]
    fn what_is_there_stays_or_is_set_aside_and_is_told_in_either_case() {
        let dir = tempfile::tempdir().unwrap();
        let target = owned(dir.path());
        let (etc, kept) = (dir.path().join("etc/main"), dir.path().join("kept"));
        let places = ConfigPlaces::of(&contents(&etc.join("postgresql.conf"), &etc.join("pg_hba.conf")), &target);
        let mut config = Vec::new();
        for (name, original) in [("a", etc.join("postgresql.conf")), ("b", etc.join("pg_hba.conf")), ("c", "/etc/ld.so.preload".into())] {
            fs::create_dir_all(&kept).unwrap();
            fs::write(kept.join(name), format!("the backup's {name}")).unwrap();
            config.push((kept.join(name), original));
        }
        let now: Timestamp = "2026-11-22 14:05:00 UTC".parse().unwrap();
        let fates = |gives_way| -> Vec<Fate> {
            put_config_back(&config, &places, gives_way, &target, now).unwrap().into_iter().map(|placed| placed.fate).collect()
        };
        let apart = Fate::Apart("it lies outside the folders of the cluster's configuration".into());
        assert_eq!(fates(false), [Fate::PutBack, Fate::PutBack, apart.clone()]);
        fs::write(etc.join("postgresql.conf"), "a package's").unwrap();
        assert_eq!(fates(false), [Fate::Left, Fate::Same, apart.clone()]);
        assert_eq!(fs::read_to_string(etc.join("postgresql.conf")).unwrap(), "a package's");
        let aside = before(&etc.join("postgresql.conf"), now);
        assert_eq!(fates(true), [Fate::Replaced(aside.clone()), Fate::Same, apart]);
        assert_eq!(fs::read_to_string(etc.join("postgresql.conf")).unwrap(), "the backup's a");
        assert_eq!(fs::read_to_string(aside).unwrap(), "a package's");
    }

    #[test]
    fn a_machine_that_holds_nothing_or_another_cluster_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let system_id: SystemId = "7000000000000000001".parse().unwrap();
        assert!(gives_way(&owned(dir.path()), system_id), "nothing is there");
        fs::create_dir_all(dir.path().join("data/global")).unwrap();
        assert!(!gives_way(&owned(dir.path()), system_id), "nobody can tell whose that is");
    }
}
