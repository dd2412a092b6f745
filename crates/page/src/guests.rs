//! How many may be connected: so many at once, and so many of them from one host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once; more wait.
const CONNECTIONS: usize = 256;
/// Of one host's; more are closed at once, so that no single host keeps all others out.
const OF_ONE_HOST: usize = 64;

/// Counts who is connected.
pub(crate) struct Guests {
    room: Arc<Semaphore>,
    hosts: Mutex<HashMap<IpAddr, usize>>,
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
}

impl Guests {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(CONNECTIONS)), hosts: Mutex::default() })
    }

    /// Waits until there is room for one more; `None` never, as nobody closes the place.
    pub(crate) async fn room(&self) -> Option<Room> {
        Arc::clone(&self.room).acquire_owned().await.ok().map(|_permit| Room { _permit })
    }

    /// `None` when this host has its share already.
    pub(crate) fn admit(self: &Arc<Self>, room: Room, from: IpAddr) -> Option<Guest> {
        let host = host_of(from);
        let mut hosts = self.hosts();
        let count = hosts.entry(host).or_default();
        if *count >= OF_ONE_HOST {
            return None;
        }
        *count += 1;
        Some(Guest { _room: room, guests: Arc::clone(self), host })
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.guests.hosts().entry(self.host) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
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
            inside.push(guests.admit(guests.room().await.expect("room"), from).expect("within its share"));
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
}
