//! A folder that conforms, is full, read-only, gone, or was left untidy by a crash.

use crate::{conformance::conform, path};
use bytes::Bytes;
use futures::TryStreamExt;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use store::{Created, Disk, Fetch, ObjectSink, Put, Remove, StoreError, StoreOptions};
use tempfile::TempDir;

/// A small file system of its own, unmounted when dropped. Needs root.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = CString::new(format!("size={bytes}")).unwrap();
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).expect("this test mounts a tmpfs and so must run as root");
        Self(folder)
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn make_read_only(&self) {
        rustix::mount::mount_remount(self.path(), MountFlags::RDONLY, c"").unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Every name below a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            found.extend(names(&entry.path()));
        }
    }
    found
}

async fn listed(store: &Disk) -> Vec<String> {
    store.list("", None).map_ok(|object| object.path.to_string()).try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || Arc::new(Disk::new(folder.path()));
    conform(disk(), disk()).await;
    let is_file = |name: &String| !["conform", "begun", "dropped", "grown", "large"].contains(&name.as_str());
    let left: Vec<String> = names(folder.path()).into_iter().filter(is_file).collect();
    assert!(left.iter().all(|name| name.starts_with(".lock-")), "nothing is left but lock files: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_belong_to_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/repository", folder.path().display());
    store::create_root(&url).await.unwrap();
    store::create_root(&url).await.unwrap();
    let store = store::open(&url, &StoreOptions::default()).unwrap();
    store.put_new(&path("a/b/c"), Bytes::from_static(b"x")).await.unwrap();
    let root = folder.path().join("repository");
    for (place, mode) in [("", 0o700), ("a", 0o700), ("a/b", 0o700), ("a/b/c", 0o600)] {
        assert_eq!(std::fs::metadata(root.join(place)).unwrap().permissions().mode() & 0o777, mode, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_there_can_be_made_durable() {
    let folder = tempfile::tempdir().unwrap();
    let store = Disk::new(folder.path());
    assert!(matches!(store.harden(&path("a/b")).await, Err(StoreError::Missing { .. })));
    assert!(names(folder.path()).is_empty(), "no folder was made for it");
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(folder.path().join("a/b"), b"another's").unwrap();
    store.harden(&path("a/b")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_nothing_is_half_published() {
    let small = SmallDisk::new(1 << 20);
    let disk = Disk::new(small.path());
    disk.put_new(&path("kept"), Bytes::from(vec![1; 1000])).await.unwrap();
    let large = Bytes::from(vec![2; 2 << 20]);
    let full = |answer: &StoreError| matches!(answer, StoreError::Full { path, why, .. } if path == "a/large" && why.contains("No space"));
    let error = disk.put_new(&path("a/large"), large.clone()).await.unwrap_err();
    assert!(full(&error), "{error:?}");
    let error = disk.replace(&path("a/large"), large.clone(), None).await.unwrap_err();
    assert!(full(&error), "{error:?}");
    let version = disk.info(&path("kept")).await.unwrap().unwrap().version;
    assert!(disk.replace(&path("kept"), large.clone(), Some(&version)).await.is_err());
    let sink = disk.begin(&path("a/large")).unwrap();
    let error = sink.append(&large).unwrap_err();
    assert!(full(&error), "{error:?}");
    assert!(sink.finish().is_err(), "an object with a hole is never finished");
    drop(sink);
    assert_eq!(listed(&disk).await, ["kept"]);
    assert_eq!(disk.get(&path("kept")).await.unwrap(), vec![1; 1000]);
    assert!(!names(small.path()).iter().any(|name| name.starts_with(".tmp-")), "the space is given back");
    assert_eq!(disk.put_new(&path("a/large"), Bytes::from(vec![3; 500_000])).await.unwrap(), Created::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_is_told_of_a_full_disk_and_takes_nothing_more() {
    let small = SmallDisk::new(1 << 20);
    let disk = Disk::new(small.path());
    let mut growing = disk.grow(&path("a/log")).unwrap();
    growing.add(&[1; 1000]).unwrap();
    let error = growing.add(&vec![2; 2 << 20]).unwrap_err();
    assert!(matches!(&error, StoreError::Full { path, why, .. } if path == "a/log" && why.contains("No space")), "{error:?}");
    disk.put_new(&path("b"), Bytes::new()).await.unwrap();
    let later = growing.add(&[3; 10]).unwrap_err();
    assert!(matches!(&later, StoreError::Failed { why, .. } if why.contains("earlier addition")), "part of the last one is there: {later:?}");
    drop(growing);
    assert_eq!(disk.get(&path("a/log")).await.unwrap()[..1000], [1; 1000], "what was confirmed stays");
    // The first addition finds no room: nothing of it is left to take more.
    let mut growing = disk.grow(&path("a/other")).unwrap();
    assert!(growing.add(&vec![2; 2 << 20]).is_err());
    drop(growing);
    assert_eq!(listed(&disk).await, ["a/log", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_away_grows_no_more() {
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).unwrap();
    // The file itself, its folder, the whole repository; and each with something else in its place.
    for (away, moved) in [("file", "a/log"), ("folder", "a"), ("repository", "")] {
        for is_replaced in [false, true] {
            for additions in [0, 1, 2] {
                let home = tempfile::tempdir().unwrap();
                let root = home.path().join("root");
                std::fs::create_dir(&root).unwrap();
                let disk = Disk::new(&root);
                let mut growing = disk.grow(&path("a/log")).unwrap();
                for _ in 0..additions {
                    growing.add(b"confirmed").unwrap();
                }
                let (place, aside) = (root.join(moved), home.path().join("aside"));
                rename(&place, &aside);
                if is_replaced {
                    std::fs::create_dir_all(root.join("a")).unwrap();
                    std::fs::write(root.join("a/log"), b"confirmed").unwrap();
                }
                let what = format!("{away} moved away after {additions} additions, replaced: {is_replaced}");
                assert!(growing.add(b"lost").is_err(), "{what}");
                if moved.is_empty() {
                    let _ = std::fs::remove_dir_all(&root);
                } else if is_replaced {
                    let _ = std::fs::remove_dir_all(root.join("a"));
                    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                }
                rename(&aside, &place);
                let later = growing.add(b"late").unwrap_err();
                assert!(matches!(&later, StoreError::Failed { why, .. } if why.contains("earlier addition")), "{what}, and back again: {later:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_denies_writing() {
    let small = SmallDisk::new(1 << 20);
    let disk = Disk::new(small.path());
    disk.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap();
    small.make_read_only();
    for error in [
        disk.grow(&path("b")).err().unwrap(),
        disk.put_new(&path("b"), Bytes::new()).await.unwrap_err(),
        disk.replace(&path("b"), Bytes::new(), None).await.unwrap_err(),
        disk.begin(&path("b")).err().unwrap(),
        disk.remove(&path("a")).await.unwrap_err(),
    ] {
        assert!(matches!(&error, StoreError::Denied { why, .. } if why.contains("Read-only")), "{error:?}");
    }
    assert_eq!(disk.get(&path("a")).await.unwrap().as_ref(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_root_is_no_store_rather_than_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path().join("unmounted"));
    for error in [
        disk.get(&path("a")).await.unwrap_err(),
        disk.info(&path("a")).await.unwrap_err(),
        disk.list("", None).try_collect::<Vec<_>>().await.unwrap_err(),
        disk.folders("x").await.unwrap_err(),
        disk.put_new(&path("a/b"), Bytes::new()).await.unwrap_err(),
        disk.begin(&path("a")).err().unwrap(),
        disk.grow(&path("a")).err().unwrap(),
        disk.remove(&path("a")).await.unwrap_err(),
        Disk::new(folder.path().join("x/y")).create_root().await.unwrap_err(),
    ] {
        assert!(matches!(&error, StoreError::NoStore { why, .. } if why.contains("is not there")), "{error:?}");
    }
    assert!(names(folder.path()).is_empty(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    disk.put_new(&path("a/b"), Bytes::from_static(b"x")).await.unwrap();
    std::fs::write(folder.path().join("a/.tmp-0123"), b"half").unwrap();
    std::fs::write(folder.path().join("a/.lock-b"), b"").unwrap();
    std::fs::create_dir_all(folder.path().join("empty/inside")).unwrap();
    std::fs::create_dir(folder.path().join("lost+found")).unwrap();
    std::fs::write(folder.path().join("lost+found/#12"), b"").unwrap();
    assert_eq!(listed(&disk).await, ["a/b"]);
    assert_eq!(disk.folders("").await.unwrap(), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_replacing_one_document_never_both_win() {
    let folder = tempfile::tempdir().unwrap();
    // Two stores share nothing but the folder, like two processes.
    let (one, other) = (Arc::new(Disk::new(folder.path())), Arc::new(Disk::new(folder.path())));
    let document = path("lease");
    let mut version = one.replace(&document, Bytes::from_static(b"0"), None).await.unwrap().unwrap();
    for round in 0..100u8 {
        let race = |disk: &Arc<Disk>, who: u8| {
            let (disk, document, version) = (Arc::clone(disk), document.clone(), version.clone());
            tokio::spawn(async move { disk.replace(&document, Bytes::from(vec![round, who]), Some(&version)).await.unwrap() })
        };
        let (a, b) = (race(&one, 1), race(&other, 2));
        version = match (a.await.unwrap(), b.await.unwrap()) {
            (Some(version), None) | (None, Some(version)) => version,
            both => panic!("{both:?}"),
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_objects_are_all_durable_after_settling() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    for number in 0..200 {
        let sink: Arc<dyn ObjectSink> = disk.begin(&path(&format!("packs/{number:03}"))).unwrap();
        sink.append(&[7; 10_000]).unwrap();
        sink.finish().unwrap();
        assert!(sink.append(b"late").is_err() && sink.finish().is_err());
    }
    disk.settle().await.unwrap();
    assert_eq!(listed(&disk).await.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_takes_no_folder_of_others_from_its_place_and_keeps_its_mode_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let site = store::Site::open(&format!("file://{}", folder.path().display()), &StoreOptions::default()).unwrap();
    let aside = site.aside("then").unwrap();
    let put = async |key: &str, body: &'static [u8], mode: Option<u32>| {
        let facts: store::ItemFacts = serde_json::from_value(serde_json::json!({ "mode": mode })).unwrap();
        let modified = terms::Timestamp::from_unix_micros(1_700_000_000_000_000);
        let mut upload = site.begin(key, body.len() as u64, &facts, modified, Some(aside.clone())).await?;
        upload.piece(Bytes::from_static(body)).await?;
        upload.finish().await
    };
    put("a/x", b"under a folder", Some(0o640)).await.unwrap();
    put("a", b"where a folder is", None).await.unwrap_err();
    assert_eq!(std::fs::read(folder.path().join("a/x")).unwrap(), b"under a folder", "it stays");
    assert!(!aside.exists(), "nothing was moved");
    let found = std::fs::metadata(folder.path().join("a/x")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o640);
    assert_eq!(found.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_700_000_000);
    // A file in the way makes room, and is not lost.
    put("a/x", b"as it was", None).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("a/x")).unwrap(), b"as it was");
    assert_eq!(std::fs::read(aside.join("a/x")).unwrap(), b"under a folder");
    let left: Vec<_> = std::fs::read_dir(folder.path().join("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["x"], "no half file stays");
}
