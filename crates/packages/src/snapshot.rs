//! A snapshot of a bucket or folder into a repository: what did not change since the last one is referred to, not stored again.

use crate::feed::feed;
use crate::sealing::Sealing;
use crate::tally::{Tally, Ticker};
use crate::versions::{self, Choice};
use crate::{PackagesError, Settings, lines};
use futures::stream::StreamExt;
use repo::{SnapshotDocument, SnapshotHeader, SnapshotVersions, Writer};
use seal::{CHUNK_BYTES, Protection};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use store::Site;
use terms::{BackupKind, Clock, Events, Timestamp};
use tokio::sync::mpsc;

/// What a snapshot came to.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotReport {
    /// As it is listed now.
    pub snapshot: SnapshotDocument,
    /// Objects that were listed, and gone before they were read.
    pub vanished: u64,
    /// From the first look at the source until it was listed.
    pub took_seconds: f64,
}

/// Makes a snapshot. One that breaks off is not listed; the next one stores anew what it had stored.
pub async fn snapshot(settings: &Settings, writer: &Writer, clock: &dyn Clock, events: Arc<dyn Events>) -> Result<SnapshotReport, PackagesError> {
    let begun_at = Instant::now();
    let site = Site::open(&settings.primary.url, &settings.primary.options)?;
    let reader = writer.reader();
    let listed = reader.snapshots().await?;
    let last = listed.iter().rev().find(|snapshot| snapshot.source == site.address());
    // Before anything is listed, as the beginning is.
    let keeps_versions = versions::are_kept(&site).await?;
    // Of what was overwritten while nothing was kept no version tells.
    let since = last.filter(|last| keeps_versions && last.kept_versions).map(|last| (last.id, last.began));
    let began = clock.now();
    let id = writer.free_snapshot_name(began, &listed).await?;
    let protection = writer.snapshot_protection(began).await?;
    let header = SnapshotHeader {
        format: SnapshotDocument::stamp().0,
        repository: reader.document().id,
        snapshot: id,
        source: site.address(),
        began,
        chunk_bytes: CHUNK_BYTES as u32,
        encryption: reader.document().encryption,
        since: since.map(|(id, _)| id),
        ordered: since.is_some() && site.orders_versions(),
    };
    let sealing = Sealing { writer: writer.clone(), protection: protection.clone(), id, digester: reader.digester().await? };
    let (tell, told) = mpsc::channel(16);
    let thread = tokio::task::spawn_blocking(move || sealing.run(header, told));

    let before = match last {
        Some(last) => lines::open(reader, last).await?,
        None => futures::stream::empty().boxed(),
    };
    let listing = if keeps_versions { site.versions() } else { site.current() };
    let tally = Arc::new(Tally::default());
    // Nobody knows before the end how much there is: about as much as the last time.
    let ticker = Ticker::start(events, Arc::clone(&tally), last.map(|last| (last.objects, last.bytes)));
    let fed = feed(&site, listing, before, Choice::since(since.map(|(_, began)| began)), &tell, &tally).await;
    drop(ticker);
    let vanished = match fed {
        Ok(vanished) => vanished,
        Err(error) => {
            // A list without an end is never published.
            drop(tell);
            // A thread that failed is the reason why nobody listened.
            return Err(thread.await.map_err(|e| PackagesError::Bug(e.to_string()))?.err().unwrap_or(error));
        }
    };
    drop(tell);
    let ended = clock.now();
    let sealed = thread.await.map_err(|e| PackagesError::Bug(e.to_string()))??;
    let (manifest, mut counts) = (sealed.manifest, sealed.counts);
    let (end, manifest_bytes) =
        tokio::task::spawn_blocking(move || manifest.finish(ended)).await.map_err(|e| PackagesError::Bug(e.to_string()))??;
    counts.bytes_stored += manifest_bytes;
    // Nothing is listed before all that it needs is durable.
    writer.settle().await?;
    let (format, written_by) = SnapshotDocument::stamp();
    let document = SnapshotDocument {
        format,
        id,
        kind: BackupKind::Packages,
        repository: reader.document().id,
        source: site.address(),
        began,
        ended,
        objects: end.objects,
        bytes: end.bytes,
        objects_new: counts.objects_new,
        bytes_new: counts.bytes_new,
        bytes_stored: counts.bytes_stored,
        packs: counts.packs,
        encryption: reader.document().encryption,
        key: match &protection {
            Protection::Sealed(key) => Some(key.id()),
            Protection::Plain => None,
        },
        needs: counts.needs,
        kept_versions: keeps_versions,
        versions: since.map(|(since, _)| SnapshotVersions {
            since,
            ordered: site.orders_versions(),
            objects: end.former,
            bytes: end.former_bytes,
            removals: end.removals,
        }),
        written_by,
    };
    writer.publish_snapshot(&document).await?;
    Ok(SnapshotReport { snapshot: document, vanished, took_seconds: begun_at.elapsed().as_secs_f64() })
}

/// How old the newest snapshot of this source is; `None` when there is none.
pub fn age_seconds(snapshots: &[SnapshotDocument], source: &str, now: Timestamp) -> Option<f64> {
    snapshots.iter().rev().find(|snapshot| snapshot.source == source).map(|newest| now.seconds_since(newest.began).max(0.0))
}
