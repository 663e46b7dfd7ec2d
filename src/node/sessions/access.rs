//! What a bundle says of sessions that are open: the same that the helper says of new ones, and, of those who were removed and
//! have a while, that theirs may stay so long.

use crate::{
    bundle::Bundle,
    domain::{Fingerprint, Grace, Principal, Serial, Timestamp, Uid},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

/// With what somebody has logged in, as the helper was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The certificate's key ID: whose it is.
    pub owner: String,
    /// Its serial number.
    pub serial: Serial,
    /// The key that it certifies.
    pub key: Fingerprint,
}

/// Why a session may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nobody may use that login any more.
    Login,
    /// The login is another's, or a shared one that this person may not use any more.
    Owner,
    /// The certificate is revoked.
    Serial(Serial),
    /// The key is denied.
    Key(Fingerprint),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Login => f.write_str("the login has lost its access"),
            Self::Owner => f.write_str("its owner may not use this login any more"),
            Self::Serial(serial) => write!(f, "certificate {serial} was revoked"),
            Self::Key(key) => write!(f, "the key {key} was removed"),
        }
    }
}

/// A bundle, as far as open sessions are concerned.
#[derive(Clone, Debug, Default)]
pub struct Access {
    own: HashMap<String, Uid>,
    shared: HashMap<String, HashSet<String>>,
    /// Who was removed and may keep what they have open until then. What the helper says of them is another matter: nobody of
    /// them gets in.
    leaving: HashMap<String, (Uid, Instant)>,
    serials: HashSet<Serial>,
    keys: HashSet<Fingerprint>,
}

impl Access {
    /// What a bundle says at `now`, which is `at` on the clock that is not set: whatever becomes of the other one, nobody keeps
    /// anything for longer than the authority has said, nor than there are grace periods.
    #[must_use]
    pub fn of(bundle: &Bundle, now: Timestamp, at: Instant) -> Self {
        let left = |until: Timestamp| {
            let longest = until.since(bundle.issued).min(Duration::from_secs(Grace::MAX_SECS.into()));
            until.since(now).min(longest)
        };
        let leaving = bundle.leaving.iter().filter(|leaving| !left(leaving.until).is_zero());
        let leaving =
            leaving.map(|leaving| (leaving.name.to_string(), (leaving.uid, at + left(leaving.until)))).collect();
        let owner = |principal: &String| principal.parse::<Principal>().ok().map(|p| p.user.to_string());
        Self {
            leaving,
            own: bundle.logins.iter().map(|login| (login.name.to_string(), login.uid)).collect(),
            shared: bundle
                .shared_logins
                .iter()
                .map(|login| (login.name.clone(), login.principals.iter().filter_map(owner).collect()))
                .collect(),
            serials: bundle.denied_serials.iter().map(|denied| denied.serial).collect(),
            keys: bundle.denied_keys.iter().map(|denied| denied.key).collect(),
        }
    }

    /// When somebody has to end who may stay for a while: the first of them.
    #[must_use]
    pub fn next_to_leave(&self) -> Option<Instant> {
        self.leaving.values().map(|(_, until)| *until).min()
    }

    /// The same without those whose time is over, if there are any.
    #[must_use]
    pub fn when_over(&self, now: Instant) -> Option<Self> {
        self.next_to_leave().filter(|until| *until <= now)?;
        let mut after = self.clone();
        after.leaving.retain(|_, (_, until)| *until > now);
        Some(after)
    }

    /// Whether anybody may use a login, or keep open what they have there.
    #[must_use]
    pub fn knows(&self, login: &str) -> bool {
        self.own_login(login).is_some() || self.shared.contains_key(login)
    }

    /// The logins that are somebody's own, with their users.
    fn own_logins(&self) -> impl Iterator<Item = (&str, Uid)> {
        let own = self.own.iter().map(|(login, uid)| (login.as_str(), *uid));
        own.chain(self.leaving.iter().map(|(login, (uid, _))| (login.as_str(), *uid)))
    }

    fn own_login(&self, login: &str) -> Option<Uid> {
        self.own.get(login).copied().or_else(|| self.leaving.get(login).map(|(uid, _)| *uid))
    }

    /// The user of a person's own login.
    #[must_use]
    pub fn uid(&self, login: &str) -> Option<Uid> {
        self.own_login(login)
    }

