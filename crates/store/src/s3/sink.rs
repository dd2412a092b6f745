//! A large object on its way to a bucket: one put while it is small, parts under way in the background when it grows.

use super::put::{CONNECT_ATTEMPTS, pause};
use super::tap::Tap;
use super::trouble::Trouble;
use super::{BUSY_SECONDS_MAX, BYTES_PER_SECOND_MIN, CALL_SECONDS_MAX, Inner};
use crate::pending::Ticket;
use crate::{Created, ObjectPath, ObjectSink, StoreError};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use object_store::multipart::PartId;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, PutPayload};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The size of a part and of the buffers that become parts. S3 allows 10 000 parts: 160 GB an object.
const PART_BYTES: usize = 16 << 20;
/// Up to this many bytes an object is stored by one put that refuses to overwrite.
const SINGLE_PUT_BYTES: u64 = 40 << 20;
/// Parts of one object under way at once.
const PARTS_AT_ONCE: usize = 4;
/// So many attempts a part has at least, each of which may last minutes where nothing answers.
const PART_ATTEMPTS: u32 = 6;
/// An object that takes hours outlives a store that is away for so long; after that no further attempt begins.
const AWAY_SECONDS_MAX: u64 = 300;
/// No new attempt to complete an upload begins after this long, where a server answers.
const COMPLETE_SECONDS_MAX: u64 = 60;
/// How many of the last bytes are compared when the answer to the completion was lost.
const TAIL_BYTES: u64 = 4096;

/// See [`ObjectSink`].
pub(super) struct S3Sink {
    inner: Arc<Inner>,
    path: ObjectPath,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whole buffers of [`PART_BYTES`] that no upload has taken yet.
    full: Vec<Bytes>,
    current: Vec<u8>,
    length: u64,
    upload: Option<UnboundedSender<Step>>,
    is_finished: bool,
    failed: Arc<Mutex<Option<StoreError>>>,
}

/// What the sink tells its upload. Dropping the channel without `Finish` abandons it.
enum Step {
    Part(Bytes, OwnedSemaphorePermit),
    Finish(Ticket),
}

impl S3Sink {
    pub(super) fn new(inner: Arc<Inner>, path: ObjectPath) -> Self {
        Self { inner, path, state: Mutex::default() }
    }

    /// Waits for room for bytes that are about to be handed over. More than there is room for at all takes all of it.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let kib = (bytes.div_ceil(1024) as u32).clamp(1, self.inner.room_kib);
        let room = Arc::clone(&self.inner.room).acquire_many_owned(kib);
        self.inner.runtime.block_on(room).map_err(|_| self.misused("the store is closing"))
    }

    fn misused(&self, why: &str) -> StoreError {
        failed(&self.inner, &self.path, why)
    }

    /// Hands full buffers to the upload, which the first of them starts.
    fn send_full(&self, state: &mut State) -> Result<(), StoreError> {
        if let Some(error) = state.failed.lock().expect("no holder panics").clone() {
            return Err(error);
        }
        if state.upload.is_none() {
            let (sender, receiver) = unbounded_channel();
            let upload = Upload { inner: Arc::clone(&self.inner), path: self.path.clone(), failed: Arc::clone(&state.failed) };
            self.inner.runtime.spawn(upload.run(receiver));
            state.upload = Some(sender);
        }
        for part in std::mem::take(&mut state.full) {
            let permit = self.room(part.len())?;
            let sent = state.upload.as_ref().is_some_and(|upload| upload.send(Step::Part(part, permit)).is_ok());
            if !sent {
                let error = state.failed.lock().expect("no holder panics").clone();
                return Err(error.unwrap_or_else(|| self.misused("its upload ended early")));
            }
        }
        Ok(())
    }
}

