//! What each proof is proved with: one line of the product made wrong, and the tests that must then fail.

mod backups;
mod damage;
mod drills;
mod jobs;
mod keys;
mod packages;
mod restore;
mod retention;
mod stores;
mod tamper;
mod wal;
mod watch;

/// A line made wrong.
#[derive(Debug)]
pub struct Twin {
    pub name: &'static str,
    pub file: &'static str,
    /// Found exactly once in the file.
    pub right: &'static str,
    pub wrong: &'static str,
    /// A test program, as docs/acceptance.md names it, and the beginning or any part of a test's name in it. For the tests inside a crate,
    /// the program is the crate.
    pub test: (&'static str, &'static str),
}

const fn twin(name: &'static str, file: &'static str, right: &'static str, wrong: &'static str, test: (&'static str, &'static str)) -> Twin {
    Twin { name, file, right, wrong, test }
}

/// Every one of them.
pub fn all() -> impl Iterator<Item = &'static Twin> {
    let of_backups = [backups::TWINS, retention::TWINS, stores::TWINS, keys::TWINS, wal::TWINS];
    let of_restores = [restore::TWINS, tamper::TWINS, damage::TWINS, drills::TWINS, packages::TWINS];
    let of_watching = [watch::TWINS, jobs::TWINS];
    of_backups.into_iter().chain(of_restores).chain(of_watching).flatten()
}
