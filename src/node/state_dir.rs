//! The state directory: the signed bundle as it came, the access table compiled from it; the CA file, the host
//! certificate and, where it is wanted, the list of revoked keys for sshd. The bundle is the truth; the table, the CA file
//! and the list are made from it again when they are not what it says.

use super::{
    config::NodeConfig,
    files::{self, FileError, Mode, Staged},
    helper::notice,
    sshd::SshdError,
};
use crate::{
    bundle::{
        Bundle, BundleError, BundleKey, CompileError, MAX_BUNDLE_BYTES, SignedBundle, compile_with,
        table::{MAX_TABLE_BYTES, Table},
    },
    domain::{ClusterPath, MAX_KEY_BYTES, Timestamp, Ttl, Version},
    krl::{Krl, KrlError, MAX_KRL_BYTES},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// JSON inside JSON: at worst every second byte of the payload is a quote to be escaped.
pub const MAX_SIGNED_BYTES: usize = 2 * MAX_BUNDLE_BYTES + 64 * 1024;

/// Where things are.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    /// How long a table is believed that nobody confirms; for ever if not set.
    max_age: Option<Ttl>,
    /// Whether sshd is to have a list of revoked keys.
    revoked: bool,
}

/// A bundle was not installed; what was in force before still is.
#[derive(Debug, Error)]
pub enum InstallError {
    /// It could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// It could not be encoded.
    #[error("the bundle cannot be written as JSON: {0}")]
    Encode(#[from] serde_json::Error),
    /// It could not be written.
    #[error("cannot install the bundle: {0}")]
    File(#[from] FileError),
}

/// Why the bundle that lies there is not used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not a signed bundle.
    #[error("{}: not a signed bundle: {why}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: serde_json::Error,
    },
    /// It is not one for this node.
    #[error("{}: {why}", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: BundleError,
    },
    /// The table is newer than the bundle beside it.
    #[error("{}: version {bundle} is older than the access table's {table}", .path.display())]
    Older {
        /// The bundle's file.
        path: PathBuf,
        /// The bundle's version.
        bundle: Version,
        /// The table's.
        table: Version,
    },
    /// The table could not be made again.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// What a start finds.
#[derive(Debug)]
pub struct Found {
    /// The bundle in force.
    pub bundle: Result<Bundle, LoadError>,
    /// The lowest version that may be installed: a table without its bundle still says how far we were.
    pub floor: Option<Version>,
    /// The table, the CA file or the list of revoked keys was not what the bundle says, and was made again.
    pub repaired: bool,
}

impl StateDir {
    /// At this path. A table made there is believed for `max_age` after it was last confirmed, if that is set.
    #[must_use]
    pub fn new(path: &Path, max_age: Option<Ttl>) -> Self {
        Self { path: path.to_owned(), max_age, revoked: false }
    }

    /// As a node's configuration wants it.
    #[must_use]
    pub fn of(config: &NodeConfig) -> Self {
        Self::new(&config.state_dir, config.max_age.0).revoking(config.revoked_keys)
    }

    /// With a list of revoked keys for sshd, if that is wanted.
    #[must_use]
    pub fn revoking(self, wanted: bool) -> Self {
        Self { revoked: wanted, ..self }
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Every file that is kept there.
    pub(super) fn all(&self) -> [PathBuf; 8] {
        [
            self.table(),
            self.bundle(),
            self.user_ca(),
            self.host_certificate(),
            self.revoked_keys(),
            self.sessions(),
            self.socket(),
            self.drop_in(),
        ]
    }

    /// sshd's configuration for certgate, while the machine is no node for now.
    #[must_use]
    pub fn drop_in(&self) -> PathBuf {
        self.path.join("sshd_drop_in")
    }

    /// The access table, which the helper reads.
    #[must_use]
    pub fn table(&self) -> PathBuf {
        self.path.join("access.table")
    }

    /// The signed bundle.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.path.join("bundle.json")
    }

    /// The CAs of user certificates: sshd's `TrustedUserCAKeys`, which it reads on every login.
    #[must_use]
    pub fn user_ca(&self) -> PathBuf {
        self.path.join("user_ca.pub")
    }

    /// The host certificate: sshd's `HostCertificate`, which it reads when it starts.
    #[must_use]
    pub fn host_certificate(&self) -> PathBuf {
        self.path.join("ssh_host_key-cert.pub")
    }

