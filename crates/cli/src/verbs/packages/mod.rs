//! `bowline packages`: the application's bucket.

mod agreement;
mod back;
mod enable;
mod snapshot;
mod status;

pub use agreement::{disagreement, judge, references, words};
pub use back::{doubts, is_configured, restore_beside};

use crate::args::{Common, PackagesVerb};
use crate::config::Site;
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use packages::{Place, Settings};
use repo::{Reader, Writer};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// What `[packages] snapshots` says for the repository of the backups.
const OWN: &str = "repository";

pub async fn run(common: &Common, verb: &PackagesVerb, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    match verb {
        PackagesVerb::Enable(asked) => enable::run(&wiring, asked, printer).await,
        PackagesVerb::Status(asked) => status::run(&wiring, asked, printer).await,
        PackagesVerb::Snapshot => snapshot::run(&wiring, printer).await,
        PackagesVerb::Restore(asked) => back::run(&wiring, asked, printer).await,
    }
}

/// What the configuration says of packages.
pub fn settings(wiring: &Wiring) -> Result<Settings, Fault> {
    let Some(config) = &wiring.config.packages else {
        let hint = "Add [packages] with primary = \"s3://bucket\", and replica = \"s3://another\" or snapshots = \"repository\" (docs/packages.md).";
        return Err(Fault::misuse("packages-unconfigured", "the configuration names no packages", "", hint));
    };
    let place = |site: &Site, key: &str| Ok::<_, Fault>(Place { url: site.url().to_owned(), options: site.options(key)? });
    Ok(Settings {
        primary: place(&config.primary, "primary")?,
        replica: config.replica.as_ref().map(|site| place(site, "replica")).transpose()?,
        replication_role: config.replication_role.clone(),
        replication_target: config.replication_target.clone(),
        replica_kms_key: config.replica_kms_key_id.clone(),
    })
}

/// The repository that keeps the snapshots, where one does.
pub async fn snapshots(wiring: &Wiring) -> Result<Option<Reader>, Fault> {
    let place = wiring.config.packages.as_ref().and_then(|packages| packages.snapshots.as_deref());
    Ok(match place {
        None => None,
        Some(OWN) => Some(wiring.reader().await?),
        Some(url) => Some(wiring.reader_at(url).await?),
    })
}

/// The same for adding one.
async fn snapshots_writer(wiring: &Wiring) -> Result<Writer, Fault> {
    match wiring.config.packages.as_ref().and_then(|packages| packages.snapshots.as_deref()) {
        Some(OWN) => wiring.writer().await,
        Some(url) => wiring.writer_at(url).await,
        None => {
            let hint = "Set [packages] snapshots = \"repository\", or to the url of a repository elsewhere (bowline init --repository URL).";
            Err(Fault::misuse("packages-no-snapshots", "the configuration does not say where snapshots of the packages go", "", hint))
        }
    }
}

/// The url of the repository that keeps the snapshots, where that is not the one of the backups.
pub fn apart(wiring: &Wiring) -> Option<&str> {
    wiring.config.packages.as_ref()?.snapshots.as_deref().filter(|place| *place != OWN)
}

/// How old the newest snapshot may become; an hour unless told.
pub fn every(wiring: &Wiring) -> Duration {
    wiring.config.packages.as_ref().and_then(|packages| packages.every).unwrap_or(Duration::from_secs(3600))
}
