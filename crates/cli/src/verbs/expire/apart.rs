//! Snapshots of packages in a repository of their own: `[packages] snapshots = "url"`.

use crate::fault::Fault;
use crate::verbs::packages;
use crate::watching;
use crate::wiring::Wiring;
use repo::Writer;
use repo::retention::{Reachable, RetentionPolicy};
use store::{OldVersions, Site};
use terms::{Clock, SystemClock};
use upkeep::{Elsewhere, ExpireOptions, Expired, Plans};

/// That repository.
pub struct Apart<'w> {
    wiring: &'w Wiring,
    url: &'w str,
    /// The bucket whose snapshots are ours to judge.
    source: String,
}

impl<'w> Apart<'w> {
    /// `None` where the snapshots lie beside the backups, or nowhere.
    pub fn of(wiring: &'w Wiring) -> Result<Option<Self>, Fault> {
        let Some(url) = packages::apart(wiring) else { return Ok(None) };
        let primary = packages::settings(wiring)?.primary;
        Ok(Some(Self { wiring, url, source: Site::open(&primary.url, &primary.options)?.address() }))
    }

    /// Without its query.
    pub fn address(&self) -> String {
        self.wiring.root_of(self.url).split('?').next().unwrap_or_default().to_owned()
    }

    pub async fn writer(&self) -> Result<Writer, Fault> {
        self.wiring.writer_at(self.url).await
    }

    /// What would be kept and what would go, where the database can be restored to these instants.
    pub async fn plans(&self, policy: &RetentionPolicy, reachable: Option<Reachable>) -> Result<Plans, Fault> {
        let reader = self.wiring.reader_at(self.url).await?;
        Ok(upkeep::plans(&reader, policy, Some(&self.beside(reachable)), SystemClock.now()).await?)
    }

    /// Lets it go.
    pub async fn expire(&self, options: ExpireOptions, reachable: Option<Reachable>) -> Result<Expired, Fault> {
        let options = ExpireOptions { elsewhere: Some(self.beside(reachable)), ..options };
        let remover = self.wiring.remover_at(self.url)?;
        Ok(upkeep::expire(&self.writer().await?, &*remover, &options, &SystemClock).await?)
    }

    /// What a removal leaves there.
    pub async fn old_versions(&self) -> Result<Option<OldVersions>, Fault> {
        Ok(watching::old_versions(&self.wiring.root_of(self.url), &self.wiring.options_at()?).await)
    }

    fn beside(&self, reachable: Option<Reachable>) -> Elsewhere {
        Elsewhere { source: self.source.clone(), reachable }
    }
}
