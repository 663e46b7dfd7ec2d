//! Where CA keys come from: files in the state directory, or credentials that systemd has handed over
//! (`LoadCredential=`, `LoadCredentialEncrypted=`) under the same names.

use super::ed25519::Pair;
use crate::{
    bundle::{BundleKey, CaPublicKeys},
    domain::PublicKey,
};
use ed25519_dalek::SigningKey;
use rustix::fs::{Mode, OFlags};
use ssh_key::{Algorithm, LineEnding, PrivateKey, private::Ed25519Keypair};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use thiserror::Error;
use zeroize::Zeroizing;

/// A key that signs certificates. A trait, so that a key can live in an HSM.
pub trait Signer: Send + Sync + 'static {
    /// Its public half.
    fn public_key(&self) -> &PublicKey;

    /// An SSH signature (RFC 8709 for ed25519) over what a certificate says.
    ///
    /// # Errors
    /// The key source failed.
    fn sign(&self, message: &[u8]) -> Result<ssh_key::Signature, signature::Error>;

    /// Whether signing waits for something other than the processor, such as a device: then it is not done on an async
    /// thread.
    fn waits(&self) -> bool;
}

/// Why the CA keys cannot be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// A key is gone though the directory is there: making another would be a new CA over an old one.
    #[error(
        "{path} is missing, but {beside} exists. A new CA is never made over an old directory. Restore the file from \
         a backup, or begin again with an empty state directory"
    )]
    Missing {
        /// The key file.
        path: PathBuf,
        /// What shows that it must have been there.
        beside: PathBuf,
    },
    /// Others can read it, or it is not a plain file of ours.
    #[error("{path}: {what}. It was not read. {next}")]
    Unsafe {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        next: &'static str,
    },
    /// It is not a key.
    #[error("{path} is not an unencrypted OpenSSH ed25519 private key: {what}. Restore it from a backup")]
    Format {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The keys of an authority.
pub struct CaKeys {
    /// Signs user certificates.
    pub user: Box<dyn Signer>,
    /// Signs host certificates.
    pub host: Box<dyn Signer>,
    /// Signs bundles.
    pub bundle: SigningKey,
    /// Signs where the audit log ends.
    pub audit: SigningKey,
    /// Where each of them was read.
    files: [KeyFile; 4],
}

const USER_CA: &str = "user_ca";
const HOST_CA: &str = "host_ca";
const BUNDLE_KEY: &str = "bundle_key";
const AUDIT_KEY: &str = "audit_key";
const ALL: [&str; 4] = [USER_CA, HOST_CA, BUNDLE_KEY, AUDIT_KEY];

impl CaKeys {
    /// Whether there is any key in a state directory.
    #[must_use]
    pub fn present(dir: &Path) -> bool {
        ALL.iter().any(|name| dir.join(name).symlink_metadata().is_ok())
    }

    /// Whether the key that signs the audit log is there.
    #[must_use]
    pub fn present_audit(dir: &Path) -> bool {
        dir.join(AUDIT_KEY).symlink_metadata().is_ok()
    }

    /// The keys that are in both places: whoever has moved one to the credentials has left a copy behind.
    #[must_use]
    pub fn in_both(dir: &Path, credentials: &Path) -> Vec<PathBuf> {
        let there = |path: &Path| path.symlink_metadata().is_ok();
        let both = ALL.iter().filter(|name| there(&dir.join(name)) && there(&credentials.join(name)));
        both.map(|name| dir.join(name)).collect()
    }

    /// Makes the keys of a new authority. Only for a state directory that has never been used: see [`CaKeys::load`].
    ///
    /// # Errors
    /// A key cannot be written.
    pub fn make(dir: &Path) -> Result<(), KeyFileError> {
        ALL.iter().try_for_each(|name| make(&dir.join(name), name))
    }

    /// Makes the key that signs the audit log in a state directory from before there was one, and says where; none if it
    /// has one. Only if nothing was signed yet: another key over an old log would make its signed heads worthless.
    ///
    /// # Errors
    /// The key cannot be written.
    pub fn add_audit_key(dir: &Path) -> Result<Option<PathBuf>, KeyFileError> {
        let path = dir.join(AUDIT_KEY);
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(&path, AUDIT_KEY).map(|()| Some(path)),
            // Whatever is wrong with it is said when it is read.
            _ => Ok(None),
        }
    }

    /// Reads the keys of a state directory. A key that is not there is never made: `database` shows that there was an
    /// authority, and a new CA over its directory would lock everybody out, or in.
    ///
    /// # Errors
    /// A key is missing, unsafe or damaged.
    pub fn load(dir: &Path, database: &Path) -> Result<Self, KeyFileError> {
        Self::load_with(dir, None, database)
    }

    /// The same; a key that is among the credentials is taken from there.
    ///
    /// # Errors
    /// A key is missing, unsafe or damaged.
    pub fn load_with(dir: &Path, credentials: Option<&Path>, database: &Path) -> Result<Self, KeyFileError> {
        let files = ALL.map(|name| match credentials.map(|credentials| credentials.join(name)) {
            Some(path) if path.symlink_metadata().is_ok() => (name, path, Place::Credentials),
            _ => (name, dir.join(name), Place::State),
        });
        // In the order of ALL.
        let [user, host, bundle, audit] = &files;
        let load = |(_, path, place): &KeyFile| read(path, database, *place);
        let signer = |file: &KeyFile| Ok::<_, KeyFileError>(Box::new(FileSigner::new(&file.1, &load(file)?)?));
        let (user, host, bundle, audit) = (signer(user)?, signer(host)?, load(bundle)?, load(audit)?);
        Ok(Self { files, user, host, bundle, audit })
    }

    /// The public halves of the CA keys.
    #[must_use]
    pub fn public(&self) -> CaPublicKeys {
        CaPublicKeys { user: self.user.public_key().clone(), host: self.host.public_key().clone() }
    }

    /// The private keys as their files have them, by name: for a backup, and nothing else.
    ///
    /// # Errors
    /// One cannot be read any more, or is another one now.
    pub fn private(&self) -> Result<Vec<(&'static str, Zeroizing<String>)>, KeyFileError> {
        let public = self.by_name();
        let read = |(name, path, place): &KeyFile| {
            let (text, key) = read_text(path, path, *place)?;
            if public.get(*name) != Some(&public_half(&key)) {
                let what = "it is not the key that the authority has read when it started".to_owned();
                return Err(KeyFileError::Format { path: path.clone(), what });
            }
            Ok((*name, text))
        };
        self.files.iter().map(read).collect()
    }

    /// The public halves of all keys, by the names of their files.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, PublicKey> {
        let keys = [
            (USER_CA, self.user.public_key().clone()),
            (HOST_CA, self.host.public_key().clone()),
            (BUNDLE_KEY, public_half(&self.bundle)),
            (AUDIT_KEY, public_half(&self.audit)),
        ];
        keys.map(|(name, key)| (name.to_owned(), key)).into()
    }

    /// The public half of the key that signs the audit log.
    #[must_use]
    pub fn audit_key(&self) -> PublicKey {
        public_half(&self.audit)
    }

    /// The public half of the bundle key.
    #[must_use]
    pub fn bundle_key(&self) -> BundleKey {
        BundleKey::from(&self.bundle)
    }
}

