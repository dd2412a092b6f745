//! The journal of a restore: what is asked for and how far it is, durable beside the target, so that a second run goes on.

use crate::RescueError;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;
use pg::StaleCollation;
use restore::{ConfigPlaces, Detour, Placed, Target, UNFINISHED, Wish, create_anew};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use terms::{BackupId, Lsn, RecoveryTarget, Timeline, Timestamp};

/// Grows when a reader of older ones would misunderstand a newer one.
const FORMAT: u32 = 1;
const NAME: &str = "restore.json";
const LOCK: &str = "restore.lock";

/// How far a restore is; each is reached once, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing was touched.
    Begun,
    /// Its command ended well; where there is none, and beside production, nothing was done.
    ServiceStopped,
    /// No process of a server is left on the data directory.
    ServerStopped,
    /// What the old pg_wal held beyond the repository is in it, or was given up.
    Salvaged,
    /// The old data lie aside; the data directory is this restore's own.
    SetAside,
    /// They are durable; the server was not started yet.
    FilesRestored,
    /// The mark of recovery was set: where it is gone, recovery is over.
    Recovering,
    /// It is promoted, and was stopped again.
    Recovered,
    /// It passed what it was asked, or was asked nothing; of a copy to look at, whatever was found.
    Validated,
    /// The server runs for all. What is left can be done in any order, and each is noted by itself.
    ServerStarted,
    /// Nothing is left to do: the journal counts no more.
    Done,
}

impl Stage {
    /// What was reached, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Begun => "it had begun",
            Self::ServiceStopped => "the service was stopped",
            Self::ServerStopped => "PostgreSQL was stopped",
            Self::Salvaged => "the old pg_wal was saved",
            Self::SetAside => "the old data were set aside",
            Self::FilesRestored => "the files were restored",
            Self::Recovering => "WAL was being replayed",
            Self::Recovered => "the cluster was recovered",
            Self::Validated => "the cluster was validated",
            Self::ServerStarted => "PostgreSQL was started",
            Self::Done => "it was done",
        }
    }
}

/// Where recovery ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecoveredTo {
    /// The new one.
    pub timeline: Timeline,
    /// The end of the last record that was replayed.
    pub lsn: Lsn,
    /// When the last transaction ended that was replayed, as the server's log says it; `None` when it names none.
    pub last_transaction: Option<String>,
    /// How long replay waited for segments that were on their way.
    pub waited_seconds: f64,
}

/// What a restore has to remember.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journal {
    /// 1 so far; a larger number is refused.
    pub format: u32,
    /// Tells this restore's data directory from any other.
    pub id: String,
    /// As it was asked for, in the words of the command line.
    pub target: String,
    /// As it was asked for; `None`: the newest.
    pub timeline: Option<Timeline>,
    /// As it was asked for; `None`: the newest from which the target can be reached.
    pub backup: Option<BackupId>,
    /// By this host's clock; what is lost and how long it took are counted from here.
    pub began: Timestamp,
    /// The last one that was reached, durably.
    pub stage: Stage,
    /// Of the backup that is restored: PostgreSQL's major version, and when its epoch ended, if it did.
    pub major: u32,
    /// `None`: its epoch is the present one.
    pub epoch_ended: Option<Timestamp>,
    /// The latest time at which all that the server had promised was known to be stored.
    pub proven: Option<Timestamp>,
    /// When the backup that is restored ended: what replay saw no commit after is as of then.
    #[serde(default)]
    pub backup_ended: Option<Timestamp>,
    /// The way around damage that is gone in the place of what was asked for, and what it loses: a run that no longer plans tells it, too.
    #[serde(default)]
    pub detour: Option<Detour>,
    /// Where the old data go, decided before they are moved.
    pub aside: Option<PathBuf>,
    /// Configuration from outside the data directory: where it lies now, and where it was.
    pub config: Vec<(PathBuf, PathBuf)>,
    /// Where of that may go back, as the backup has recorded it.
    #[serde(default)]
    pub config_places: ConfigPlaces,
    /// Whether what lies there gives way to it, decided before anything was moved; `None` in what an earlier release left.
    #[serde(default)]
    pub config_gives_way: Option<bool>,
    /// What became of it; `None` until it was put back.
    #[serde(default)]
    pub config_placed: Option<Vec<Placed>>,
    /// Old content of tablespaces, moved from and to.
    pub moved: Vec<(PathBuf, PathBuf)>,
    /// The systemd unit that ran the server.
    pub unit: Option<String>,
    /// The log from here to there was saved from the old pg_wal.
    pub salvaged: Option<(Lsn, Lsn)>,
    /// The old log was read to its end: nothing that the old server wrote is unknown.
    pub old_log_ended: bool,
    /// The recovered cluster passed what it was asked; false also when it was asked nothing.
    pub validated: bool,
    /// Collations of which this host has another version, by database.
    #[serde(default)]
    pub stale_collations: Vec<(String, StaleCollation)>,
    /// What was there is overwritten, not kept.
    pub rewrites: bool,
    /// Of the backup, configuration from outside the data directory included; 0 until they are restored.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// Of these bytes, what lay there and was right, and what was written.
    pub bytes_kept: u64,
    /// Of a chunk that lay there and was wrong, only the pages that differ.
    pub bytes_written: u64,
    /// `None` until recovery is over.
    pub recovered: Option<RecoveredTo>,
    /// When WAL was proven to flow on the new timeline, when the service was healthy, and the backup that was made then.
    pub flowing_since: Option<Timestamp>,
    /// Where no service is configured, when the server ran.
    pub serving_since: Option<Timestamp>,
    /// And when that was complete, by this host's clock; `None` until then, and where nothing is protected.
    pub full: Option<(BackupId, Timestamp)>,
    /// What bringing the application's objects back came to.
    #[serde(default)]
    pub packages: Option<serde_json::Value>,
    /// Every step with its seconds, over all runs.
    pub steps: Vec<(String, f64)>,
    #[serde(skip)]
    path: PathBuf,
}

