//! What one address may use up: sockets at once, and new ones per second.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{bucket::TokenBucket, config::ServerLimits};

/// Addresses that are remembered though nothing is open from them, until they are looked through.
const SWEEP: usize = 4_096;

/// Counts sockets by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<IpAddr, Entry>>>);

#[derive(Debug)]
struct Entry {
    open: usize,
    rate: TokenBucket,
}

/// One open socket of an address, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    /// A place for a socket from `address`, unless it has too many or opens them too fast.
    pub(super) fn admit(&self, address: IpAddr, limits: &ServerLimits, now: Instant) -> Option<Place> {
        let address = subscriber(address);
        let mut entries = self.entries();
        if entries.len() >= SWEEP {
            entries.retain(|_, entry| entry.open > 0 || !entry.rate.is_full(now));
        }
        let entry = entries.entry(address).or_insert_with(|| Entry {
            open: 0,
            rate: TokenBucket::new(
                limits.connections_per_second_per_address,
                limits.connection_burst_per_address,
                now,
            ),
        });
        if entry.open >= limits.max_connections_per_address || !entry.rate.try_take(now) {
            return None;
        }
        entry.open += 1;
        Some(Place {
            addresses: self.clone(),
            address,
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<IpAddr, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(entry) = self.addresses.entries().get_mut(&self.address) {
            entry.open -= 1;
        }
    }
}

/// Whoever has one IPv6 address has a network of 64 bits of them (RFC 6177), so that network counts as one.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let limits = ServerLimits {
            max_connections_per_address: 2,
            connections_per_second_per_address: 1,
            connection_burst_per_address: 3,
            ..ServerLimits::default()
        };
        let addresses = Addresses::default();
        let now = Instant::now() + Duration::from_secs(100);
        let admit = |address: &str, now| addresses.admit(address.parse().unwrap(), &limits, now);
        let first = admit("192.0.2.1", now).unwrap();
        // The same address in other clothes.
        let _second = admit("::ffff:192.0.2.1", now).unwrap();
        assert!(admit("192.0.2.1", now).is_none());
        assert!(admit("192.0.2.2", now).is_some());
        drop(first);
        let third = admit("192.0.2.1", now).unwrap();
        drop(third);
        // A place is free, but the burst is used up.
        assert!(admit("192.0.2.1", now).is_none());
        assert!(admit("192.0.2.1", now + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let limits = ServerLimits {
            max_connections_per_address: 1,
            ..ServerLimits::default()
        };
        let addresses = Addresses::default();
        let now = Instant::now();
        let admit = |address: &str| addresses.admit(address.parse().unwrap(), &limits, now);
        let _held = admit("2001:db8:1:1::1").unwrap();
        assert!(admit("2001:db8:1:1:ffff::2").is_none());
        assert!(admit("2001:db8:1:2::1").is_some());
    }

    /// Fails if strangers who come once each fill the memory.
    #[test]
    fn addresses_are_forgotten() {
        let limits = ServerLimits::default();
        let addresses = Addresses::default();
        let start = Instant::now();
        for n in 0..20_000u32 {
            let now = start + Duration::from_millis(u64::from(n));
            drop(addresses.admit(IpAddr::V4(n.into()), &limits, now));
        }
        assert!(addresses.entries().len() <= SWEEP);
    }
}
