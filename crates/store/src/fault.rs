//! A wrapper that counts what a store is asked and, for tests, lets a chosen operation go wrong.

use crate::{Created, Fetch, Growing, Nature, ObjectInfo, ObjectPath, ObjectSink, Put, Remove, StoreError, Version};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails and has no effect.
    Before,
    /// The operation takes effect and fails all the same.
    After,
    /// This operation and every later one fails without effect, as if the process had been killed here.
    Die,
    /// A read gives fewer bytes than there are, without an error.
    ShortRead,
    /// A read gives the bytes with one bit changed.
    FlippedBit,
    /// The operation takes this much longer.
    Stall(Duration),
}

/// Counts operations and says which goes wrong; shared by the doors that belong to one run.
#[derive(Debug, Default)]
pub struct FaultPlan {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    faults: BTreeMap<u64, Fault>,
    is_dead: bool,
    names: Vec<String>,
}

impl FaultPlan {
    /// Nothing goes wrong: for counting.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }
    /// The `k`-th operation goes wrong; the first is 1.
    pub fn at(k: u64, fault: Fault) -> Arc<Self> {
        let plan = Self::default();
        plan.lock().faults.insert(k, fault);
        Arc::new(plan)
    }
    /// One more operation goes wrong.
    pub fn also(&self, k: u64, fault: Fault) {
        self.lock().faults.insert(k, fault);
    }
    /// How many operations there have been: calls of every trait's methods, sinks' included; a listing is one.
    pub fn count(&self) -> u64 {
        self.lock().count
    }
    /// What the operations were, in order: `put_new wal/1`.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.clone()
    }
    /// Whether [`Fault::Die`] has come.
    pub fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Counts one operation.
    fn next(&self, operation: &str, path: &str) -> Option<Fault> {
        let mut state = self.lock();
        state.count += 1;
        state.names.push(format!("{operation} {path}"));
        let count = state.count;
        let fault = state.faults.get(&count).copied();
        state.is_dead |= fault == Some(Fault::Die);
        if state.is_dead { Some(Fault::Die) } else { fault }
    }
}

/// A store that goes wrong as planned.
pub struct Faults<S: ?Sized> {
    inner: Arc<S>,
    plan: Arc<FaultPlan>,
}

impl<S: ?Sized> Faults<S> {
    /// Wraps `inner`.
    pub fn new(inner: Arc<S>, plan: Arc<FaultPlan>) -> Self {
        Self { inner, plan }
    }
}

fn planned(operation: &'static str, path: &str) -> StoreError {
    StoreError::Unreachable { store: "faults:".to_owned(), operation, path: path.to_owned(), why: "a planned fault".to_owned() }
}

impl<S: Fetch + ?Sized> Faults<S> {
    /// Counts the operation and runs `call` with the fault that is planned for it.
    async fn run<T>(&self, operation: &'static str, path: &str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        with_fault(self.plan.next(operation, path), operation, path, call).await
    }

    /// Like `run`, where there are bytes to spoil.
    async fn read(
        &self,
        operation: &'static str,
        path: &ObjectPath,
        call: impl Future<Output = Result<Bytes, StoreError>>,
    ) -> Result<Bytes, StoreError> {
        let fault = self.plan.next(operation, path.as_str());
        let body = with_fault(fault, operation, path.as_str(), call).await?;
        Ok(match fault {
            Some(Fault::ShortRead) => body.slice(..body.len() / 2),
            Some(Fault::FlippedBit) => {
                let mut bytes = body.to_vec();
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 0x10;
                }
                Bytes::from(bytes)
            }
            _ => body,
        })
    }
}

async fn with_fault<T>(
    fault: Option<Fault>,
    operation: &'static str,
    path: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match fault {
        Some(Fault::Before | Fault::Die) => Err(planned(operation, path)),
        Some(Fault::After) => {
            call.await?;
            Err(planned(operation, path))
        }
        Some(Fault::Stall(time)) => {
            tokio::time::sleep(time).await;
            call.await
        }
        // Only reads have bytes to spoil.
        Some(Fault::ShortRead | Fault::FlippedBit) | None => call.await,
    }
}

#[async_trait]
impl<S: Fetch + ?Sized> Fetch for Faults<S> {
    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        self.read("get", path, self.inner.get(path)).await
    }
    async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.read("get_range", path, self.inner.get_range(path, range)).await
    }
    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError> {
        self.run("info", path.as_str(), self.inner.info(path)).await
    }
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        match self.plan.next("list", folder) {
            Some(Fault::Before | Fault::Die) => stream::iter([Err(planned("list", folder))]).boxed(),
            // A listing that breaks off after its first object, with an error.
            Some(Fault::After) => self.inner.list(folder, after).take(1).chain(stream::iter([Err(planned("list", folder))])).boxed(),
            Some(Fault::Stall(time)) => stream::once(tokio::time::sleep(time)).flat_map(move |()| self.inner.list(folder, after)).boxed(),
            _ => self.inner.list(folder, after),
        }
    }
    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.run("folders", folder, self.inner.folders(folder)).await
    }
    fn address(&self) -> String {
        self.inner.address()
    }
    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

