//! What watching needs of the configuration, and how it opens what it looks at.

mod packages;

use self::packages::PackagesLook;
use crate::args::Common;
use crate::config::Config;
use crate::fault::Fault;
use crate::wiring::Wiring;
use async_trait::async_trait;
use futures::TryStreamExt;
use pg::ConnInfo;
use repo::Reader;
use repo::retention::RetentionPolicy;
use seal::Recipient;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{Bucket, Fact, OldVersions, StoreError, StoreOptions};
use terms::{Class, Schedule};
use tokio::sync::Mutex;
use watch::facts::{Objectives, PackagesFacts};
use watch::{Doors, JobPlan, Settings, Trouble};

const HOUR: Duration = Duration::from_secs(3600);
/// A daemon tells a job that takes too long to end, kills it, and writes that down.
const TO_END: Duration = Duration::from_secs(600);
/// How often the receiver reports unless told.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// On a disk, and not cleared while a drill is held.
pub const DRILL_DIR: &str = "/var/tmp";

/// What retention keeps.
pub fn policy(config: &Config) -> RetentionPolicy {
    let (configured, usual) = (&config.retention, RetentionPolicy::default());
    RetentionPolicy {
        daily: configured.daily.unwrap_or(usual.daily),
        monthly: configured.monthly.unwrap_or(usual.monthly),
        minimum: configured.minimum.unwrap_or(usual.minimum),
        zone: configured.timezone.clone().unwrap_or(usual.zone),
    }
}

/// What the configuration says about watching.
pub fn settings(config: &Config) -> Result<Settings, Fault> {
    let objectives = &config.objectives;
    let repository = &config.repository;
    let plan = |name, key, slack, is_optional| Ok::<_, Fault>(JobPlan { name, schedule: config.schedule(key)?, slack, is_optional });
    // Where Bowline itself keeps the copies: an age that is asked for.
    let snapshots = config.packages.as_ref().filter(|packages| packages.snapshots.is_some());
    let every = |packages: &crate::config::Packages| packages.every.unwrap_or(HOUR);
    let packages =
        snapshots.map(|packages| JobPlan { name: "packages", schedule: Schedule::every(every(packages)), slack: every(packages), is_optional: true });
    let mut settings = Settings {
        org: config.org.clone(),
        objectives: Objectives {
            rpo_seconds: objectives.rpo().as_secs_f64(),
            rto_seconds: objectives.rto().as_secs_f64(),
            backup_window_seconds: objectives.backup_window().as_secs_f64(),
            wal_lag_seconds: config.alerts.wal_lag().as_secs_f64(),
            replication_lag_seconds: config.alerts.replication_lag().as_secs_f64(),
            capacity_warning: repository.capacity_warning.unwrap_or(0.8),
            capacity_critical: repository.capacity_critical.unwrap_or(0.88),
        },
        jobs: vec![
            plan("backup", "backup.schedule", objectives.backup_window() + HOUR, false)?,
            plan("drill", "drill.schedule", 24 * HOUR, false)?,
            // After each backup, with an hour for the one and an hour for the other.
            plan("expire", "backup.schedule", objectives.backup_window() + 2 * HOUR, true)?,
            plan("scrub", "scrub.schedule", 24 * HOUR, true)?,
            plan("audit", "daemon.audit", 2 * HOUR, true)?,
            plan("check", "daemon.check", HOUR, true)?,
        ],
        lost_after: config.daemon.job_limit.unwrap_or_default().max(24 * HOUR) + TO_END,
        receives: config.daemon.receives(),
        slot: config.wal.slot.clone(),
        status_interval: config.wal.status_interval.unwrap_or(STATUS_INTERVAL),
        is_synchronous: config.wal.synchronous,
        receiver: capture::RECEIVER,
        data_dir: config.postgres.data_dir.clone(),
        drill_dir: config.daemon.holds_drills().then(|| config.drill.dir.clone().unwrap_or_else(|| PathBuf::from(DRILL_DIR))),
        policy: policy(config),
        quota_bytes: repository.capacity.map(|size| size.as_u64()),
        folder: repository.url.strip_prefix("file://").map(|path| PathBuf::from(path.split('?').next().unwrap_or(path))),
    };
    settings.jobs.extend(packages);
    Ok(settings)
}

/// Opens by the configuration, as it was when this was made.
pub struct WiredDoors(Arc<Wiring>, Mutex<PackagesLook>);

impl WiredDoors {
    pub fn new(common: &Common) -> Result<Self, Fault> {
        Ok(Self(Arc::new(Wiring::new(common)?), Mutex::default()))
    }

    pub fn wiring(&self) -> &Wiring {
        &self.0
    }
}

#[async_trait]
impl Doors for WiredDoors {
    async fn reader(&self) -> Result<Reader, Trouble> {
        self.0.reader().await.map_err(trouble)
    }

    async fn replica(&self) -> Option<Result<Reader, Trouble>> {
        Some(self.0.replica().await?.map_err(trouble))
    }

    fn recipients(&self) -> Result<Vec<Arc<dyn Recipient>>, Trouble> {
        self.0.each_recipient().map_err(trouble)
    }

    fn server(&self) -> Result<ConnInfo, Trouble> {
        self.0.conninfo().map_err(trouble)
    }

    async fn packages(&self, is_acting: bool) -> Option<Result<PackagesFacts, Trouble>> {
        self.1.lock().await.look(&self.0, is_acting).await
    }
}

/// What a removal leaves in the bucket at this address; `None` where it frees at once, or where Bowline cannot ask: in a folder, and in
/// what Google and Azure keep.
pub async fn old_versions(address: &str, options: &StoreOptions) -> Option<OldVersions> {
    let asked = async {
        let Some(bucket) = Bucket::open(address, options)? else { return Ok::<_, StoreError>(None) };
        Ok(bucket.state().await?.old_versions(bucket.prefix()))
    };
    asked.await.unwrap_or_else(|e| Some(OldVersions::unknown(e.to_string())))
}

/// How many bytes the repository takes: of a bucket that keeps versions all of them, whether listed or not, and uploads that are under way.
pub async fn used_bytes(wiring: &Wiring) -> Result<u64, Fault> {
    let options = wiring.store_options()?;
    let address = wiring.address();
    let store = store::open(&address, &options)?;
    let mut used = match store.unfinished().await? {
        Fact::Known(uploads) => uploads.iter().filter_map(|upload| upload.bytes).sum(),
        _ => 0,
    };
    if address.starts_with("s3:") {
        let versions = store::open_versions(&address, &options)?;
        let mut found = versions.versions(String::new());
        let mut counted = 0;
        loop {
            match found.try_next().await {
                Ok(Some(version)) => counted += version.bytes,
                Ok(None) => return Ok(used + counted),
                // A server that does not list versions keeps none that it could tell of.
                Err(e) if terms::Explain::class(&e) == Class::Transient => return Err(e.into()),
                Err(_) => break,
            }
        }
    }
    let mut objects = store.list("", None);
    while let Some(object) = objects.try_next().await? {
        used += object.bytes;
    }
    Ok(used)
}

fn trouble(fault: Fault) -> Trouble {
    Trouble::from(fault.0)
}