impl Journal {
    /// A new one, not written yet.
    pub fn new(target: &Target, wish: &Wish, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            id: format!("{}-{}", now.compact(), std::process::id()),
            target: wish.target.to_string(),
            timeline: wish.timeline,
            backup: wish.backup,
            began: now,
            stage: Stage::Begun,
            major: 0,
            epoch_ended: None,
            proven: None,
            backup_ended: None,
            detour: None,
            aside: None,
            config: Vec::new(),
            config_places: ConfigPlaces::default(),
            config_gives_way: None,
            config_placed: None,
            moved: Vec::new(),
            unit: None,
            salvaged: None,
            old_log_ended: false,
            validated: false,
            stale_collations: Vec::new(),
            rewrites: false,
            files: 0,
            bytes: 0,
            bytes_kept: 0,
            bytes_written: 0,
            recovered: None,
            flowing_since: None,
            serving_since: None,
            full: None,
            packages: None,
            steps: Vec::new(),
            path: target.side_dir.join(NAME),
        }
    }

    /// The journal of the last restore of this target, unless that is done.
    pub fn unfinished(target: &Target) -> Result<Option<Self>, RescueError> {
        let path = target.side_dir.join(NAME);
        let Some(file) = open(&path)? else { return Ok(None) };
        let found: Self =
            serde_json::from_slice(&read(&file, &path)?).map_err(|e| RescueError::Journal { path: path.clone(), why: e.to_string() })?;
        if found.format > FORMAT {
            return Err(RescueError::Journal { path, why: format!("it is of format {}, this program knows {FORMAT}", found.format) });
        }
        if found.stage == Stage::Done {
            return Ok(None);
        }
        let uid = owner_of(&file, &path)?;
        if !is_heeded(uid) {
            return Err(RescueError::Foreign { data_dir: target.data_dir.clone(), uid, me: geteuid().as_raw() });
        }
        if let Some(unit) = found.unit.as_ref().filter(|unit| !is_unit(unit)) {
            return Err(RescueError::Journal { path, why: format!("{unit:?} is no name of a systemd unit") });
        }
        Ok(Some(Self { path, ..found }))
    }

    /// With what is there overwritten, or kept aside.
    pub fn rewriting(self, rewrites: bool) -> Self {
        Self { rewrites, ..self }
    }

    /// With other files than those that were restored, or half restored.
    pub fn from_the_files(self) -> Self {
        Self { stage: self.stage.min(Stage::SetAside), ..self }
    }

    /// This one in the place of one that is given up: what was stopped then is stopped still, and the machine was as bare as it was.
    pub fn after(self, given_up: &Self) -> Self {
        Self { unit: given_up.unit.clone(), config_gives_way: given_up.config_gives_way, ..self }
    }

    /// What was asked for.
    pub fn wish(&self) -> Result<Wish, RescueError> {
        let target = self.target.parse().map_err(|e: terms::ParseError| RescueError::Journal { path: self.path.clone(), why: e.to_string() })?;
        Ok(Wish { target, timeline: self.timeline, backup: self.backup })
    }

    /// The instant to which the database was recovered: the asked one, or that of its last change. Without any, it is as it was when its
    /// backup ended. Around damage it is hours before what was asked for, or behind it: then only where it really ended counts.
    pub(crate) fn instant(&self) -> Result<Timestamp, RescueError> {
        let last_change = self.recovered.as_ref().and_then(|recovered| recovered.last_transaction.as_ref()?.parse::<Timestamp>().ok());
        if let Some(detour) = self.detour.as_ref().filter(|detour| detour.leads_elsewhere()) {
            // The server does not count a transaction that ends where it stops; the plan does.
            return Ok(last_change.map_or(detour.loss.kept_until, |last| last.max(detour.loss.kept_until)));
        }
        let known = match self.wish()?.target {
            RecoveryTarget::Time(at) => Some(at),
            RecoveryTarget::Latest => last_change.max(self.proven),
            _ => last_change,
        };
        Ok(known.or(self.backup_ended).unwrap_or(self.began))
    }

    /// Whether this is asked for, too.
    pub fn is_of(&self, wish: &Wish) -> bool {
        (&self.target, self.timeline, self.backup) == (&wish.target.to_string(), wish.timeline, wish.backup)
    }

    /// Notes that a stage was reached, durably.
    pub(crate) fn reach(&mut self, stage: Stage) -> Result<(), RescueError> {
        self.stage = stage;
        self.save()
    }

    /// Replaces what is written, durably: a reader finds the old or the new.
    pub(crate) fn save(&self) -> Result<(), RescueError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| RescueError::Bug(e.to_string()))?;
        replace(&self.path, &bytes)
    }

    /// Marks the data directory as this restore's own.
    pub(crate) fn mark(&self, data_dir: &Path) -> Result<(), RescueError> {
        let path = data_dir.join(UNFINISHED);
        let write = || {
            let mut file = create_anew(&path, 0o644)?;
            file.write_all(self.id.as_bytes())?;
            file.sync_all()?;
            File::open(data_dir)?.sync_all()
        };
        write().map_err(RescueError::file("write", &path))
    }

    /// Whether the data directory is what this restore made.
    pub(crate) fn owns(&self, data_dir: &Path) -> bool {
        fs::read_to_string(data_dir.join(UNFINISHED)).is_ok_and(|id| id == self.id)
    }

    /// Takes the mark away: the cluster is whole.
    pub(crate) fn unmark(&self, data_dir: &Path) -> Result<(), RescueError> {
        remove(&data_dir.join(UNFINISHED))
    }
}