/// A key in memory.
struct FileSigner {
    key: Pair,
    public: PublicKey,
}

impl FileSigner {
    fn new(path: &Path, key: &SigningKey) -> Result<Self, KeyFileError> {
        let pair =
            Pair::new(key).map_err(|error| KeyFileError::Format { path: path.to_owned(), what: error.to_string() })?;
        Ok(Self { key: pair, public: public_half(key) })
    }
}

fn public_half(key: &SigningKey) -> PublicKey {
    PublicKey::from_ed25519(key.verifying_key().to_bytes())
}

impl Signer for FileSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<ssh_key::Signature, signature::Error> {
        ssh_key::Signature::new(Algorithm::Ed25519, self.key.sign(message)?).map_err(signature::Error::from_source)
    }

    fn waits(&self) -> bool {
        false
    }
}

fn make(path: &Path, comment: &str) -> Result<(), KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|e| io(std::io::Error::other(e)))?;
    let pair = Ed25519Keypair::from_seed(&seed);
    let text = PrivateKey::new(pair.into(), comment)
        .and_then(|key| key.to_openssh(LineEnding::LF))
        .map_err(|e| KeyFileError::Format { path: path.to_owned(), what: e.to_string() })?;
    // Whole or not at all: written beside, synced, then renamed; `create_new`, so that nothing is written over.
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&beside, path).map_err(io)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