impl ObjectSink for S3Sink {
    fn append(&self, bytes: &[u8]) -> Result<u64, StoreError> {
        let mut state = self.state.lock().map_err(|_| self.misused("a writer panicked"))?;
        if state.is_finished {
            return Err(self.misused("it is finished already"));
        }
        let offset = state.length;
        let mut rest = bytes;
        while !rest.is_empty() {
            if state.current.capacity() == 0 {
                state.current.reserve_exact(PART_BYTES);
            }
            let (now, later) = rest.split_at(rest.len().min(PART_BYTES - state.current.len()));
            state.current.extend_from_slice(now);
            state.length += now.len() as u64;
            rest = later;
            if state.current.len() == PART_BYTES {
                let full = Bytes::from(std::mem::take(&mut state.current));
                state.full.push(full);
            }
            if state.length > SINGLE_PUT_BYTES && !state.full.is_empty() {
                self.send_full(&mut state)?;
            }
        }
        Ok(offset)
    }

    fn finish(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().map_err(|_| self.misused("a writer panicked"))?;
        if std::mem::replace(&mut state.is_finished, true) {
            return Err(self.misused("it is finished already"));
        }
        let last = Bytes::from(std::mem::take(&mut state.current));
        let given_up = self.misused("its upload was given up");
        if state.length > SINGLE_PUT_BYTES {
            if !last.is_empty() {
                state.full.push(last);
            }
            self.send_full(&mut state)?;
            let upload = state.upload.take();
            let ticket = self.inner.pending.start(given_up);
            // When the upload has ended the dropped ticket tells it to settle().
            return match upload.map(|upload| upload.send(Step::Finish(ticket))) {
                Some(Ok(())) => Ok(()),
                _ => Err(state.failed.lock().expect("no holder panics").clone().unwrap_or_else(|| self.misused("its upload ended early"))),
            };
        }
        let pieces = std::mem::take(&mut state.full).into_iter().chain((!last.is_empty()).then_some(last));
        let payload: PutPayload = pieces.collect();
        let permit = self.room(payload.content_length())?;
        let ticket = self.inner.pending.start(given_up);
        let (inner, path) = (Arc::clone(&self.inner), self.path.clone());
        self.inner.runtime.spawn(async move {
            let result = match inner.put_new(&path, payload).await {
                Ok(Created::New) => Ok(()),
                Ok(Created::AlreadyThere) => Err(exists(&inner, &path)),
                Err(error) => Err(error),
            };
            drop(permit);
            ticket.end(result);
        });
        Ok(())
    }
}

/// The upload of one object in parts.
struct Upload {
    inner: Arc<Inner>,
    path: ObjectPath,
    failed: Arc<Mutex<Option<StoreError>>>,
}

impl Upload {
    /// Runs until the sink says that no part follows, or goes away.
    async fn run(self, mut steps: UnboundedReceiver<Step>) {
        let error = match self.begin().await {
            Err(error) => error,
            Ok((key, id)) => match self.send_parts(&key, &id, &mut steps).await {
                Ok(Some(ticket)) => return ticket.end(Ok(())),
                // The sink was dropped unfinished: nobody waits for an answer.
                Ok(None) => return self.abandon(&key, &id).await,
                Err((error, ticket)) => {
                    self.abandon(&key, &id).await;
                    if let Some(ticket) = ticket {
                        return ticket.end(Err(error));
                    }
                    error
                }
            },
        };
        *self.failed.lock().expect("no holder panics") = Some(error.clone());
        // Parts still coming are dropped here, which makes room for others.
        while let Some(step) = steps.recv().await {
            if let Step::Finish(ticket) = step {
                return ticket.end(Err(error));
            }
        }
    }

    async fn begin(&self) -> Result<(Key, String), StoreError> {
        let key = self.inner.key(self.path.as_str())?;
        let id = self.patiently(|| self.try_begin(&key)).await?;
        Ok((key, id))
    }

    async fn try_begin(&self, key: &Key) -> Result<String, StoreError> {
        self.inner.prove_at_rest().await?;
        self.must_be_absent().await?;
        self.inner.bounded("write", self.path.as_str(), 0, || self.inner.steady.create_multipart(key)).await
    }

    /// Asks again while the store is away: what took hours is not thrown away for that.
    async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(&self, ask: impl Fn() -> F) -> Result<T, StoreError> {
        let begun = Instant::now();
        for tries in 1.. {
            match ask().await {
                Err(StoreError::Unreachable { .. }) if begun.elapsed().as_secs() < AWAY_SECONDS_MAX && !self.inner.tap.is_gone(AWAY_SECONDS_MAX) => {}
                outcome => return outcome,
            }
            tokio::time::sleep(pause(tries)).await;
        }
        unreachable!("the loop ends by itself")
    }