    /// What sshd is to refuse by itself: its `RevokedKeys`, which it reads on every login.
    #[must_use]
    pub fn revoked_keys(&self) -> PathBuf {
        self.path.join("revoked_keys")
    }

    /// Whether sshd is to have a list of revoked keys.
    pub(super) fn is_revoking(&self) -> bool {
        self.revoked
    }

    /// Whether the list of revoked keys is kept up to date. One that is there is, also where it is not wanted any more:
    /// an sshd that has not read its configuration since refuses everybody without it.
    fn revokes(&self) -> bool {
        self.revoked || self.revoked_keys().symlink_metadata().is_ok()
    }

    /// When the authority last confirmed the table: the time of its file, which the helper looks at. None if there is
    /// none.
    #[must_use]
    pub fn confirmed(&self) -> Option<Timestamp> {
        files::modified(&self.table())
    }

    /// The authority has confirmed the table.
    ///
    /// # Errors
    /// There is none, or the disk does not take it.
    pub fn confirm(&self, at: Timestamp) -> Result<(), FileError> {
        files::set_modified(&self.table(), at)
    }

    /// Where the helper tells of logins.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(notice::SOCKET)
    }

    /// What is known of open sessions.
    #[must_use]
    pub fn sessions(&self) -> PathBuf {
        self.path.join("sessions.json")
    }

    /// Installs a bundle that was verified. All of it is on the disk before anything is replaced, so that a full disk
    /// changes nothing; the bundle goes first, so that a crash in between is made good by [`StateDir::load`].
    ///
    /// # Errors
    /// It cannot be compiled or written. What helper and sshd read is either as it was or as the bundle says.
    pub fn install(&self, bundle: &Bundle, signed: &SignedBundle) -> Result<(), InstallError> {
        let table = compile_with(bundle, self.max_age)?;
        // Not the time at which it came: a gateway could have held it back, or sent an old one once more.
        let confirmed = self.confirmed().unwrap_or(bundle.issued).max(bundle.issued);
        let json = serde_json::to_vec(signed)?;
        let revoked = self.revokes().then(|| {
            let list = revoked_keys_file(bundle);
            Staged::new(&self.revoked_keys(), &list, Mode::Public)
        });
        let staged = [
            Some(Staged::new(&self.bundle(), &json, Mode::Private)?),
            Some(Staged::new(&self.user_ca(), user_ca_file(bundle).as_bytes(), Mode::Public)?),
            revoked.transpose()?,
            Some(Staged::new(&self.table(), &table, Mode::Public)?.dated(confirmed)?),
        ];
        for file in staged.into_iter().flatten() {
            file.commit()?;
        }
        Ok(())
    }

    /// Verifies the bundle that lies there, as strictly as one that arrives, and makes the table, the CA file and the list
    /// of revoked keys again if they are not exactly what it says.
    #[must_use]
    pub fn load(&self, trusted: &[BundleKey], cluster: &ClusterPath) -> Found {
        let table = files::read(&self.table(), MAX_TABLE_BYTES).ok();
        let floor = table.as_deref().and_then(|bytes| Table::open(bytes).ok()).map(|table| Version(table.version()));
        match self.load_bundle(trusted, cluster, floor, table) {
            Ok((bundle, repaired)) => Found { floor: floor.max(Some(bundle.version)), bundle: Ok(bundle), repaired },
            Err(error) => Found { bundle: Err(error), floor, repaired: false },
        }
    }

    fn load_bundle(
        &self,
        trusted: &[BundleKey],
        cluster: &ClusterPath,
        floor: Option<Version>,
        table: Option<Vec<u8>>,
    ) -> Result<(Bundle, bool), LoadError> {
        let path = self.bundle();
        let bytes = files::read(&path, MAX_SIGNED_BYTES)?;
        let signed: SignedBundle =
            serde_json::from_slice(&bytes).map_err(|why| LoadError::Format { path: path.clone(), why })?;
        let bundle =
            signed.open(trusted, cluster, None).map_err(|why| LoadError::Refused { path: path.clone(), why })?;
        if let Some(table) = floor.filter(|floor| *floor > bundle.version) {
            return Err(LoadError::Older { path, bundle: bundle.version, table });
        }
        let mut repaired = false;
        let ca = user_ca_file(&bundle);
        if files::read(&self.user_ca(), ca.len()).ok().as_deref() != Some(ca.as_bytes()) {
            files::replace(&self.user_ca(), ca.as_bytes(), Mode::Public).map_err(InstallError::File)?;
            repaired = true;
        }
        if self.revokes() {
            let list = revoked_keys_file(&bundle);
            if files::read(&self.revoked_keys(), list.len()).ok().as_ref() != Some(&list) {
                files::replace(&self.revoked_keys(), &list, Mode::Public).map_err(InstallError::File)?;
                repaired = true;
            }
        }
        let compiled = compile_with(&bundle, self.max_age).map_err(InstallError::Compile)?;
        if table.as_ref() != Some(&compiled) {
            // Of a table that is no more, or of no use, the last confirmation is not known.
            let confirmed = floor.and_then(|_| self.confirmed()).unwrap_or(bundle.issued);
            let staged = Staged::new(&self.table(), &compiled, Mode::Public).and_then(|staged| staged.dated(confirmed));
            staged.and_then(Staged::commit).map_err(InstallError::File)?;
            repaired = true;
        }
        Ok((bundle, repaired))
    }

    /// Whether sshd's list of revoked keys is what a bundle says, as it lies there. One that sshd cannot read makes it
    /// refuse everybody, and it does not look before the first login.
    ///
    /// # Errors
    /// It is not.
    pub fn check_revoked_keys(&self, bundle: &Bundle) -> Result<(), SshdError> {
        let path = self.revoked_keys();
        let wrong = |why: String| SshdError::List { path: path.clone(), why };
        let bytes = files::read(&path, MAX_KRL_BYTES).map_err(|error| wrong(error.why.to_string()))?;
        let list = Krl::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
        let serials = bundle.denied_serials.iter().map(|denied| denied.serial).filter(|serial| serial.0 != 0).collect();
        let keys: BTreeSet<_> = bundle.denied_keys.iter().map(|denied| denied.key).collect();
        if list.serials != serials || list.keys != keys {
            return Err(wrong("it is not what the bundle says".into()));
        }
        Ok(())
    }

    /// Where there is no bundle to make the list of revoked keys from, but sshd is to have one: if it is missing or
    /// damaged, puts one in its place that revokes nothing. Without it sshd would refuse everybody, root's own keys
    /// too, and nobody could come and mend it; what is revoked the helper refuses by its table anyway. True if that
    /// was needed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn stand_in(&self, cluster: &ClusterPath) -> Result<bool, FileError> {
        let path = self.revoked_keys();
        // sshd reads some kinds of lists that we do not write.
        let good = |bytes: Vec<u8>| !matches!(Krl::parse(&bytes), Err(KrlError::Format(_)));
        let good = || files::read(&path, MAX_KRL_BYTES).is_ok_and(good);
        if !self.revokes() || good() {
            return Ok(false);
        }
        files::replace(&path, &list(cluster).to_bytes(), Mode::Public).map(|()| true)
    }

    /// Replaces the host certificate.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn install_host_certificate(&self, line: &str) -> Result<(), FileError> {
        files::replace(&self.host_certificate(), format!("{}\n", line.trim()).as_bytes(), Mode::Public)
    }

    /// The host certificate's line, if there is one.
    #[must_use]
    pub fn read_host_certificate(&self) -> Option<String> {
        String::from_utf8(files::read(&self.host_certificate(), 2 * MAX_KEY_BYTES).ok()?).ok()
    }
}

fn list(cluster: &ClusterPath) -> Krl {
    Krl {
        version: 0,
        generated: Timestamp::from_secs(0),
        comment: format!("certgate {cluster}"),
        authorities: vec![],
        serials: BTreeSet::new(),
        keys: BTreeSet::new(),
    }
}

/// What a bundle denies, as a key revocation list of OpenSSH's. The same bundle always makes the same list.
pub(super) fn revoked_keys_file(bundle: &Bundle) -> Vec<u8> {
    let list = Krl {
        version: bundle.version.0,
        generated: bundle.issued,
        authorities: bundle.user_ca.clone(),
        serials: bundle.denied_serials.iter().map(|denied| denied.serial).collect(),
        keys: bundle.denied_keys.iter().map(|denied| denied.key).collect(),
        ..list(&bundle.cluster)
    };
    list.to_bytes()
}

/// One key a line, as authorized_keys(5) has them.
pub(super) fn user_ca_file(bundle: &Bundle) -> String {
    bundle.user_ca.iter().map(|key| format!("{key}\n")).collect()
}