/// A key's name, where it is, and what kind of place that is.
type KeyFile = (&'static str, PathBuf, Place);

/// Where a key lies, and so what its file must be like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The state directory: the authority's own file.
    State,
    /// systemd's credentials: on a file system that nobody can write to, readable by the service's user alone. Where that
    /// file system has access control lists the file is root's, a list lets the user read it, and the group's bits of its
    /// mode are the list's mask (acl(5)); otherwise it is the user's.
    Credentials,
}

impl Place {
    fn is_closed(self, metadata: &std::fs::Metadata) -> bool {
        let listed = self == Self::Credentials && metadata.uid() == 0 && metadata.gid() == 0;
        metadata.mode() & if listed { 0o037 } else { 0o077 } == 0
    }

    fn is_owner(self, uid: u32) -> bool {
        uid == rustix::process::geteuid().as_raw() || (self == Self::Credentials && uid == 0)
    }
}

fn read(path: &Path, evidence: &Path, place: Place) -> Result<SigningKey, KeyFileError> {
    read_text(path, evidence, place).map(|(_, key)| key)
}

fn read_text(path: &Path, evidence: &Path, place: Place) -> Result<(Zeroizing<String>, SigningKey), KeyFileError> {
    let io = |source: std::io::Error| KeyFileError::Io { path: path.to_owned(), source };
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let file = match opened {
        Ok(descriptor) => File::from(descriptor),
        Err(rustix::io::Errno::NOENT) => {
            return Err(KeyFileError::Missing { path: path.to_owned(), beside: evidence.to_owned() });
        }
        Err(rustix::io::Errno::LOOP) => return Err(refuse(path, "it is a symbolic link", "Put the file itself there")),
        Err(errno) => return Err(io(errno.into())),
    };
    // The descriptor is checked, not the path: what was looked at is what is read.
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(refuse(path, "it is not a regular file", "Restore it from a backup"));
    }
    if !place.is_closed(&metadata) {
        let what = format!("its mode is {:04o}, others can get at it", metadata.mode() & 0o7777);
        return Err(refuse(path, what, "If nobody has read it: chmod 0600; otherwise replace the CA"));
    }
    if !place.is_owner(metadata.uid()) {
        let what = format!("it belongs to user {}", metadata.uid());
        return Err(refuse(path, what, "It must belong to the user that the authority runs as"));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(64 * 1024).read_to_string(&mut text).map_err(io)?;
    let format = |what: String| KeyFileError::Format { path: path.to_owned(), what };
    let key = PrivateKey::from_openssh(text.as_bytes()).map_err(|e| format(e.to_string()))?;
    let pair = key.key_data().ed25519().ok_or_else(|| format("another kind of key, or encrypted".into()))?;
    let key = SigningKey::from_bytes(&pair.private.to_bytes());
    Ok((text, key))
}