    /// The own login of a user.
    #[must_use]
    pub fn login_of(&self, uid: Uid) -> Option<&str> {
        self.own_logins().find(|(_, own)| *own == uid).map(|(login, _)| login)
    }

    /// The logins of this access that another one does not know, each with its user if it is somebody's own.
    pub fn lost_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a str, Option<Uid>)> {
        let own = self.own_logins().map(|(login, uid)| (login, Some(uid)));
        let shared = self.shared.keys().map(|login| (login.as_str(), None));
        own.chain(shared).filter(|(login, _)| !other.knows(login))
    }

    /// Whether a session may not go on, and why. Who has come in otherwise than through the helper, or unnoticed, has
    /// no claim: of a person's own login that makes no difference to its owner's fate; of a shared one nobody knows who
    /// it is.
    #[must_use]
    pub fn lost(&self, login: &str, claim: Option<&Claim>) -> Option<Lost> {
        if !self.knows(login) {
            return Some(Lost::Login);
        }
        let claim = claim?;
        if self.serials.contains(&claim.serial) {
            return Some(Lost::Serial(claim.serial));
        }
        if self.keys.contains(&claim.key) {
            return Some(Lost::Key(claim.key));
        }
        let may = match self.shared.get(login) {
            Some(all) => all.contains(&claim.owner) || self.leaving.contains_key(&claim.owner),
            None => claim.owner == login,
        };
        (!may).then_some(Lost::Owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bundle::{DeniedKey, DeniedSerial, FORMAT, Login, SharedLogin},
        domain::{Role, Timestamp, Version},
    };

    fn access(shared_with: &[&str]) -> Access {
        let until = Timestamp::from_secs(1);
        let bundle = Bundle {
            format: FORMAT,
            cluster: "h100.acme".parse().unwrap(),
            version: Version(5),
            issued: until,
            logins: vec![Login {
                name: "user1".parse().unwrap(),
                uid: Uid(1001),
                role: Role::Member,
                principals: vec!["user1@acme/ml".into()],
            }],
            groups: vec![],
            shared_logins: vec![SharedLogin {
                name: "ubuntu".into(),
                principals: shared_with.iter().map(|user| format!("{user}@acme/ml")).collect(),
            }],
            leaving: vec![],
            denied_serials: vec![DeniedSerial { serial: Serial(66), until }],
            denied_keys: vec![DeniedKey { key: Fingerprint::from_bytes([66; 32]), until }],
            user_ca: vec![],
            host_ca: vec![],
        };
        Access::of(&bundle, Timestamp::from_secs(0), Instant::now())
    }

    #[test]
    fn a_session_goes_on_exactly_as_long_as_a_new_one_would_begin() {
        let claim = |owner: &str, serial, key| {
            Some(Claim { owner: owner.into(), serial: Serial(serial), key: Fingerprint::from_bytes([key; 32]) })
        };
        let denied = Fingerprint::from_bytes([66; 32]);
        let access = access(&["user1"]);
        for (login, claim, expected) in [
            ("user1", None, None),
            ("user1", claim("user1", 1, 1), None),
            ("user1", claim("user1", 66, 1), Some(Lost::Serial(Serial(66)))),
            ("user1", claim("user1", 1, 66), Some(Lost::Key(denied))),
            ("user1", claim("user2", 1, 1), Some(Lost::Owner)),
            ("user2", None, Some(Lost::Login)),
            ("user2", claim("user2", 1, 1), Some(Lost::Login)),
            ("ubuntu", claim("user1", 1, 1), None),
            ("ubuntu", claim("user2", 1, 1), Some(Lost::Owner)),
            ("ubuntu", claim("user1", 66, 1), Some(Lost::Serial(Serial(66)))),
            // Nobody knows who it is.
            ("ubuntu", None, None),
        ] {
            assert_eq!(access.lost(login, claim.as_ref()), expected, "{login} {claim:?}");
        }
        let nothing = Access::default();
        let mut lost: Vec<_> = access.lost_in(&nothing).collect();
        lost.sort_unstable();
        assert_eq!(lost, [("ubuntu", None), ("user1", Some(Uid(1001)))]);
        assert_eq!(access.lost_in(&access).count(), 0);
    }
}