/// The file that lies there; `None` where nothing does. The folder is the cluster's owner's, who may put there what he likes.
fn open(path: &Path) -> Result<Option<File>, RescueError> {
    let no_file = |why: &str| RescueError::Journal { path: path.to_owned(), why: why.into() };
    // A named pipe would keep it for ever.
    let file = match File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => return Err(no_file("It is a link")),
        file => file.map_err(RescueError::file("read", path))?,
    };
    let is_file = file.metadata().map_err(RescueError::file("read", path))?.is_file();
    if is_file { Ok(Some(file)) } else { Err(no_file("It is no file")) }
}

fn read(mut file: &File, path: &Path) -> Result<Vec<u8>, RescueError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(RescueError::file("read", path))?;
    Ok(bytes)
}

fn owner_of(file: &File, path: &Path) -> Result<u32, RescueError> {
    Ok(file.metadata().map_err(RescueError::file("read", path))?.uid())
}

/// Root does as a file says only where root wrote it, and everybody else where he or root did.
fn is_heeded(uid: u32) -> bool {
    [geteuid().as_raw(), 0].contains(&uid)
}

/// `None` where it is not there, or is of a restore that another user began, which this one is not.
pub(crate) fn read_own(path: &Path) -> Result<Option<Vec<u8>>, RescueError> {
    let Some(file) = open(path)? else { return Ok(None) };
    if !is_heeded(owner_of(&file, path)?) {
        return Ok(None);
    }
    read(&file, path).map(Some)
}

/// Whether this can be the name of a unit (systemd.unit(5)), and is no word of a shell's or an option.
fn is_unit(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b":_.@\\-".contains(&b);
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(is_plain)
}

