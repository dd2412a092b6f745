//! Reads the large: what was damaged once more, then unit after unit from where the last run ended.

use super::packs::{Packs, Tell, Told};
use super::units::{Unit, What};
use super::{Found, Run, SAVE_EVERY_BYTES};
use super::{backup, damage, snapshot};
use futures::TryStreamExt;
use repo::{Listed, Reader, RepoError, ScrubDamage};
use store::{ObjectInfo, ObjectPath, StoreError};
use terms::{SegmentName, SegmentSize, SystemId};

impl Run<'_> {
    /// What was damaged is looked at first.
    pub(super) async fn prove_again(&mut self, listed: &[Listed]) -> Result<(), RepoError> {
        let is_here = |damage: &&ScrubDamage| ![damage::GAP, damage::APART].contains(&damage.slug.as_str());
        let standing: Vec<String> = self.state.damage.iter().filter(is_here).map(|damage| damage.path.clone()).collect();
        for path in standing {
            if let Some((folder, name)) = path.split_once("/data/").or_else(|| path.rsplit_once('/').filter(|(_, name)| *name == "manifest")) {
                let is_it = |one: &&Listed| one.kind().is_some_and(|kind| repo::backup_folder(kind, one.id()) == folder);
                let Some(one) = listed.iter().find(is_it) else { continue };
                let packs = name.parse().map_or(Packs::Only(0), Packs::Only);
                let (mut told, reader) = (Vec::new(), self.reader);
                let went_through = prove(reader, one, packs, &mut |one| {
                    told.push(one);
                    true
                })
                .await?;
                let is_well = went_through && told.iter().all(|one| matches!(one, Told::Well(..)));
                for one in told {
                    self.take(one).await;
                }
                if is_well {
                    self.well(&path, 0);
                }
            } else if ["wal/", "runs/"].iter().any(|folder| path.starts_with(folder)) && !path.ends_with("/index") {
                let path = ObjectPath::new(path).map_err(|e| RepoError::Bug(e.to_string()))?;
                match self.reader.store().info(&path).await? {
                    Some(info) => self.prove_wal(&[info]).await?,
                    // Let go by retention, or a gap, which the audit tells of. A history or a mark is seen to be missing elsewhere.
                    None if repo::segment_of(&path).is_some() || path.as_str().starts_with("runs/") => self.well(path.as_str(), 0),
                    None => {}
                }
            }
        }
        Ok(())
    }

    pub(super) async fn prove_unit(&mut self, unit: &Unit) -> Result<(), RepoError> {
        let entry = self.state.units.entry(unit.name.clone()).or_default();
        let unit_began = *entry.began.get_or_insert(self.began);
        let is_through = match &unit.what {
            What::Listed(listed) => self.prove_listed(&unit.name, listed).await?,
            What::Log { prefix, .. } => self.prove_log(&unit.name, prefix).await?,
        };
        if is_through {
            let entry = self.state.units.entry(unit.name.clone()).or_default();
            (entry.verified, entry.began, entry.cursor) = (Some(unit_began), None, None);
        }
        self.save().await
    }

    async fn prove_listed(&mut self, name: &str, listed: &Listed) -> Result<bool, RepoError> {
        loop {
            let done = self.state.units.get(name).and_then(|unit| unit.cursor.as_ref()?.parse().ok()).unwrap_or(0);
            let (mut told, mut read, left) = (Vec::new(), 0, self.options.budget.saturating_sub(self.spent));
            let is_through = prove(self.reader, listed, Packs::After(done), &mut |one| {
                read += one.bytes();
                told.push(one);
                read < left.min(SAVE_EVERY_BYTES)
            })
            .await;
            let last = told.iter().filter_map(Told::pack).max();
            let has_bad = told.iter().any(|one| matches!(one, Told::Bad(..)));
            for one in told {
                self.spent += one.bytes();
                self.take(one).await;
            }
            // Expired meanwhile: what is gone was let go.
            if has_bad && is_gone(self.reader, listed).await {
                let folder = format!("{name}/");
                self.state.damage.retain(|damage| !damage.path.starts_with(&folder));
                return Ok(true);
            }
            if let (Some(last), Some(unit)) = (last, self.state.units.get_mut(name)) {
                unit.cursor = Some(last.to_string());
            }
            // A manifest that does not open ends it, too: all that can be proven was, and the damage stands.
            if is_through? || last.is_none() {
                return Ok(true);
            }
            self.save().await?;
            if self.is_spent() {
                return Ok(false);
            }
        }
    }

    async fn prove_log(&mut self, name: &str, prefix: &str) -> Result<bool, RepoError> {
        let (folder, after) = match prefix.ends_with("/index") {
            true => (prefix, None),
            false => (prefix.rsplit_once('/').map_or(prefix, |(folder, _)| folder), Some(prefix.to_owned())),
        };
        loop {
            let after = self.state.units.get(name).and_then(|unit| unit.cursor.clone()).or(after.clone());
            let after = after.map(ObjectPath::new).transpose().map_err(|e| RepoError::Bug(e.to_string()))?;
            let mut batch = Vec::new();
            let mut listing = self.reader.store().list(folder, after.as_ref());
            let (mut bytes, mut has_more) = (0, false);
            while let Some(info) = listing.try_next().await? {
                if !info.path.as_str().starts_with(prefix) {
                    break;
                }
                if bytes >= SAVE_EVERY_BYTES.min(self.options.budget.saturating_sub(self.spent)) && !batch.is_empty() {
                    has_more = true;
                    break;
                }
                bytes += info.bytes;
                batch.push(info);
            }
            drop(listing);
            self.prove_wal(&batch).await?;
            self.spent += bytes;
            if !has_more {
                return Ok(true);
            }
            if let (Some(last), Some(unit)) = (batch.last(), self.state.units.get_mut(name)) {
                unit.cursor = Some(last.path.to_string());
            }
            self.save().await?;
            if self.is_spent() {
                return Ok(false);
            }
        }
    }

    async fn prove_wal(&mut self, objects: &[ObjectInfo]) -> Result<(), RepoError> {
        let system_of = |info: &ObjectInfo| info.path.as_str().split('/').nth(1).and_then(|part| part.parse::<SystemId>().ok());
        let Some(system) = objects.first().and_then(system_of) else { return Ok(()) };
        let segments: Vec<SegmentName> = objects.iter().filter_map(|info| info.path.name().parse().ok()).collect();
        let index = self.reader.index_of(system, &segments).await?;
        let size: Option<SegmentSize> = self.around.segment_size(system);
        for info in objects {
            match self.reader.prove_object(info, size, &index).await {
                Ok(_) => self.well(info.path.as_str(), info.bytes),
                // Removed since it was listed; what must not be missing is a gap, and told of as one.
                Err(RepoError::Store(StoreError::Missing { path, .. })) if path == info.path.as_str() => {}
                Err(e) => {
                    let mut found = Found::of(info.path.to_string(), e)?;
                    if repo::is_piece(&info.path)
                        && let Some(segment) = repo::segment_of(&info.path)
                    {
                        found.is_covered = self.reader.has_wal(system, &terms::WalName::Segment(segment)).await?;
                    }
                    (self.objects, self.bytes) = (self.objects + 1, self.bytes + info.bytes);
                    self.bad(found).await;
                }
            }
            self.tell_progress();
        }
        Ok(())
    }
}

