//! Who stops and starts the server: its administrator's command, systemd, or Bowline itself. That it can be done is known before anything is
//! touched, and that it was done is seen, whatever a command says.

use crate::journal::{Journal, Stage};
use crate::server::SERVER_LIMIT;
use crate::{Commands, RescueError, RescueOptions, hooks};
use nix::unistd::{User, geteuid};
use pg::{is_ready_by, pid_file_text, server_running_in, systemd_unit_of};
use restore::{Target, UNFINISHED};
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Patroni's copy of its dynamic configuration, in every data directory that it manages.
const PATRONI_FILE: &str = "patroni.dynamic.json";
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a server that came up is gone before nobody is expected to start it again.
pub(crate) const GONE_FOR: Duration = Duration::from_secs(5);

/// How the server is stopped or started; prints as what is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The administrator's command, in a shell.
    Command(String),
    /// A program and its arguments: systemd's.
    Systemctl(Vec<String>),
    /// PostgreSQL's own.
    Itself,
}

impl Way {
    /// `unit` is the one that the server runs in.
    pub fn to_stop(commands: &Commands, unit: Option<&str>) -> Self {
        Self::by(commands.stop_server.as_deref(), "stop", unit)
    }

    /// `unit` is the one that the server ran in.
    pub fn to_start(commands: &Commands, unit: Option<&str>) -> Self {
        Self::by(commands.start_server.as_deref(), "start", unit)
    }

    fn by(own: Option<&str>, verb: &str, unit: Option<&str>) -> Self {
        match (own, unit) {
            (Some(own), _) => Self::Command(own.to_owned()),
            (None, Some(unit)) => {
                let by_whom: &[&str] = if geteuid().is_root() { &[] } else { &["sudo", "-n"] };
                Self::Systemctl(by_whom.iter().chain(&["systemctl", verb, unit]).map(|word| (*word).to_owned()).collect())
            }
            (None, None) => Self::Itself,
        }
    }

    pub(crate) async fn run(&self, what: &'static str, limit: Duration) -> Result<(), RescueError> {
        match self {
            Self::Command(command) => hooks::run(what, command, limit).await,
            Self::Systemctl(words) => hooks::run_words(what, words, limit).await,
            Self::Itself => Ok(()),
        }
    }

    fn unheeded(&self, what: &'static str, data_dir: &Path, found: String) -> RescueError {
        RescueError::Unheeded { what, command: self.to_string(), data_dir: data_dir.to_owned(), found }
    }

    /// Where a server that was started this way says why it ended.
    fn log_of(&self, data_dir: &Path) -> String {
        let own = format!("{} or, on Debian, /var/log/postgresql", data_dir.join("log").display());
        match self {
            Self::Systemctl(words) => format!("journalctl -u {}, {own}", words.last().map_or("", String::as_str)),
            Self::Command(_) | Self::Itself => own,
        }
    }

