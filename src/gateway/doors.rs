//! How many connections there are: in all, from each address, of each account, and how many of an address have not
//! authenticated; and how many forwards each account has on its connections. A state machine: no socket in it.

use super::{Limits, lock, metrics::Bound};
use crate::domain::AccountId;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};
use tokio_util::sync::CancellationToken;

/// Who is in.
#[derive(Default)]
pub(super) struct Doors(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    total: usize,
    forwards: usize,
    /// Those that have not authenticated, the oldest first, each with what ends it.
    unauthenticated: BTreeMap<u64, CancellationToken>,
    entered: u64,
    addresses: HashMap<IpAddr, Address>,
    accounts: HashMap<AccountId, Account>,
}

#[derive(Default)]
struct Address {
    connections: usize,
    unauthenticated: usize,
}

#[derive(Default)]
struct Account {
    connections: usize,
    forwards: usize,
}

impl Counts {
    /// Counts something of an account no more.
    fn leave(&mut self, account: AccountId, one_less: impl FnOnce(&mut Account)) {
        if let Entry::Occupied(mut its) = self.accounts.entry(account) {
            one_less(its.get_mut());
            if its.get().connections == 0 && its.get().forwards == 0 {
                its.remove();
            }
        }
    }
}

/// A forward's place among those of its account; given back when dropped.
pub(super) struct ForwardPlace {
    doors: Arc<Doors>,
    account: AccountId,
}

impl Drop for ForwardPlace {
    fn drop(&mut self) {
        let mut counts = lock(&self.doors.0);
        counts.forwards -= 1;
        counts.leave(self.account, |its| its.forwards -= 1);
    }
}

/// A connection's place; given back when dropped.
pub(super) struct Place {
    doors: Arc<Doors>,
    address: Option<IpAddr>,
    number: u64,
    unauthenticated: bool,
    account: Option<AccountId>,
    /// Cancelled when it has to make room before it has authenticated.
    pub(super) evicted: CancellationToken,
}

impl Doors {
    /// A place for a connection whose address is not known yet. When too many have not authenticated, the one that has
    /// been at it for longest makes room: a login takes a moment, and whoever holds places without a word has them all.
    pub(super) fn enter(doors: &Arc<Self>, limits: &Limits) -> Result<Place, Bound> {
        let mut counts = lock(&doors.0);
        if counts.total >= limits.connections {
            return Err(Bound::Connections);
        }
        counts.total += 1;
        counts.entered += 1;
        let (number, evicted) = (counts.entered, CancellationToken::new());
        if counts.unauthenticated.len() >= limits.unauthenticated
            && let Some((_, oldest)) = counts.unauthenticated.pop_first()
        {
            oldest.cancel();
        }
        counts.unauthenticated.insert(number, evicted.clone());
        drop(counts);
        Ok(Place { doors: doors.clone(), address: None, number, unauthenticated: true, account: None, evicted })
    }

    /// A place for one more forward of an account.
    pub(super) fn forward(doors: &Arc<Self>, account: AccountId, limits: &Limits) -> Result<ForwardPlace, Bound> {
        let mut counts = lock(&doors.0);
        let its = counts.accounts.entry(account).or_default();
        // Where it is reached, at least one is open, so the entry stays for it.
        if its.forwards >= limits.forwards_per_account {
            return Err(Bound::ForwardsPerAccount);
        }
        its.forwards += 1;
        counts.forwards += 1;
        drop(counts);
        Ok(ForwardPlace { doors: doors.clone(), account })
    }

    /// Whether no connection is there, and no forward whose last bytes are on their way to a node.
    pub(super) fn is_empty(&self) -> bool {
        let counts = lock(&self.0);
        counts.total == 0 && counts.forwards == 0
    }

    /// Connections in all, and those that have not authenticated.
    pub(super) fn count(&self) -> (usize, usize) {
        let counts = lock(&self.0);
        (counts.total, counts.unauthenticated.len())
    }
}

impl Place {
    /// The connection is from there. Said once.
    pub(super) fn from(&mut self, peer: IpAddr, limits: &Limits) -> Result<(), Bound> {
        let address = network(peer);
        let mut counts = lock(&self.doors.0);
        let here = counts.addresses.entry(address).or_default();
        // Where one of them is reached, at least one connection is in, so the entry stays for it.
        if here.connections >= limits.connections_per_address {
            return Err(Bound::ConnectionsPerAddress);
        }
        if here.unauthenticated >= limits.unauthenticated_per_address {
            return Err(Bound::UnauthenticatedPerAddress);
        }
        here.connections += 1;
        here.unauthenticated += 1;
        drop(counts);
        self.address = Some(address);
        Ok(())
    }