/// What is gone already is no error.
pub(crate) fn remove(path: &Path) -> Result<(), RescueError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(RescueError::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Writes it in the place of what was there, durably and whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RescueError> {
    let new = path.with_extension("json.new");
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || -> io::Result<()> {
        let mut file = create_anew(&new, 0o644)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(RescueError::file("write", path))
}

/// Held while a restore of a target is at work; it ends with the process.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the target for this process alone.
    pub fn take(target: &Target) -> Result<Self, RescueError> {
        target.make_side_dir()?;
        let path = target.side_dir.join(LOCK);
        let opened = match pg::append_as_owners(&path, target.owner) {
            // A lock needs no right to write: what another user left is as good.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(&path),
            opened => opened,
        };
        let file = opened.map_err(RescueError::file("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RescueError::Locked { data_dir: target.data_dir.clone() }),
            Err((_, e)) => Err(RescueError::file("lock", &path)(e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use restore::{LossWindow, Way};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;
    use terms::{Clock, SystemClock};

    fn target(dir: &Path) -> Target {
        let target = Target::inspect(&dir.join("data")).unwrap();
        target.make_side_dir().unwrap();
        target
    }

    fn wish(text: &str) -> Wish {
        Wish { target: text.parse().unwrap(), timeline: None, backup: None }
    }

    #[test]
    fn a_second_run_finds_how_far_the_first_came() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        assert!(Journal::unfinished(&target).unwrap().is_none());
        let mut journal = Journal::new(&target, &wish("2026-11-22 14:05:00 UTC"), SystemClock.now());
        journal.reach(Stage::SetAside).unwrap();
        let found = Journal::unfinished(&target).unwrap().unwrap();
        assert_eq!((found.stage, &found.id), (Stage::SetAside, &journal.id));
        assert!(found.is_of(&wish("2026-11-22 14:05:00 UTC")) && !found.is_of(&wish("latest")));
        journal.reach(Stage::Done).unwrap();
        assert!(Journal::unfinished(&target).unwrap().is_none(), "what is done is over");
    }

    fn detour(way: Way, kept_until: Timestamp) -> Detour {
        let loss = LossWindow {
            last_kept: None,
            kept_to: Lsn::from_bytes(0x300_0028),
            kept_until,
            asked: Some(kept_until.plus_micros(2_500_001)),
            lost: Some(Duration::from_micros(2_500_001)),
            after_target: false,
            reason: "a segment is damaged".into(),
        };
        Detour { way, backup: "20261122T020000Z".parse().unwrap(), stop: "before it".into(), loss, words: "--on-damage stop-before".into() }
    }

    #[test]
    fn a_second_run_knows_the_way_that_the_first_one_went_around_damage() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let mut journal = Journal::new(&target, &wish("latest"), SystemClock.now());
        journal.detour = Some(detour(Way::StopBefore, "2026-11-22 14:02:41.123456 UTC".parse().unwrap()));
        journal.reach(Stage::Recovered).unwrap();
        assert_eq!(Journal::unfinished(&target).unwrap().unwrap().detour, journal.detour);
        // One that an earlier release left knows of none.
        let path = target.side_dir.join(NAME);
        let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(text.as_object_mut().unwrap().remove("detour").is_some());
        fs::write(&path, text.to_string()).unwrap();
        assert_eq!(Journal::unfinished(&target).unwrap().unwrap().detour, None);
    }

    #[test]
    fn what_replay_saw_no_commit_after_is_as_of_the_end_of_its_backup() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (ended, later, now) = (at("2026-11-22 02:07:00 UTC"), "2026-11-22 03:00:00 UTC", at("2026-11-23 09:00:00 UTC"));
        let instant = |text: &str, last: Option<&str>, proven: Option<&str>| {
            let mut journal = Journal::new(&target, &wish(text), now);
            (journal.backup_ended, journal.proven) = (Some(ended), proven.map(at));
            let (timeline, lsn, last_transaction) = (Timeline::FIRST, Lsn::from_bytes(0), last.map(str::to_owned));
            journal.recovered = Some(RecoveredTo { timeline, lsn, last_transaction, waited_seconds: 0.0 });
            journal.instant().unwrap()
        };
        for text in ["immediate", "latest", "0/3000000"] {
            assert_eq!(instant(text, None, None), ended, "{text}");
            assert_eq!(instant(text, Some(later), None), at(later), "{text}");
        }
        assert_eq!(instant("latest", None, Some(later)), at(later), "all of it was there up to then");
        assert_eq!(instant("immediate", None, Some(later)), ended);
        assert_eq!(instant("2026-11-22 04:00:00 UTC", Some(later), None), at("2026-11-22 04:00:00 UTC"));
    }

    #[test]
    fn around_damage_the_database_is_as_of_where_it_ended_and_not_as_of_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let at = |text: &str| format!("2026-11-22 {text}:00 UTC").parse::<Timestamp>().unwrap();
        let ended = at("02:07");
        let instant = |text: &str, way: Way, kept_until: Timestamp, last: Option<&str>| {
            let mut journal = Journal::new(&target, &wish(text), at("09:00"));
            (journal.backup_ended, journal.proven) = (Some(ended), Some(at("08:59")));
            journal.detour = Some(detour(way, kept_until));
            let (timeline, lsn, last_transaction) = (Timeline::FIRST, Lsn::from_bytes(0), last.map(|text| at(text).to_string()));
            journal.recovered = Some(RecoveredTo { timeline, lsn, last_transaction, waited_seconds: 0.0 });
            journal.instant().unwrap()
        };
        for asked in ["latest", "2026-11-22 04:00:00 UTC"] {
            assert_eq!(instant(asked, Way::StopBefore, at("02:30"), Some("03:00")), at("03:00"), "{asked}");
            assert_eq!(instant(asked, Way::StopBefore, at("03:00"), Some("02:59")), at("03:00"), "{asked}: its last record is a commit");
            assert_eq!(instant(asked, Way::StopBefore, ended, Some("01:00")), ended, "{asked}: nothing was committed while the backup was made");
            assert_eq!(instant(asked, Way::NearestBackup, ended, None), ended, "{asked}");
        }
        assert_eq!(instant("2026-11-22 01:00:00 UTC", Way::LaterBackup, ended, None), ended);
        // What was asked for is reached all the same.
        assert_eq!(instant("2026-11-22 04:00:00 UTC", Way::AnotherBackup, ended, Some("03:00")), at("04:00"));
        assert_eq!(instant("latest", Way::AnotherBackup, ended, Some("03:00")), at("08:59"));
    }

    #[test]
    fn only_the_directory_that_it_made_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let journal = Journal::new(&target, &wish("latest"), SystemClock.now());
        fs::create_dir(&target.data_dir).unwrap();
        assert!(!journal.owns(&target.data_dir), "somebody put the old data back");
        journal.mark(&target.data_dir).unwrap();
        assert!(journal.owns(&target.data_dir));
        journal.unmark(&target.data_dir).unwrap();
        assert!(!journal.owns(&target.data_dir));
    }

    #[test]
    fn two_restores_of_one_target_are_one_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let lock = Lock::take(&target).unwrap();
        assert!(matches!(Lock::take(&target), Err(RescueError::Locked { .. })));
        drop(lock);
        Lock::take(&target).unwrap();
        // Nobody may write to it: root all the same, everybody else needs no more than to read it.
        let path = target.side_dir.join(LOCK);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let _lock = Lock::take(&target).unwrap();
        assert!(matches!(Lock::take(&target), Err(RescueError::Locked { .. })));
    }

    #[test]
    fn a_lock_that_root_took_is_the_owners_who_takes_it_next() {
        let dir = tempfile::tempdir().unwrap();
        // As root its owner is the user postgres.
        let target = target(dir.path());
        Lock::take(&target).unwrap();
        assert_eq!(fs::metadata(target.side_dir.join(LOCK)).unwrap().uid(), target.owner.uid);
    }

    #[test]
    fn a_journal_that_does_not_parse_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        fs::write(target.side_dir.join(NAME), "{").unwrap();
        assert!(matches!(Journal::unfinished(&target), Err(RescueError::Journal { .. })));
    }

    #[test]
    fn a_journal_that_somebody_planted_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let mut journal = Journal::new(&target, &wish("latest"), SystemClock.now());
        let path = target.side_dir.join(NAME);
        for (unit, is_one) in [("postgresql@18-main.service", true), (r"a\x2db.service", true), ("x; id", false), ("$(id)", false), ("-H", false)] {
            journal.unit = Some(unit.to_owned());
            journal.save().unwrap();
            assert_eq!(Journal::unfinished(&target).is_ok(), is_one, "{unit}");
        }
        journal.unit = None;
        journal.save().unwrap();
        let elsewhere = dir.path().join("planted.json");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(matches!(Journal::unfinished(&target), Err(RescueError::Journal { .. })), "a link leads elsewhere");
        // What is written goes into no file that a link leads to, either.
        let new = path.with_extension("json.new");
        fs::write(dir.path().join("precious"), "precious").unwrap();
        std::os::unix::fs::symlink(dir.path().join("precious"), &new).unwrap();
        journal.save().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("precious")).unwrap(), "precious");
        Journal::unfinished(&target).unwrap().unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(matches!(Journal::unfinished(&target), Err(RescueError::Foreign { uid: 65_534, me: 0, .. })), "another user's");
            assert!(read_own(&path).unwrap().is_none());
            journal.reach(Stage::Done).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(Journal::unfinished(&target).unwrap().is_none(), "what is over keeps nobody from beginning");
        }
    }
}