fn refuse(path: &Path, what: impl Into<String>, next: &'static str) -> KeyFileError {
    KeyFileError::Unsafe { path: path.to_owned(), what: what.into(), next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn made() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        CaKeys::make(dir.path()).unwrap();
        dir
    }

    fn load(dir: &tempfile::TempDir) -> Result<CaKeys, KeyFileError> {
        CaKeys::load(dir.path(), &dir.path().join("directory.sqlite3"))
    }

    #[test]
    fn keys_are_the_owner_s_alone_and_survive_a_restart() {
        let dir = made();
        assert!(CaKeys::present(dir.path()));
        for name in ALL {
            assert_eq!(dir.path().join(name).metadata().unwrap().mode() & 0o7777, 0o600, "{name}");
        }
        assert_eq!(load(&dir).unwrap().public(), load(&dir).unwrap().public());
    }

    #[test]
    fn a_key_among_the_credentials_is_taken_from_there_and_one_that_others_can_read_is_not() {
        let (dir, credentials) = (made(), tempfile::tempdir().unwrap());
        let database = dir.path().join("directory.sqlite3");
        let load_with = || CaKeys::load_with(dir.path(), Some(credentials.path()), &database);
        let public = load(&dir).unwrap().public();
        assert_eq!(load_with().unwrap().public(), public, "none is there");
        std::fs::copy(dir.path().join(USER_CA), credentials.path().join(USER_CA)).unwrap();
        assert_eq!(CaKeys::in_both(dir.path(), credentials.path()), [dir.path().join(USER_CA)]);
        std::fs::remove_file(dir.path().join(USER_CA)).unwrap();
        assert!(load(&dir).is_err() && CaKeys::in_both(dir.path(), credentials.path()).is_empty());
        assert_eq!(load_with().unwrap().public(), public);
        let allow = |mode| {
            let path = credentials.path().join(USER_CA);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        allow(0o400);
        assert_eq!(load_with().unwrap().public(), public);
        for mode in [0o404, 0o420, 0o410] {
            allow(mode);
            assert!(matches!(load_with(), Err(KeyFileError::Unsafe { .. })), "{mode:o}");
        }
        // One that is there and bad is said to be, also where the state directory has another.
        std::fs::write(credentials.path().join(HOST_CA), "nonsense").unwrap();
        allow(0o400);
        assert!(matches!(load_with(), Err(KeyFileError::Unsafe { .. } | KeyFileError::Format { .. })));
    }

    #[test]
    fn a_missing_key_is_never_made_anew() {
        let dir = made();
        std::fs::remove_file(dir.path().join(USER_CA)).unwrap();
        assert!(matches!(load(&dir), Err(KeyFileError::Missing { .. })));
        assert!(!dir.path().join(USER_CA).exists());
    }

    #[test]
    fn a_directory_from_before_there_was_an_audit_key_gets_one_and_keeps_the_others() {
        let dir = made();
        std::fs::remove_file(dir.path().join(AUDIT_KEY)).unwrap();
        let others = || [USER_CA, HOST_CA, BUNDLE_KEY].map(|name| std::fs::read(dir.path().join(name)).unwrap());
        let before = others();
        assert!(matches!(load(&dir), Err(KeyFileError::Missing { .. })));
        assert_eq!(CaKeys::add_audit_key(dir.path()).unwrap(), Some(dir.path().join(AUDIT_KEY)));
        let made = load(&dir).unwrap().audit_key();
        assert_eq!(CaKeys::add_audit_key(dir.path()).unwrap(), None);
        assert_eq!(load(&dir).unwrap().audit_key(), made);
        assert_eq!(others(), before);
        assert_eq!(dir.path().join(AUDIT_KEY).metadata().unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_key_that_others_can_get_at_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610] {
            let dir = made();
            std::fs::set_permissions(dir.path().join(HOST_CA), std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(load(&dir), Err(KeyFileError::Unsafe { .. })), "{mode:o}");
        }
        let dir = made();
        std::fs::rename(dir.path().join(HOST_CA), dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join(HOST_CA)).unwrap();
        assert!(matches!(load(&dir), Err(KeyFileError::Unsafe { .. })));
    }

    #[test]
    fn a_damaged_key_is_named() {
        let dir = made();
        std::fs::write(dir.path().join(BUNDLE_KEY), "nonsense").unwrap();
        let error = load(&dir).err().unwrap().to_string();
        assert!(error.contains(BUNDLE_KEY) && !error.contains("nonsense"), "{error}");
    }
}
