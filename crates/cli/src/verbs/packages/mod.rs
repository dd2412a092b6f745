//! `bowline packages`: the application's bucket.

mod enable;

use crate::args::{Common, PackagesVerb};
use crate::config::Site;
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use packages::{Place, Settings};
use std::process::ExitCode;
use std::sync::Arc;

pub async fn run(common: &Common, verb: &PackagesVerb, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    match verb {
        PackagesVerb::Enable(asked) => enable::run(&wiring, asked, printer).await,
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
