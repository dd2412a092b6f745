//! The restored server: asked in private whether it is sound, then started, in place as its administrator would, elsewhere where only this
//! host reaches it.

use crate::journal::Journal;
use crate::supervise::{GONE_FOR, Way};
use crate::{RescueError, RescueOptions, Validation};
use checks::{Outcome, Proof, Referred};
use pg::{
    CONTROL_FILE, ControlFile, PrivateOptions, PrivateServer, QUIET, ServerState, StopMode, drop_askers, find_bin_dir, pid_file_text,
    settings_of_a_copy, silenced, start_normally,
};
use restore::Target;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terms::Events;

/// How long a recovered server may take to start and to stop: it has nothing to replay.
pub(crate) const SERVER_LIMIT: Duration = Duration::from_secs(600);
/// Socket names have at most 107 bytes, `/.s.PGSQL.5432` among them.
const SOCKET_DIR_MAX: usize = 90;

/// How the server was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It was not to be: the cluster is recovered, and stopped.
    No,
    /// In place, under its usual configuration; or somebody had started it already.
    Normally,
    /// Without network, archiving or replication: only this host reaches it.
    Privately {
        /// Where its socket is, with port 5432.
        socket_dir: PathBuf,
    },
}

/// Starts the recovered cluster where nobody else reaches it, asks it what the options say, and stops it.
pub(crate) async fn validate(
    major: u32,
    target: &Target,
    options: &RescueOptions,
    events: &dyn Events,
) -> Result<(Proof, Option<Referred>), RescueError> {
    let control = read_control(target)?;
    let mut settings = settings_of_a_copy(&control);
    settings.extend(silenced(&control));
    settings.push(("log_timezone".into(), "UTC".into()));
    // Whoever is asked changes nothing.
    settings.push(("default_transaction_read_only".into(), if options.validation == Validation::Full { "off" } else { "on" }.into()));
    let private = PrivateOptions {
        bin_dir: find_bin_dir(major, options.restoring.bin_dir.as_deref())?,
        data_dir: target.data_dir.clone(),
        owner: target.owner,
        settings,
        log: target.side_dir.join("validation.log"),
        cut_off: true,
        sockets: target.sockets.clone(),
    };
    let mut server = PrivateServer::start(&private)?;
    server.wait_until(|state| state == ServerState::Ready, SERVER_LIMIT).await?;
    let info = server.superuser(&options.roles).await?;
    let mut proof = match options.validation {
        Validation::Full => checks::prove(&info, events).await?,
        _ => checks::open_all(&info).await?,
    };
    let referred = checks::ask(&info, &options.questions, options.references.as_ref(), &mut proof).await;
    // The cluster is as it was before anybody else reaches it, also where a run before this one was killed while it asked.
    drop_askers(&info).await?;
    server.stop(StopMode::Fast, SERVER_LIMIT).await?;
    Ok((proof, referred))
}

/// What is wrong, a line each; nothing when all passed.
pub(crate) fn faults(proof: &Proof) -> Vec<String> {
    let told = |fault: &checks::Fault| match fault.database.as_str() {
        "" => format!("{}: {}", fault.object, fault.what),
        database => format!("{} in {database}: {}", fault.object, fault.what),
    };
    let wrong = |answer: &&checks::Answer| answer.outcome == Outcome::Failed;
    let answered = |answer: &checks::Answer| format!("{}: {}, expected {}", answer.sql, answer.got.as_deref().unwrap_or("no row"), answer.expect);
    proof.faults.iter().map(told).chain(proof.answers.iter().filter(wrong).map(answered)).collect()
}

/// Starts the server for all.
pub(crate) async fn start(target: &Target, options: &RescueOptions, journal: &Journal) -> Result<Started, RescueError> {
    let bin_dir = find_bin_dir(journal.major, options.restoring.bin_dir.as_deref())?;
    let log = target.side_dir.join("server.log");
    target.as_owner(|| fs::File::options().create(true).append(true).open(&log).map(drop)).map_err(RescueError::file("create", &log))?;
    if options.is_side {
        return privately(&bin_dir, target, &log).await;
    }
    let way = Way::to_start(&options.commands, journal.unit.as_deref());
    if way != Way::Itself {
        let (limit, before) = (options.commands.limit, pid_file_text(&target.data_dir));
        way.run("start PostgreSQL", limit.max(SERVER_LIMIT)).await?;
        way.until_started(&target.data_dir, before, limit, GONE_FOR).await?;
        return Ok(Started::Normally);
    }
    let settings = where_configured(target, journal)?;
    start_normally(&bin_dir, &target.data_dir, &settings, &log, SERVER_LIMIT).await?;
    Ok(Started::Normally)
}

/// Debian's way: the configuration is elsewhere and names the rest. Where the cluster had it so, a file in the data directory is a leftover.
fn where_configured(target: &Target, journal: &Journal) -> Result<Vec<(String, String)>, RescueError> {
    let is_inside = target.data_dir.join("postgresql.conf").exists();
    let is_main = |path: &&PathBuf| path.file_name().is_some_and(|name| name == "postgresql.conf");
    // Another cluster's settings are none of this one's, unless somebody put the backup's in their place.
    let is_backups = |path: &Path| {
        let kept = journal.config.iter().find(|(_, original)| original == path).and_then(|(kept, _)| fs::read(kept).ok());
        kept.is_some() && kept == fs::read(path).ok()
    };
    let is_usable = |path: &&PathBuf| path.exists() && (is_backups(path) || !restore::is_anothers(path, target));
    // Older backups do not say which one it was.
    let guessed = journal.config.iter().map(|(_, original)| original).find(is_main).filter(|_| !is_inside).filter(is_usable);
    let recorded = journal.config_places.config_file.as_ref();
    match recorded.filter(is_usable).or(guessed) {
        Some(outside) => {
            let words = |path: &Path| path.display().to_string();
            // It may name the data directory of the host that it was written for.
            Ok(vec![("config_file".to_owned(), words(outside)), ("data_directory".to_owned(), words(&target.data_dir))])
        }
        None if is_inside => Ok(Vec::new()),
        None => Err(RescueError::NoConfig { data_dir: target.data_dir.clone(), kept: target.side_dir.join("config") }),
    }
}