    /// A command that stops may return before the server has ended, or have stopped something else.
    pub(crate) async fn until_ended(&self, data_dir: &Path, pid: u32, limit: Duration) -> Result<(), RescueError> {
        let begun = Instant::now();
        while server_running_in(data_dir) == Some(pid) {
            if begun.elapsed() > limit {
                return Err(self.unheeded("stop", data_dir, format!("Process {pid} still runs there after {} s", limit.as_secs())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// A command that starts may have started nothing, as Debian's umbrella unit does. `before` is what `postmaster.pid` said before it ran;
    /// within `limit` a server must be there, which then has its own time to let connections in. One that came up and was gone again for
    /// `gone_for` does not come back.
    pub(crate) async fn until_started(
        &self,
        data_dir: &Path,
        before: Option<String>,
        limit: Duration,
        gone_for: Duration,
    ) -> Result<(), RescueError> {
        let begun = Instant::now();
        let (mut was_there, mut gone): (bool, Option<Instant>) = (false, None);
        loop {
            let now = pid_file_text(data_dir).filter(|now| before.as_ref() != Some(now));
            if now.as_deref().is_some_and(is_ready_by) {
                return Ok(());
            }
            was_there |= now.is_some();
            if was_there && now.is_none() {
                // Whoever supervises it may start it again at once.
                if gone.get_or_insert_with(Instant::now).elapsed() > gone_for {
                    return Err(RescueError::Ended { command: self.to_string(), data_dir: data_dir.to_owned(), log: self.log_of(data_dir) });
                }
            } else {
                gone = None;
            }
            let (limit, found) = match now {
                None => (limit, "No server runs there"),
                Some(_) => (limit.max(SERVER_LIMIT), "The server there lets nobody in"),
            };
            if begun.elapsed() > limit {
                return Err(self.unheeded("start", data_dir, format!("{found} after {} s", limit.as_secs())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => f.write_str(command),
            Self::Systemctl(words) => f.write_str(&words.join(" ")),
            Self::Itself => f.write_str("a fast shutdown"),
        }
    }
}

/// What is there of the old server, and what is still to be done with it.
struct Found<'f> {
    data_dir: &'f Path,
    /// The unit that it runs in, or ran in when a run before this one stopped it.
    unit: Option<&'f str>,
    is_patronis: bool,
    is_to_be_stopped: bool,
    is_to_be_started: bool,
    /// By a run before this one.
    is_begun: bool,
}

/// Refuses a restore in place that could not stop the server, or not start it again, before the service is stopped for it.
pub fn refuse_powerless(target: &Target, options: &RescueOptions, journal: &Journal) -> Result<(), RescueError> {
    if options.is_side {
        return Ok(());
    }
    let running = target.running().filter(|_| journal.stage < Stage::ServerStopped);
    let unit = running.and_then(systemd_unit_of).or_else(|| journal.unit.clone());
    let is_old = journal.stage < Stage::SetAside && is_marked_by_patroni(&target.data_dir);
    judge(
        &Found {
            data_dir: &target.data_dir,
            unit: unit.as_deref(),
            is_patronis: is_old || unit.as_ref().is_some_and(|unit| unit.starts_with("patroni")),
            is_to_be_stopped: running.is_some(),
            is_to_be_started: options.starts && journal.stage < Stage::ServerStarted,
            is_begun: journal.stage > Stage::Begun,
        },
        &options.commands,
        geteuid().is_root(),
        &is_allowed,
    )
}

fn judge(found: &Found<'_>, commands: &Commands, is_root: bool, is_allowed: &dyn Fn(&str, &str) -> bool) -> Result<(), RescueError> {
    let stops = found.is_to_be_stopped && commands.stop_server.is_none();
    let starts = found.is_to_be_started && commands.start_server.is_none();
    if found.is_patronis && (stops || starts) {
        return Err(RescueError::UnderPatroni { data_dir: found.data_dir.to_owned() });
    }
    let Some(unit) = found.unit.filter(|_| !is_root) else { return Ok(()) };
    if (!stops || is_allowed("stop", unit)) && (!starts || is_allowed("start", unit)) {
        return Ok(());
    }
    let user = User::from_uid(geteuid()).ok().flatten().map_or_else(|| format!("#{}", geteuid()), |user| user.name);
    Err(RescueError::Powerless { unit: unit.to_owned(), user, is_begun: found.is_begun })
}

/// Whether sudo lets this user do it without a password; asking runs nothing.
fn is_allowed(verb: &str, unit: &str) -> bool {
    let mut asked = Command::new("sudo");
    // A ticket that somebody's password bought (-k: not heeded) is over before the restore has come to it.
    asked.args(["-n", "-k", "-l", "systemctl", verb, unit]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success())
}

/// Whether Patroni has managed the cluster there. Its file comes with every backup: in what a restore has half made it tells nothing of this host.
fn is_marked_by_patroni(data_dir: &Path) -> bool {
    data_dir.join(PATRONI_FILE).exists() && !data_dir.join(UNFINISHED).exists()
}

/// What somebody must know of the old server who restores over it; nothing where there is nothing to know.
pub fn standing_of(target: &Target) -> Option<&'static str> {
    if is_marked_by_patroni(&target.data_dir) {
        return Some(
            "this cluster is Patroni's: it must be paused (patronictl pause) and the other members made anew afterwards, see docs/restore.md",
        );
    }
    let is_standby = target.data_dir.join("standby.signal").exists();
    is_standby.then_some("this is a standby: afterwards it is a primary of its own, and the one it followed goes on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use terms::Explain;

    fn found(unit: Option<&str>) -> Found<'_> {
        Found { data_dir: Path::new("/srv/pg"), unit, is_patronis: false, is_to_be_stopped: true, is_to_be_started: true, is_begun: false }
    }

    fn configured() -> Commands {
        Commands { stop_server: Some("stop it".into()), start_server: Some("start it".into()), ..Commands::default() }
    }

    #[test]
    fn a_unit_that_this_user_cannot_stop_and_start_is_refused_with_what_allows_it() {
        let pg = Some("postgresql@18-main.service");
        let nobody = |_: &str, _: &str| false;
        let only_stop = |verb: &str, _: &str| verb == "stop";
        let none = Commands::default();
        judge(&found(pg), &none, true, &nobody).unwrap();
        judge(&found(None), &none, false, &nobody).unwrap();
        judge(&found(pg), &configured(), false, &nobody).unwrap();
        judge(&found(pg), &none, false, &|_, unit| Some(unit) == pg).unwrap();
        judge(&Found { is_to_be_started: false, ..found(pg) }, &none, false, &only_stop).unwrap();
        for may in [&nobody as &dyn Fn(&str, &str) -> bool, &only_stop] {
            let error = judge(&found(pg), &none, false, may).unwrap_err();
            assert!(matches!(error, RescueError::Powerless { .. }), "{error}");
            let hint = error.hint();
            assert!(hint.contains("NOPASSWD: /usr/bin/systemctl stop postgresql@18-main.service, /usr/bin/systemctl start"), "{hint}");
            assert!(hint.contains("as root") && hint.contains("polkit"), "{hint}");
            let begun = judge(&Found { is_begun: true, ..found(pg) }, &none, false, may).unwrap_err().hint();
            assert!(begun.contains("the user who began it") && !begun.contains("as root"), "{begun}");
        }
        // A run that goes on after somebody stopped it by hand.
        let stopped = Found { is_to_be_stopped: false, ..found(pg) };
        assert!(matches!(judge(&stopped, &none, false, &only_stop), Err(RescueError::Powerless { .. })));
    }

    #[test]
    fn what_is_patronis_is_only_restored_over_by_the_administrators_own_commands() {
        let patronis = Found { is_patronis: true, ..found(Some("patroni.service")) };
        let error = judge(&patronis, &Commands::default(), true, &|_, _| true).unwrap_err();
        assert!(matches!(error, RescueError::UnderPatroni { .. }) && error.hint().contains("patronictl pause"), "{error}");
        judge(&patronis, &configured(), true, &|_, _| false).unwrap();
        assert!(error.hint().contains("remove patroni.dynamic.json from /srv/pg"), "{}", error.hint());
        // It was stopped, and is not to be started: nothing of Patroni's is touched.
        judge(&Found { is_to_be_stopped: false, is_to_be_started: false, ..patronis }, &Commands::default(), true, &|_, _| false).unwrap();
    }

    #[test]
    fn what_a_restore_has_half_made_is_not_patronis() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PATRONI_FILE), "{}").unwrap();
        assert!(is_marked_by_patroni(dir.path()));
        std::fs::write(dir.path().join(UNFINISHED), "an id").unwrap();
        assert!(!is_marked_by_patroni(dir.path()));
    }

    #[test]
    fn who_may_not_stop_postgresql_is_not_told_to_leave_the_service_out() {
        let hint = |what| RescueError::Hook { what, command: "systemctl".into(), status: "exit status: 1".into(), said: String::new() }.hint();
        for what in ["stop PostgreSQL", "start PostgreSQL"] {
            assert!(hint(what).contains("[postgres] stop and start") && !hint(what).contains("--no-service"), "{}", hint(what));
            // Root does not go on with what another user began.
            assert!(hint(what).contains("the user who began it") && !hint(what).contains("as root"), "{}", hint(what));
        }
        assert!(hint("stop the service").contains("--no-service"));
    }

    #[tokio::test]
    async fn a_command_is_believed_by_what_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let way = Way::Command("true".into());
        let limit = Duration::from_millis(1);
        let error = way.until_started(dir.path(), None, limit, GONE_FOR).await.unwrap_err();
        assert!(error.detail().contains("\"true\"") && error.detail().contains("No server runs there"), "{}", error.detail());
        // What was there before it ran is no sign of it.
        let text = "42\n/data\n1700000000\n5432\n/tmp\n\n  123 4\nready   \n";
        std::fs::write(dir.path().join("postmaster.pid"), text).unwrap();
        way.until_started(dir.path(), Some(text.into()), limit, GONE_FOR).await.unwrap_err();
        way.until_started(dir.path(), None, limit, GONE_FOR).await.unwrap();
        way.until_ended(dir.path(), 42, limit).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_comes_up_and_ends_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("postmaster.pid");
        std::fs::write(&pid_file, "42\n/data\n1700000000\n5432\n/tmp\n\n  123 4\nstarting\n").unwrap();
        let way = Way::Systemctl(["systemctl", "start", "postgresql@18-main.service"].map(str::to_owned).into());
        // It is looked at before the other comes to remove it.
        let waits = way.until_started(dir.path(), None, Duration::from_secs(600), Duration::ZERO);
        let (ended, ()) = tokio::join!(waits, async { std::fs::remove_file(&pid_file).unwrap() });
        let error = ended.unwrap_err();
        assert!(matches!(error, RescueError::Ended { .. }), "{error}");
        assert!(error.hint().contains("journalctl -u postgresql@18-main.service"), "{}", error.hint());
    }
}
