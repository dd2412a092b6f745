//! Lists the source beside the last snapshot, and reads what changed.

use crate::PackagesError;
use crate::lines::{AllLines, KeyLines};
use crate::sealing::Told;
use crate::tally::Tally;
use crate::versions::{Choice, Due};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use repo::{SnapshotEntry, SnapshotObject};
use seal::CHUNK_BYTES;
use store::{Item, ItemFacts, Site, StoreError};
use tokio::sync::mpsc;

/// An object up to this size is read whole, several at once; a larger one alone, in pieces of this size.
const WHOLE_BYTES_MAX: u64 = 4 << 20;
/// So many small objects are read at once.
const READS_AT_ONCE: usize = 8;
/// How often an object that changes while it is read is read again.
const READ_TRIES: usize = 5;

/// What is handed on of a key.
enum Found {
    /// Without reading.
    Entry(SnapshotEntry),
    /// Read whole.
    Read(SnapshotObject, Bytes),
    Large(Item, bool),
    Vanished,
}

/// Hands all of the listing on in order. How many objects were gone before they were read.
pub(crate) async fn feed(
    site: &Site,
    listing: BoxStream<'static, Result<Item, StoreError>>,
    before: AllLines,
    choice: Choice,
    tell: &mpsc::Sender<Told>,
    tally: &Tally,
) -> Result<u64, PackagesError> {
    let state = (listing.map_err(PackagesError::from).boxed(), before, None::<KeyLines>, choice);
    let joined = futures::stream::try_unfold(state, |(mut items, mut before, mut head, mut choice)| async move {
        loop {
            let Some(item) = items.try_next().await? else { return Ok::<_, PackagesError>(None) };
            while head.as_ref().is_none_or(|known| known.key < item.key) {
                head = before.try_next().await?;
                if head.is_none() {
                    break;
                }
            }
            let known = head.as_ref().filter(|known| known.key == item.key).map_or(&[][..], |known| &known.entries);
            if let Some(due) = choice.choose(item, known) {
                return Ok(Some((due, (items, before, head, choice))));
            }
        }
    });
    let mut found = joined
        .map_ok(|due| async move {
            match due {
                Due::Entry(entry) => Ok(Found::Entry(entry)),
                Due::Read(item, is_former) if item.bytes > WHOLE_BYTES_MAX => Ok(Found::Large(item, is_former)),
                Due::Read(item, is_former) => read_whole(site, item, is_former).await,
            }
        })
        .try_buffered(READS_AT_ONCE)
        .boxed();
    let gone = || PackagesError::Bug("the sealing thread ended early".into());
    let send = async |told: Told| tell.send(told).await.map_err(|_| gone());
    let mut vanished = 0;
    while let Some(next) = found.try_next().await? {
        match next {
            Found::Entry(entry) => {
                if let SnapshotEntry::Object(object) = &entry {
                    tally.add(1, object.size);
                }
                send(Told::Entry(entry)).await?;
            }
            Found::Read(object, body) => {
                let bytes = object.size;
                send(Told::Begin(object)).await?;
                for at in (0..body.len()).step_by(CHUNK_BYTES) {
                    send(Told::Chunk(body.slice(at..body.len().min(at + CHUNK_BYTES)))).await?;
                }
                send(Told::End).await?;
                tally.add(1, bytes);
            }
            Found::Large(item, is_former) => {
                if !read_large(site, item, is_former, &send, tally).await? {
                    vanished += 1;
                }
                tally.add(1, 0);
            }
            Found::Vanished => vanished += 1,
        }
    }
    Ok(vanished)
}

fn begun(item: Item, facts: ItemFacts, former: bool) -> SnapshotObject {
    let Item { key, bytes: size, modified, etag, .. } = item;
    SnapshotObject { key, size, modified, etag, facts, stored_in: None, former, chunks: Vec::new() }
}

/// Reads a small object; one that changes meanwhile is read as it is then. A former version never changes.
async fn read_whole(site: &Site, mut item: Item, is_former: bool) -> Result<Found, PackagesError> {
    for _ in 0..READ_TRIES {
        if let Some((body, facts)) = site.read(&item, 0..item.bytes).await? {
            return Ok(Found::Read(begun(item, facts, is_former), body));
        }
        if is_former {
            return Ok(Found::Vanished);
        }
        match site.look(&item.key).await? {
            None => return Ok(Found::Vanished),
            Some(found) if found.bytes > WHOLE_BYTES_MAX => return Ok(Found::Large(found, false)),
            Some(found) => item = found,
        }
    }
    Err(unsteady(&item))
}

fn unsteady(item: &Item) -> PackagesError {
    PackagesError::Unsteady { key: item.key.clone() }
}

/// Reads a large object piece by piece. Its first piece is begun only once; one that changes on the way ends the snapshot.
async fn read_large(
    site: &Site,
    mut item: Item,
    is_former: bool,
    send: &impl AsyncFn(Told) -> Result<(), PackagesError>,
    tally: &Tally,
) -> Result<bool, PackagesError> {
    let mut first = None;
    for _ in 0..READ_TRIES {
        first = site.read(&item, 0..item.bytes.min(WHOLE_BYTES_MAX)).await?;
        if first.is_some() {
            break;
        }
        if is_former {
            return Ok(false);
        }
        match site.look(&item.key).await? {
            None => return Ok(false),
            Some(found) => item = found,
        }
    }
    let Some((mut body, facts)) = first else { return Err(unsteady(&item)) };
    send(Told::Begin(begun(item.clone(), facts, is_former))).await?;
    let mut at = 0;
    loop {
        for from in (0..body.len()).step_by(CHUNK_BYTES) {
            send(Told::Chunk(body.slice(from..body.len().min(from + CHUNK_BYTES)))).await?;
        }
        at += body.len() as u64;
        tally.add(0, body.len() as u64);
        if at >= item.bytes {
            break;
        }
        let next = site.read(&item, at..item.bytes.min(at + WHOLE_BYTES_MAX)).await?;
        body = next.ok_or_else(|| unsteady(&item))?.0;
    }
    send(Told::End).await?;
    Ok(true)
}