/// A side restore must not meet the world as production: no network, no archiving, nobody to wait for.
async fn privately(bin_dir: &Path, target: &Target, log: &Path) -> Result<Started, RescueError> {
    let socket_dir = socket_dir(target, Path::new("/tmp"))?;
    let config = target.side_dir.join("private.conf");
    let hba = target.side_dir.join("private_hba.conf");
    let ident = target.side_dir.join("private_ident.conf");
    let mut settings: Vec<(String, String)> = QUIET.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    settings.extend(settings_of_a_copy(&read_control(target)?));
    for (name, value) in [
        ("listen_addresses", String::new()),
        ("unix_socket_directories", socket_dir.display().to_string()),
        ("unix_socket_permissions", "0700".into()),
        ("port", "5432".into()),
        ("hba_file", hba.display().to_string()),
        ("ident_file", ident.display().to_string()),
        ("config_file", config.display().to_string()),
        ("external_pid_file", socket_dir.join("external.pid").display().to_string()),
    ] {
        settings.push((name.into(), value));
    }
    // Everything is given on the command line, so that it wins over what the cluster brought along.
    for (path, text) in [(&config, "# Everything is on the command line.\n"), (&hba, "local all all trust\n"), (&ident, "")] {
        target.as_owner(|| fs::write(path, text)).map_err(RescueError::file("write", path))?;
    }
    start_normally(bin_dir, &target.data_dir, &settings, log, SERVER_LIMIT).await?;
    Ok(Started::Privately { socket_dir })
}

pub(crate) fn read_control(target: &Target) -> Result<ControlFile, RescueError> {
    let path = target.data_dir.join(CONTROL_FILE);
    let bytes = fs::read(&path).map_err(RescueError::file("read", &path))?;
    Ok(ControlFile::parse(&bytes).map_err(restore::RestoreError::from)?)
}

/// A directory of the owner's alone, beside the target or, where its name would be too long, one that nobody else can have made.
fn socket_dir(target: &Target, short: &Path) -> Result<PathBuf, RescueError> {
    let beside = target.side_dir.join("run");
    if beside.as_os_str().len() <= SOCKET_DIR_MAX {
        target.make_dir(&beside)?;
        return Ok(beside);
    }
    let make = |place: &Path| target.as_owner(|| fs::DirBuilder::new().mode(0o700).create(place));
    let is_taken = |made: &io::Result<()>| made.as_ref().is_err_and(|e| e.kind() == ErrorKind::AlreadyExists);
    for number in 0_u32.. {
        let place = short.join(format!("bowline-side-{}-{number}", std::process::id()));
        match make(&place) {
            made if is_taken(&made) => {}
            made => return made.map(|()| place.clone()).map_err(RescueError::file("create", &place)),
        }
    }
    Err(RescueError::Bug("every name of a directory is taken".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use restore::Wish;
    use terms::{Clock, SystemClock};

    #[test]
    fn a_directory_that_somebody_else_made_is_not_where_the_socket_goes() {
        let (dir, short) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut target = Target::inspect(&dir.path().join("d".repeat(SOCKET_DIR_MAX))).unwrap();
        (target.owner.uid, target.owner.gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let planted = short.path().join(format!("bowline-side-{}-0", std::process::id()));
        std::os::unix::fs::symlink(dir.path(), &planted).unwrap();
        let made = socket_dir(&target, short.path()).unwrap();
        assert_ne!(made, planted);
        assert!(fs::symlink_metadata(&made).unwrap().is_dir());
    }

    #[test]
    fn a_cluster_whose_configuration_was_outside_starts_with_that_and_not_with_a_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::inspect(&dir.path().join("data")).unwrap();
        let wish = Wish { target: "latest".parse().unwrap(), timeline: None, backup: None };
        let mut journal = Journal::new(&target, &wish, SystemClock.now());
        assert!(matches!(where_configured(&target, &journal), Err(RescueError::NoConfig { .. })));
        fs::create_dir(&target.data_dir).unwrap();
        fs::write(target.data_dir.join("postgresql.conf"), "# a leftover\n").unwrap();
        assert!(where_configured(&target, &journal).unwrap().is_empty());
        let outside = dir.path().join("postgresql.conf");
        journal.config = vec![(dir.path().join("kept"), outside.clone())];
        fs::rename(target.data_dir.join("postgresql.conf"), dir.path().join("leftover")).unwrap();
        let missing = where_configured(&target, &journal);
        assert!(matches!(missing, Err(RescueError::NoConfig { .. })), "it was not put back: {missing:?}");
        fs::rename(dir.path().join("leftover"), target.data_dir.join("postgresql.conf")).unwrap();
        journal.config_places.config_file = Some(outside.clone());
        assert!(where_configured(&target, &journal).unwrap().is_empty(), "it is gone: what is in the data directory is better than nothing");
        fs::write(&outside, "").unwrap();
        let settings = where_configured(&target, &journal).unwrap();
        assert_eq!(settings[0], ("config_file".to_owned(), outside.display().to_string()));
        assert_eq!(settings[1], ("data_directory".to_owned(), target.data_dir.display().to_string()));
    }
}