#[async_trait]
impl<S: Put + ?Sized> Put for Faults<S> {
    async fn put_new(&self, path: &ObjectPath, body: Bytes) -> Result<Created, StoreError> {
        self.run("put_new", path.as_str(), self.inner.put_new(path, body)).await
    }
    async fn harden(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.run("harden", path.as_str(), self.inner.harden(path)).await
    }
    async fn replace(&self, path: &ObjectPath, body: Bytes, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        self.run("replace", path.as_str(), self.inner.replace(path, body, expected)).await
    }
    fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError> {
        let inner = now(&self.plan, "begin", path.as_str(), || self.inner.begin(path))?;
        Ok(Arc::new(FaultSink { inner: Some(inner), plan: Arc::clone(&self.plan), path: path.to_string() }))
    }
    fn can_grow(&self) -> bool {
        self.inner.can_grow()
    }
    fn grow(&self, path: &ObjectPath) -> Result<Box<dyn Growing>, StoreError> {
        let inner = now(&self.plan, "grow", path.as_str(), || self.inner.grow(path))?;
        Ok(Box::new(FaultGrowing { inner: Some(inner), plan: Arc::clone(&self.plan), path: path.to_string() }))
    }
    async fn settle(&self) -> Result<(), StoreError> {
        self.run("settle", "", self.inner.settle()).await
    }
    async fn nature(&self, path: &ObjectPath) -> Result<Nature, StoreError> {
        self.inner.nature(path).await
    }
    async fn ready(&self) -> Result<(), StoreError> {
        self.inner.ready().await
    }
}

#[async_trait]
impl<S: Remove + ?Sized> Remove for Faults<S> {
    async fn remove(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.run("remove", path.as_str(), self.inner.remove(path)).await
    }
}

struct FaultSink {
    inner: Option<Arc<dyn ObjectSink>>,
    plan: Arc<FaultPlan>,
    path: String,
}

impl FaultSink {
    fn inner(&self) -> &dyn ObjectSink {
        self.inner.as_deref().expect("taken only by drop")
    }
}

impl ObjectSink for FaultSink {
    fn append(&self, bytes: &[u8]) -> Result<u64, StoreError> {
        now(&self.plan, "append", &self.path, || self.inner().append(bytes))
    }
    fn finish(&self) -> Result<(), StoreError> {
        now(&self.plan, "finish", &self.path, || self.inner().finish())
    }
}

impl Drop for FaultSink {
    fn drop(&mut self) {
        // A killed process tidies nothing up: what its sink had written stays as it is.
        if self.plan.is_dead() {
            std::mem::forget(self.inner.take());
        }
    }
}

struct FaultGrowing {
    inner: Option<Box<dyn Growing>>,
    plan: Arc<FaultPlan>,
    path: String,
}

impl Growing for FaultGrowing {
    fn add(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Self { inner, plan, path } = self;
        now(plan, "add", path, || inner.as_mut().expect("taken only by drop").add(bytes))
    }
}

impl Drop for FaultGrowing {
    fn drop(&mut self) {
        if self.plan.is_dead() {
            std::mem::forget(self.inner.take());
        }
    }
}

/// Like [`Faults::run`], for calls that block.
fn now<T>(plan: &FaultPlan, operation: &'static str, path: &str, call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    match plan.next(operation, path) {
        Some(Fault::Before | Fault::Die) => Err(planned(operation, path)),
        Some(Fault::After) => {
            call()?;
            Err(planned(operation, path))
        }
        Some(Fault::Stall(time)) => {
            std::thread::sleep(time);
            call()
        }
        Some(Fault::ShortRead | Fault::FlippedBit) | None => call(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_fault_comes_at_its_operation_with_or_without_the_effect() {
        for (fault, objects) in [(Fault::Before, 1), (Fault::After, 2), (Fault::Die, 1)] {
            let memory = Memory::new();
            let store = Faults::new(Arc::new(memory.clone()), FaultPlan::at(2, fault));
            assert_eq!(store.put_new(&path("a"), Bytes::new()).await.unwrap(), Created::New);
            assert!(store.put_new(&path("b"), Bytes::new()).await.is_err());
            assert_eq!(memory.len(), objects);
            assert_eq!(store.put_new(&path("c"), Bytes::new()).await.is_err(), fault == Fault::Die);
            assert_eq!(store.plan.names(), ["put_new a", "put_new b", "put_new c"]);
        }
    }

    #[tokio::test]
    async fn reads_can_be_short_or_changed() {
        let memory = Memory::new();
        memory.put_new(&path("a"), Bytes::from_static(b"abcd")).await.unwrap();
        let plan = FaultPlan::at(1, Fault::ShortRead);
        plan.also(2, Fault::FlippedBit);
        let store = Faults::new(Arc::new(memory), plan);
        assert_eq!(store.get(&path("a")).await.unwrap().as_ref(), b"ab");
        assert_eq!(store.get(&path("a")).await.unwrap().as_ref(), b"absd");
        assert_eq!(store.get(&path("a")).await.unwrap().as_ref(), b"abcd");
    }
}
