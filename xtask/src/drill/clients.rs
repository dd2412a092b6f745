//! The clients of the small service: they write packages over HTTP, remember what was promised to them, and later ask for it.

use super::Outcome;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::Acknowledged;
use testkit::loopback::http;

/// Clients at once. They rest a little, so that a machine of two cores has something left for the rest.
const CLIENTS: usize = 3;
const REST: Duration = Duration::from_millis(20);
const FIRST_LIMIT: Duration = Duration::from_secs(30);
/// How often somebody looks whether the service is back.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A package whose making was promised.
#[derive(Debug, Clone)]
pub struct Package {
    pub key: String,
    pub commit: Acknowledged,
}

/// What a package of this key holds: text, so that it may be looked at, of 1 to 60 KB.
pub fn body_of(key: &str) -> String {
    // FNV-1a, then xorshift: the same on every machine.
    let mut state = key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let lines = 16 + state % 900;
    let line = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{key} {state:016x} {:016x}\n", state.rotate_left(23))
    };
    (0..lines).map(line).collect()
}

/// One request to the service: status and body.
fn ask(port: u16, method: &str, key: &str, body: &str) -> Option<(u16, String)> {
    let answer = http(port, &format!("{method} /packages/{key}"), body.as_bytes())?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Clients at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    promised: Arc<Mutex<Vec<Package>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Returns once one package was promised; their keys begin with this word.
    pub fn start(port: u16, word: &str) -> Outcome<Self> {
        let (stop, promised) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (told, first) = mpsc::channel();
        let clients = (0..CLIENTS).map(|client| {
            let (stop, promised, word, told) = (Arc::clone(&stop), Arc::clone(&promised), word.to_owned(), told.clone());
            std::thread::spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{word}/client-{client}/package-{number:05}.txt");
                    match ask(port, "POST", &key, &body_of(&key)) {
                        Some((201, answer)) => {
                            if let Some(commit) = commit_of(&answer) {
                                promised.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(Package { key, commit });
                            }
                            let _ = told.send(Ok(()));
                        }
                        // The host dies under them sooner or later.
                        refused => drop(told.send(Err(format!("{refused:?}")))),
                    }
                    std::thread::sleep(REST);
                }
            })
        });
        let clients = clients.collect();
        let writers = Self { stop, promised, clients };
        match first.recv_timeout(FIRST_LIMIT) {
            Ok(Ok(())) => Ok(writers),
            Ok(Err(why)) => Err(format!("the service does not take packages: {why}")),
            Err(_) => Err(format!("the service took no package within {FIRST_LIMIT:?}")),
        }
    }

    /// Ends the clients; every package that was promised.
    pub fn stop(mut self) -> Vec<Package> {
        self.end();
        std::mem::take(&mut *self.promised.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| drop(client.join()));
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.end();
    }
}

fn commit_of(answer: &str) -> Option<Acknowledged> {
    let told: serde_json::Value = serde_json::from_str(answer).ok()?;
    Some(Acknowledged::now(told["id"].as_i64()?, told["committed_at"].as_i64(), told["inserted_to"].as_str()))
}

/// Asks the service for packages: of each that is not answered as it must be, why. Those that are `wanted` come with the right bytes,
/// the others are unknown to it.
pub fn look(port: u16, packages: &[&Package], wanted: bool) -> Vec<String> {
    let next = AtomicU64::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(package) = packages.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let key = &package.key;
                    let fault = match ask(port, "GET", key, "") {
                        Some((200, body)) if wanted && body == body_of(key) => continue,
                        Some((404, _)) if !wanted => continue,
                        Some((200, _)) if wanted => format!("{key} has other bytes than were written"),
                        Some((200, _)) => format!("{key} is there, and should not be"),
                        Some((status, body)) => format!("{key} is answered with {status}: {}", body.trim()),
                        None => format!("{key} is not answered"),
                    };
                    faults.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(fault);
                }
            });
        }
    });
    faults.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Somebody who asks for one package again and again, until it comes with the right bytes.
pub struct Visitor {
    begun: Instant,
    stop: Arc<AtomicBool>,
    looks: JoinHandle<Option<Duration>>,
}

impl Visitor {
    pub fn start(port: u16, package: &Package) -> Self {
        let (begun, stop, package) = (Instant::now(), Arc::new(AtomicBool::new(false)), package.clone());
        let stopped = Arc::clone(&stop);
        let looks = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if look(port, &[&package], true).is_empty() {
                    return Some(begun.elapsed());
                }
                std::thread::sleep(LOOK_EVERY);
            }
            None
        });
        Self { begun, stop, looks }
    }

    /// How long it took, counted from the start; an error when it did not come within so long from now.
    pub fn wait(self, limit: Duration) -> Outcome<Duration> {
        let asked = Instant::now();
        while !self.looks.is_finished() && asked.elapsed() < limit {
            std::thread::sleep(LOOK_EVERY);
        }
        self.stop.store(true, Ordering::Relaxed);
        let found = self.looks.join().map_err(|_| "the visitor panicked")?;
        found.ok_or_else(|| format!("the service did not answer rightly within {:.1} s", self.begun.elapsed().as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::{Hook, Manner};

    fn package(key: &str) -> Package {
        Package { key: key.into(), commit: Acknowledged::now(1, None, None) }
    }

    #[test]
    fn only_the_right_bytes_are_right_and_only_the_unknown_is_gone() {
        let (one, other) = (package("one"), package("other"));
        let answers = |manner: Manner, package: &Package, wanted: bool| {
            let hook = Hook::start(manner);
            let port = hook.url("").rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
            look(port, &[package], wanted).len()
        };
        let has = |key: &str| Manner::Answers(200, body_of(key));
        assert_eq!(answers(has("one"), &one, true), 0);
        assert_eq!(answers(has("one"), &other, true), 1, "the bytes of another");
        assert_eq!(answers(has("one"), &one, false), 1);
        assert_eq!(answers(Manner::Answers(404, String::new()), &one, false), 0);
        assert_eq!(answers(Manner::Answers(404, String::new()), &one, true), 1);
        assert_eq!(answers(Manner::Answers(503, String::new()), &one, false), 1, "a service that is down proves nothing");
        assert_eq!(look(1, &[&one], false).len(), 1, "nor does one that is away");
    }

    #[test]
    fn a_body_depends_on_its_key_alone() {
        assert_eq!(body_of("a"), body_of("a"));
        assert_ne!(body_of("a"), body_of("b"));
        assert!((1..80 << 10).contains(&body_of("a").len()));
    }
}