    /// Completing an upload overwrites; names of objects this large are random, so asking first is enough.
    async fn must_be_absent(&self) -> Result<(), StoreError> {
        match self.inner.info(&self.path).await? {
            None => Ok(()),
            Some(_) => Err(exists(&self.inner, &self.path)),
        }
    }

    async fn send_parts(&self, key: &Key, id: &String, steps: &mut UnboundedReceiver<Step>) -> Result<Option<Ticket>, (StoreError, Option<Ticket>)> {
        let mut under_way = FuturesUnordered::new();
        let mut parts: Vec<Option<PartId>> = Vec::new();
        let (mut length, mut tail) = (0, Bytes::new());
        let ticket = loop {
            while under_way.len() >= PARTS_AT_ONCE {
                take(&mut parts, under_way.next().await).map_err(|error| (error, None))?;
            }
            tokio::select! {
                step = steps.recv() => match step {
                    Some(Step::Part(part, permit)) => {
                        length += part.len() as u64;
                        tail = part.clone();
                        under_way.push(self.part(key, id, parts.len(), part, permit));
                        parts.push(None);
                    }
                    Some(Step::Finish(ticket)) => break ticket,
                    None => return Ok(None),
                },
                done = under_way.next(), if !under_way.is_empty() => take(&mut parts, done).map_err(|error| (error, None))?,
            }
        };
        while !under_way.is_empty() {
            if let Err(error) = take(&mut parts, under_way.next().await) {
                return Err((error, Some(ticket)));
            }
        }
        match self.complete(key, id, parts.into_iter().flatten().collect(), length, tail).await {
            Ok(()) => Ok(Some(ticket)),
            Err(error) => Err((error, Some(ticket))),
        }
    }

    /// Stores one part; doing so twice does no harm, so every passing trouble is answered with another attempt.
    async fn part(&self, key: &Key, id: &String, index: usize, part: Bytes, permit: OwnedSemaphorePermit) -> Result<(usize, PartId), StoreError> {
        let patience = Duration::from_secs(60 + part.len() as u64 / BYTES_PER_SECOND_MIN);
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let put = self.inner.once.put_part(key, id, index, PutPayload::from(part.clone()));
            let (error, may_pass, is_busy, is_gone) = match tokio::time::timeout(patience, put).await {
                Ok(Ok(done)) => {
                    drop(permit);
                    return Ok((index, done));
                }
                Ok(Err(error)) => {
                    let trouble = Trouble::read(&error);
                    let is_gone = trouble.never_left() && self.inner.tap.is_gone(AWAY_SECONDS_MAX);
                    (self.inner.fail("write", self.path.as_str(), &trouble), trouble.may_pass(), trouble.is_busy(), is_gone)
                }
                Err(_) => (self.inner.silent("write", self.path.as_str(), patience), true, false, false),
            };
            let budget = if is_busy { BUSY_SECONDS_MAX } else { AWAY_SECONDS_MAX };
            let is_spent = tries >= PART_ATTEMPTS && begun.elapsed().as_secs() >= budget;
            if !may_pass || is_spent || (is_gone && tries >= CONNECT_ATTEMPTS) {
                return Err(error);
            }
            tokio::time::sleep(pause(tries)).await;
        }
    }

    /// Makes the parts one object, unless another came to be there meanwhile: the tap adds the condition.
    async fn complete(&self, key: &Key, id: &String, parts: Vec<PartId>, length: u64, tail: Bytes) -> Result<(), StoreError> {
        self.patiently(|| self.must_be_absent()).await?;
        // Servers copy for a while before they answer: the bytes count, and nobody hangs up earlier.
        let patience = Duration::from_secs(CALL_SECONDS_MAX + length / BYTES_PER_SECOND_MIN);
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let call = self.inner.once.complete_multipart(key, id, parts.clone());
            let (error, again) = match tokio::time::timeout(patience, call).await {
                Ok(Ok(_)) => return self.inner.look_at_rest(&self.path).await,
                Ok(Err(error)) => {
                    let trouble = Trouble::read(&error);
                    if trouble.is_unknown_header() && self.inner.tap.complete_unconditionally() {
                        continue;
                    }
                    let budget = complete_seconds(&trouble, &self.inner.tap);
                    let again = trouble.may_pass() && !trouble.is_conflict() && begun.elapsed().as_secs() < budget;
                    (self.inner.fail("write", self.path.as_str(), &trouble), again)
                }
                Err(_) => (self.inner.silent("write", self.path.as_str(), patience), false),
            };
            // An answer lost on the way makes the repetition fail with NoSuchUpload or a condition: what is stored decides.
            if self.is_stored(key, length, &tail).await {
                return self.inner.look_at_rest(&self.path).await;
            }
            if !again {
                return Err(match self.inner.info(&self.path).await {
                    Ok(Some(_)) => exists(&self.inner, &self.path),
                    _ => error,
                });
            }
            tokio::time::sleep(pause(tries)).await;
        }
    }

    /// Whether the object is there, as long as ours and with the same end; both are sealed bytes that no other object has.
    async fn is_stored(&self, key: &Key, length: u64, tail: &Bytes) -> bool {
        let tail = tail.slice(tail.len().saturating_sub(TAIL_BYTES as usize)..);
        let options = GetOptions { range: Some(GetRange::Suffix(tail.len() as u64)), ..GetOptions::default() };
        let read = || async {
            let answer = self.inner.steady.get_opts(key, options.clone()).await?;
            let size = answer.meta.size;
            Ok((size, answer.bytes().await?))
        };
        matches!(self.inner.bounded("read", self.path.as_str(), TAIL_BYTES, read).await, Ok((size, end)) if size == length && end == tail)
    }

    /// Frees what the parts occupy. Best effort: a lifecycle rule for incomplete uploads catches the rest.
    async fn abandon(&self, key: &Key, id: &String) {
        let _ = self.inner.bounded("write", self.path.as_str(), 0, || self.inner.steady.abort_multipart(key, id)).await;
    }
}