    /// It has authenticated: as an account, or as a node. Said once; an account that has too many is refused, and its
    /// connection still counts as unauthenticated.
    pub(super) fn authenticated(&mut self, account: Option<AccountId>, limits: &Limits) -> Result<(), Bound> {
        if let Some(account) = account {
            let mut counts = lock(&self.doors.0);
            let its = counts.accounts.entry(account).or_default();
            if its.connections >= limits.connections_per_account {
                return Err(Bound::ConnectionsPerAccount);
            }
            its.connections += 1;
            self.account = Some(account);
        }
        self.no_longer_unauthenticated();
        Ok(())
    }

    fn no_longer_unauthenticated(&mut self) {
        if !std::mem::replace(&mut self.unauthenticated, false) {
            return;
        }
        let mut counts = lock(&self.doors.0);
        counts.unauthenticated.remove(&self.number);
        if let Some(here) = self.address.and_then(|address| counts.addresses.get_mut(&address)) {
            here.unauthenticated -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.no_longer_unauthenticated();
        let mut counts = lock(&self.doors.0);
        counts.total -= 1;
        if let Some(address) = self.address
            && let Entry::Occupied(mut here) = counts.addresses.entry(address)
        {
            here.get_mut().connections -= 1;
            if here.get().connections == 0 {
                here.remove();
            }
        }
        if let Some(account) = self.account {
            counts.leave(account, |its| its.connections -= 1);
        }
    }
}

/// What counts as one address: whoever has one address of an IPv6 network usually has its /64.
pub(super) fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(doors: &Arc<Doors>, last: u8, limits: &Limits) -> Result<Place, Bound> {
        let mut place = Doors::enter(doors, limits)?;
        place.from([192, 0, 2, last].into(), limits)?;
        Ok(place)
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let doors = Arc::new(Doors::default());
        let limits = Limits {
            connections: 4,
            connections_per_address: 3,
            unauthenticated_per_address: 2,
            connections_per_account: 1,
            ..Limits::default()
        };
        let (mut first, second) = (enter(&doors, 1, &limits).unwrap(), enter(&doors, 1, &limits).unwrap());
        assert_eq!(enter(&doors, 1, &limits).err(), Some(Bound::UnauthenticatedPerAddress));
        assert_eq!(first.authenticated(Some(AccountId(1)), &limits), Ok(()));
        assert_eq!(doors.count(), (2, 1));
        let mut third = enter(&doors, 1, &limits).unwrap();
        assert_eq!(third.authenticated(Some(AccountId(1)), &limits), Err(Bound::ConnectionsPerAccount));
        assert_eq!(third.authenticated(Some(AccountId(2)), &limits), Ok(()));
        assert_eq!(enter(&doors, 1, &limits).err(), Some(Bound::ConnectionsPerAddress));
        drop(second);
        drop(enter(&doors, 1, &limits).unwrap());
        let others = [enter(&doors, 2, &limits).unwrap(), enter(&doors, 2, &limits).unwrap()];
        assert_eq!(enter(&doors, 3, &limits).err(), Some(Bound::Connections));
        drop((first, third, others));
        assert_eq!(doors.count(), (0, 0));
        let counts = lock(&doors.0);
        assert!(counts.addresses.is_empty() && counts.accounts.is_empty(), "those that have left are forgotten");
    }

    #[test]
    fn an_accounts_forwards_are_counted_on_all_of_its_connections_together() {
        let doors = Arc::new(Doors::default());
        let limits = Limits { forwards_per_account: 2, ..Limits::default() };
        let forward = |account| Doors::forward(&doors, AccountId(account), &limits);
        let mut connection = enter(&doors, 1, &limits).unwrap();
        connection.authenticated(Some(AccountId(1)), &limits).unwrap();
        let (first, second) = (forward(1).unwrap(), forward(1).unwrap());
        assert_eq!(forward(1).err(), Some(Bound::ForwardsPerAccount));
        let other = forward(2).unwrap();
        // A forward may outlive its connection by a moment.
        drop(connection);
        assert!(doors.count() == (0, 0) && !doors.is_empty(), "it is waited for");
        assert_eq!(forward(1).err(), Some(Bound::ForwardsPerAccount));
        drop(first);
        drop(forward(1).unwrap());
        drop((second, other));
        assert!(doors.is_empty());
        assert!(lock(&doors.0).accounts.is_empty(), "those that have left are forgotten");
    }

    #[test]
    fn whoever_has_been_at_it_for_longest_makes_room_for_others() {
        let doors = Arc::new(Doors::default());
        let limits = Limits { unauthenticated: 2, ..Limits::default() };
        let (mut first, second) = (enter(&doors, 1, &limits).unwrap(), enter(&doors, 2, &limits).unwrap());
        first.authenticated(None, &limits).unwrap();
        let third = enter(&doors, 3, &limits).unwrap();
        assert!(!second.evicted.is_cancelled());
        let _fourth = enter(&doors, 4, &limits).unwrap();
        assert!(second.evicted.is_cancelled() && !third.evicted.is_cancelled() && !first.evicted.is_cancelled());
    }

    #[test]
    fn a_64_counts_as_one_address() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1:2:3"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
