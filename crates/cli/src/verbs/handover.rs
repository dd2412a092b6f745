//! Starts the server that was restored: in place as its administrator would, elsewhere where only this host reaches it.

use crate::fault::Fault;
use crate::wiring::Wiring;
use pg::{CONTROL_FILE, ControlFile, QUIET, find_bin_dir, settings_of_a_copy, start_normally};
use restore::{RestorePlan, RestoreReport, Target, put_config_back};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terms::Class;

const START_LIMIT: Duration = Duration::from_secs(600);
/// Socket names have at most 107 bytes, `/.s.PGSQL.5432` among them.
const SOCKET_DIR_MAX: usize = 90;

/// How the server was started.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    No,
    Normally,
    Privately { socket_dir: PathBuf },
}

pub async fn start(wiring: &Wiring, plan: &RestorePlan, target: &Target, report: &RestoreReport, is_side: bool) -> Result<Started, Fault> {
    let bin_dir = find_bin_dir(plan.backup.major, wiring.config.postgres.bin_dir.as_deref())?;
    let log = target.side_dir.join("server.log");
    fs::File::options().create(true).append(true).open(&log).map_err(cannot("create", &log))?;
    chown(&log, Some(target.owner.uid), Some(target.owner.gid)).map_err(cannot("own", &log))?;
    if is_side {
        return privately(&bin_dir, target, &log).await;
    }
    put_config_back(&report.restored)?;
    let mut settings = Vec::new();
    if !target.data_dir.join("postgresql.conf").exists() {
        // Debian's way: the configuration is elsewhere and names the rest.
        let outside = report.restored.config.iter().map(|(_, original)| original).find(|p| p.file_name().is_some_and(|n| n == "postgresql.conf"));
        let Some(outside) = outside else {
            return Err(Fault::of(
                "config-missing",
                Class::Missing,
                "the cluster is recovered, but was not started: it has no postgresql.conf",
                format!("Neither {} nor the backup holds one.", target.data_dir.display()),
                "Write one and start the server; the data are complete.",
            ));
        };
        settings.push(("config_file".to_owned(), outside.display().to_string()));
    }
    start_normally(&bin_dir, &target.data_dir, &settings, &log, START_LIMIT).await?;
    Ok(Started::Normally)
}

/// A side restore must not meet the world as production: no network, no archiving, nobody to wait for.
async fn privately(bin_dir: &Path, target: &Target, log: &Path) -> Result<Started, Fault> {
    let mut socket_dir = target.side_dir.join("run");
    if socket_dir.as_os_str().len() > SOCKET_DIR_MAX {
        socket_dir = PathBuf::from(format!("/tmp/bowline-side-{}", std::process::id()));
    }
    make_dir(&socket_dir, target)?;
    let config = target.side_dir.join("private.conf");
    let hba = target.side_dir.join("private_hba.conf");
    let ident = target.side_dir.join("private_ident.conf");
    let control = target.data_dir.join(CONTROL_FILE);
    let control = ControlFile::parse(&fs::read(&control).map_err(cannot("read", &control))?)?;
    let mut settings: Vec<(String, String)> = QUIET.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    settings.extend(settings_of_a_copy(&control));
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
        fs::write(path, text).map_err(cannot("write", path))?;
        chown(path, Some(target.owner.uid), Some(target.owner.gid)).map_err(cannot("own", path))?;
    }
    start_normally(bin_dir, &target.data_dir, &settings, log, START_LIMIT).await?;
    Ok(Started::Privately { socket_dir })
}

fn make_dir(path: &Path, target: &Target) -> Result<(), Fault> {
    fs::create_dir_all(path).map_err(cannot("create", path))?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(cannot("set the mode of", path))?;
    chown(path, Some(target.owner.uid), Some(target.owner.gid)).map_err(cannot("own", path))
}

fn cannot<'a>(operation: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Fault + 'a {
    move |e| {
        Fault::of(
            "target-unwritable",
            Class::Refused,
            format!("cannot {operation} {}", path.display()),
            format!("{e}."),
            "Run as root or as the owner of the target.",
        )
    }
}