async fn prove(reader: &Reader, listed: &Listed, packs: Packs, tell: &mut Tell<'_>) -> Result<bool, RepoError> {
    match listed {
        Listed::Backup(one) => backup::prove(reader, one, packs, tell).await,
        Listed::Snapshot(one) => snapshot::prove(reader, one, packs, tell).await,
    }
}

/// Whether it was let go since it was looked at. A snapshot that is not listed stays as long as a listed one refers to it.
async fn is_gone(reader: &Reader, listed: &Listed) -> bool {
    match listed {
        Listed::Backup(one) => reader.backup_if_listed(one.kind, one.id).await.is_ok_and(|found| found.is_none()),
        Listed::Snapshot(one) => {
            let Ok(listed) = reader.snapshots().await else { return false };
            listed.iter().all(|other| other.id != one.id && !other.needs.contains(&one.id))
        }
    }
}

impl Told {
    fn bytes(&self) -> u64 {
        match self {
            Self::Well(_, bytes) | Self::Bad(_, bytes) => *bytes,
        }
    }
    /// The number of the pack that it is of.
    fn pack(&self) -> Option<u32> {
        let path = match self {
            Self::Well(path, _) => path.as_str(),
            Self::Bad(found, _) => &found.path,
        };
        path.split_once("/data/")?.1.parse().ok()
    }
}
