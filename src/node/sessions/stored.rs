//! What the agent knows of sessions, on disk, so that a restart of the agent loses nothing. It is worth nothing after a
//! restart of the machine, and says which start it was written in; so it need not survive one, and is not synchronized.

use super::{process::ProcessId, registry::Session};
use crate::node::files::{self, FileError, Mode};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// Longer than [`super::registry::MAX_SESSIONS`] sessions, unless they have left thousands of processes behind.
const MAX_BYTES: usize = 16 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// The start of the machine (random(4), `boot_id`): process numbers and ticks mean nothing in another one.
    boot: String,
    sessions: Vec<(ProcessId, Session)>,
}

/// What was known in this start of the machine. What cannot be read was nothing: sessions are found again in /proc,
/// but not with what certificate they came.
#[must_use]
pub fn load(path: &Path, boot: &str) -> BTreeMap<ProcessId, Session> {
    let stored = match files::read(path, MAX_BYTES) {
        Ok(bytes) => serde_json::from_slice::<Stored>(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.is_missing() => return BTreeMap::new(),
        Err(error) => Err(error.to_string()),
    };
    match stored {
        Ok(stored) if stored.boot == boot => stored.sessions.into_iter().collect(),
        Ok(_) => BTreeMap::new(),
        Err(error) => {
            tracing::warn!(
                "what was known of open sessions is lost, but for what the processes themselves show: {error}"
            );
            BTreeMap::new()
        }
    }
}

/// Replaces what is there.
///
/// # Errors
/// It cannot be written; what was there before is there still.
pub fn save(path: &Path, boot: &str, sessions: &BTreeMap<ProcessId, Session>) -> Result<(), FileError> {
    let sessions = sessions.iter().map(|(id, session)| (*id, session.clone())).collect();
    let stored = Stored { boot: boot.to_owned(), sessions };
    // Maps with text as keys and numbers: there is no error case.
    let bytes = serde_json::to_vec(&stored).unwrap_or_default();
    files::replace_unsynchronized(path, &bytes, Mode::Private)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Fingerprint, Serial},
        node::sessions::{access::Claim, belongings::Marks, registry::State},
    };
    use std::fs;

    #[test]
    fn what_is_known_survives_the_agent_but_not_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sessions.json");
        let id = |pid| ProcessId { pid, start: 7 };
        let claim = Claim { owner: "user1".into(), serial: Serial(u64::MAX), key: Fingerprint::from_bytes([1; 32]) };
        let session = |claim, state| Session {
            login: "user1".into(),
            claim,
            state,
            marks: Marks { uid: 1001, login_session: Some(3), scope: None, seen: [id(5)].into() },
        };
        let sessions = BTreeMap::from([
            (id(1), session(Some(claim), State::Open(id(2)))),
            (id(3), session(None, State::Left)),
            (id(4), session(None, State::Trying)),
        ]);
        assert_eq!(load(&path, "boot1"), BTreeMap::new());
        save(&path, "boot1", &sessions).unwrap();
        assert_eq!(load(&path, "boot1"), sessions);
        assert_eq!(load(&path, "boot2"), BTreeMap::new());
        for bad in ["", "{", "[]", "{\"boot\":\"boot1\",\"sessions\":[[1,2]]}"] {
            fs::write(&path, bad).unwrap();
            assert_eq!(load(&path, "boot1"), BTreeMap::new());
        }
    }
}