/// For how long the completion of an upload is attempted again, by what went wrong last.
fn complete_seconds(trouble: &Trouble, tap: &Tap) -> u64 {
    let is_away = trouble.never_left() && !tap.is_gone(AWAY_SECONDS_MAX);
    match (trouble.is_busy(), is_away) {
        (true, _) => BUSY_SECONDS_MAX,
        (false, true) => AWAY_SECONDS_MAX,
        (false, false) => COMPLETE_SECONDS_MAX,
    }
}

fn take(parts: &mut [Option<PartId>], done: Option<Result<(usize, PartId), StoreError>>) -> Result<(), StoreError> {
    if let Some(done) = done {
        let (index, part) = done?;
        parts[index] = Some(part);
    }
    Ok(())
}

fn exists(inner: &Inner, path: &ObjectPath) -> StoreError {
    StoreError::Exists { store: inner.address.clone(), path: path.to_string() }
}

fn failed(inner: &Inner, path: &ObjectPath, why: &str) -> StoreError {
    StoreError::Failed { store: inner.address.clone(), operation: "write", path: path.to_string(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::client::{HttpError, HttpErrorKind, HttpResponse};

    #[test]
    fn a_completion_waits_as_long_for_a_store_that_is_away_as_its_parts_do() {
        let refused = || HttpError::new(HttpErrorKind::Connect, std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let tap = Tap::new(None, false);
        assert_eq!(complete_seconds(&Trouble::transport(refused()), &tap), COMPLETE_SECONDS_MAX, "nobody ever answered there");
        tap.note(&Ok(HttpResponse::new(Bytes::new().into())));
        tap.note(&Err(refused()));
        assert_eq!(complete_seconds(&Trouble::transport(refused()), &tap), AWAY_SECONDS_MAX);
        assert_eq!(complete_seconds(&Trouble::silent(5), &tap), COMPLETE_SECONDS_MAX, "it was connected to");
        let busy = "<Error><Code>SlowDown</Code></Error>";
        assert_eq!(complete_seconds(&Trouble::answered(503, busy), &tap), BUSY_SECONDS_MAX);
    }
}
