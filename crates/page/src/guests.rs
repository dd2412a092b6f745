//! How many may be connected: so many at once, and so many of them from one host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Connections at once; more wait.
const CONNECTIONS: usize = 256;
/// Of one host's, so that no single host keeps all others out. Behind a proxy, or a node, many are one host: for one more the oldest goes that has
/// asked nothing yet. Where all have asked, the one more is closed at once.
const OF_ONE_HOST: usize = 64;

/// Counts who is connected.
pub(crate) struct Guests {
    room: Arc<Semaphore>,
    /// Oldest first.
    hosts: Mutex<HashMap<IpAddr, Vec<Arc<Stay>>>>,
}

/// How one who is connected behaves.
#[derive(Default)]
pub(crate) struct Stay {
    has_asked: AtomicBool,
    leave: Notify,
}

impl Stay {
    /// It asks something: it may stay.
    pub(crate) fn asks(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }
}

/// Room for one connection.
pub(crate) struct Room {
    _permit: OwnedSemaphorePermit,
}

/// One connection, counted until this is dropped.
pub(crate) struct Guest {
    _room: Room,
    guests: Arc<Guests>,
    host: IpAddr,
    stay: Arc<Stay>,
}

impl Guest {
    pub(crate) fn stay(&self) -> Arc<Stay> {
        Arc::clone(&self.stay)
    }

    /// Waits until it has to make room for another of its host.
    pub(crate) async fn must_leave(&self) {
        self.stay.leave.notified().await;
    }
}

impl Guests {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(CONNECTIONS)), hosts: Mutex::default() })
    }

    /// Waits until there is room for one more; `None` never, as nobody closes the place.
    pub(crate) async fn room(&self) -> Option<Room> {
        Arc::clone(&self.room).acquire_owned().await.ok().map(|_permit| Room { _permit })
    }

    /// `None` when this host has its share already, and each of them has asked something.
    pub(crate) fn admit(self: &Arc<Self>, room: Room, from: IpAddr) -> Option<Guest> {
        let host = host_of(from);
        let mut hosts = self.hosts();
        let stays = hosts.entry(host).or_default();
        if stays.len() >= OF_ONE_HOST {
            let silent = stays.iter().position(|stay| !stay.has_asked.load(Ordering::Relaxed))?;
            stays.remove(silent).leave.notify_one();
        }
        let stay = Arc::<Stay>::default();
        stays.push(Arc::clone(&stay));
        Some(Guest { _room: room, guests: Arc::clone(self), host, stay })
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<Arc<Stay>>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Entry::Occupied(mut stays) = self.guests.hosts().entry(self.host) {
            // One that had to leave is counted no more.
            stays.get_mut().retain(|stay| !Arc::ptr_eq(stay, &self.stay));
            if stays.get().is_empty() {
                stays.remove();
            }
        }
    }
}

/// An address of IPv4; of IPv6 the network, in which one host has as many addresses as it likes.
fn host_of(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_host_has_its_share_and_no_more_under_however_many_addresses() {
        let guests = Guests::new();
        let mut inside = Vec::new();
        for number in 0..OF_ONE_HOST {
            let from = format!("2001:db8::{number:x}").parse().expect("an address");
            let guest = guests.admit(guests.room().await.expect("room"), from).expect("within its share");
            guest.stay().asks();
            inside.push(guest);
        }
        let room = async || guests.room().await.expect("room");
        let (same, other) = ("2001:db8::ffff:1".parse().expect("an address"), "192.0.2.1".parse().expect("an address"));
        assert!(guests.admit(room().await, same).is_none());
        assert!(guests.admit(room().await, other).is_some(), "the others' place is theirs");
        inside.pop();
        assert!(guests.admit(room().await, same).is_some(), "who leaves makes room");
        inside.clear();
        assert!(guests.hosts().is_empty(), "nobody is remembered who is not there");
        assert_eq!(guests.room.available_permits(), CONNECTIONS);
    }

    #[tokio::test]
    async fn who_asks_nothing_makes_room_for_one_more_of_its_host() {
        let guests = Guests::new();
        let proxy: IpAddr = "192.0.2.1".parse().expect("an address");
        let enter = async || guests.admit(guests.room().await.expect("room"), proxy);
        let mut inside = Vec::new();
        for _ in 0..OF_ONE_HOST {
            inside.push(enter().await.expect("within its share"));
        }
        inside[0].stay().asks();
        let probe = enter().await.expect("the silent keep nobody out");
        inside[1].must_leave().await;
        drop(inside.remove(1));
        assert_eq!(guests.hosts()[&proxy].len(), OF_ONE_HOST, "who left was counted no more");
        inside.push(probe);
        inside.iter().for_each(|guest| guest.stay().asks());
        assert!(enter().await.is_none(), "who asks is not sent away");
    }
}
