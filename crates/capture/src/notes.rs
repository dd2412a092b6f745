//! Notes about WAL files that were stored before the archiver asked for them: each vouches for exactly the bytes it was made of.
//!
//! A note is believed only while the file of its name is the very file that was read: same device and inode, same size,
//! same times of writing and of change. A segment that was recycled, restored or written to since is another one.
//! The folder is one cluster's and one repository's; nobody else may write to it.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use terms::{Timestamp, WalName};

/// A note older than this is not believed: somebody may have made a new repository at the same address meanwhile.
const BELIEVED: Duration = Duration::from_secs(3600);
/// The first word of a note.
const KIND: &str = "stored-1";

/// What tells one file from another one without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    /// Set by the kernel alone, also at a rename: a recycled segment differs in it even if nothing was written yet.
    changed: (i64, i64),
}

impl Identity {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            written: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The folder of notes.
#[derive(Debug, Clone)]
pub struct Notes(PathBuf);

/// Held by the one process that looks ahead.
pub struct Lead(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl Notes {
    /// The notes in this folder, which is made when it is not there. Refused when another user could write into it:
    /// whoever can forge a note can make the server forget a segment.
    pub fn at(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let meta = fs::symlink_metadata(&folder)?;
        if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a folder that only its owner can write to"));
        }
        Ok(Self(folder))
    }

    fn place(&self, name: &WalName) -> PathBuf {
        self.0.join(format!("{name}.stored"))
    }

    /// Whether the file at `path` was stored as `name`.
    pub fn vouch(&self, name: &WalName, path: &Path, now: Timestamp) -> bool {
        let (Ok(text), Ok(meta)) = (fs::read_to_string(self.place(name)), fs::metadata(path)) else { return false };
        let Some(at) = text.split(' ').nth(2).and_then(|word| word.parse().ok()).map(Timestamp::from_unix_micros) else { return false };
        let age = now.seconds_since(at);
        // Spelled again and compared whole: what is cut short or made up differs somewhere.
        text == note(name, at, &Identity::of(&meta)) && (0.0..BELIEVED.as_secs_f64()).contains(&age)
    }

    /// [`Notes::vouch`], and the note is used up.
    pub fn take(&self, name: &WalName, path: &Path, now: Timestamp) -> bool {
        let vouched = self.vouch(name, path, now);
        self.forget(name);
        vouched
    }

    /// Removes the note of this name, if there is one.
    pub fn forget(&self, name: &WalName) {
        drop(fs::remove_file(self.place(name)));
    }

    /// Notes that these bytes are stored under this name.
    pub(crate) fn leave(&self, name: &WalName, identity: &Identity, now: Timestamp) -> io::Result<()> {
        let half = self.0.join(format!("{name}.half"));
        fs::write(&half, note(name, now, identity))?;
        fs::rename(&half, self.place(name))
    }

    /// Removes the notes of files that nobody waits for any more.
    pub(crate) fn tidy(&self, is_waiting: impl Fn(&WalName) -> bool) {
        for item in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let file = item.file_name();
            let Some((name, "stored" | "half")) = file.to_str().and_then(|f| f.rsplit_once('.')) else { continue };
            if name.parse().is_ok_and(|name| !is_waiting(&name)) {
                drop(fs::remove_file(item.path()));
            }
        }
    }

    /// Takes the lead, to store everything but this file; `None` while another process has it. It ends with the process at
    /// the latest.
    pub fn lead(&self, but: &WalName) -> io::Result<Option<Lead>> {
        // Not cut short before it is locked: the one who leads has written something into it.
        let mut file = File::options().write(true).create(true).truncate(false).open(self.0.join("lock"))?;
        // Whoever only looks whether somebody leads holds the lock for a moment.
        for _ in 0..20 {
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                file.set_len(0)?;
                file.write_all(but.to_string().as_bytes())?;
                return Ok(Some(Lead(file)));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    }

    /// Whether some process looks ahead now that will store this file, too.
    pub fn is_led_to(&self, name: &WalName) -> bool {
        self.is_led() && fs::read_to_string(self.0.join("lock")).is_ok_and(|but| but != name.to_string())
    }

    /// Whether some process looks ahead now.
    pub fn is_led(&self) -> bool {
        File::open(self.0.join("lock")).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }
}

fn note(name: &WalName, at: Timestamp, identity: &Identity) -> String {
    let Identity { device, inode, bytes, written, changed } = identity;
    format!("{KIND} {name} {} {device} {inode} {bytes} {}.{} {}.{} end\n", at.unix_micros(), written.0, written.1, changed.0, changed.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_800_000_000_000_000);

    fn name(text: &str) -> WalName {
        text.parse().unwrap()
    }

    fn later(seconds: i64) -> Timestamp {
        NOW.plus_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_note_vouches_for_the_file_that_was_read_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::at(dir.path().join("notes")).unwrap();
        let (first, second) = (name("000000010000000000000001"), name("000000010000000000000002"));
        let path = dir.path().join(first.to_string());
        fs::write(&path, vec![1; 4096]).unwrap();
        notes.leave(&first, &Identity::of(&fs::metadata(&path).unwrap()), NOW).unwrap();
        assert!(notes.vouch(&first, &path, later(1)));
        assert!(!notes.vouch(&first, &path, later(3601)), "too old");
        assert!(!notes.vouch(&first, &path, later(-1)), "from the future");
        assert!(!notes.vouch(&second, &path, NOW), "another name");
        let recycled = dir.path().join(second.to_string());
        fs::rename(&path, &recycled).unwrap();
        assert!(!notes.vouch(&first, &path, NOW), "there is no such file");
        fs::rename(notes.place(&first), notes.place(&second)).unwrap();
        assert!(!notes.vouch(&second, &recycled, NOW), "the same inode under another name");
        fs::rename(notes.place(&second), notes.place(&first)).unwrap();
        let meta = fs::metadata(&recycled).unwrap();
        fs::write(&path, vec![2; 4096]).unwrap();
        let same_time = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() as _ },
            last_modification: rustix::fs::Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() as _ },
        };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &same_time, rustix::fs::AtFlags::empty()).unwrap();
        assert!(!notes.vouch(&first, &path, NOW), "other bytes of the same size and time");
    }

    #[test]
    fn a_note_is_used_once_and_never_when_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::at(dir.path().join("notes")).unwrap();
        let (segment, path) = (name("000000010000000000000001"), dir.path().join("segment"));
        fs::write(&path, "bytes").unwrap();
        let identity = Identity::of(&fs::metadata(&path).unwrap());
        notes.leave(&segment, &identity, NOW).unwrap();
        assert!(notes.take(&segment, &path, NOW));
        assert!(!notes.take(&segment, &path, NOW));
        let whole = note(&segment, NOW, &identity);
        for cut in 0..whole.len() {
            fs::write(notes.place(&segment), &whole[..cut]).unwrap();
            assert!(!notes.vouch(&segment, &path, NOW), "{:?}", &whole[..cut]);
        }
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("notes");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Notes::at(folder).is_err());
    }

    #[test]
    fn one_leads_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::at(dir.path().join("notes")).unwrap();
        let (first, second) = (name("000000010000000000000001"), name("000000010000000000000002"));
        assert!(!notes.is_led());
        let lead = notes.lead(&first).unwrap();
        assert!(lead.is_some() && notes.is_led() && notes.lead(&second).unwrap().is_none());
        assert!(notes.is_led_to(&second) && !notes.is_led_to(&first), "nobody waits for what is left out");
        drop(lead);
        assert!(!notes.is_led_to(&second) && notes.lead(&second).unwrap().is_some());
    }
}
