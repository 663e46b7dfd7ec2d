//! Which algorithms the gateway speaks, and the rest of what russh is told.
//!
//! `Preferred::key` is announced (RFC 8308 `server-sig-algs`) but not enforced by russh: [`refused`] is what refuses.

use super::window::WINDOW;
use super::{Config, ConfigError};
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac, server};
use serde::Deserialize;
use ssh_key::{Algorithm, Certificate, EcdsaCurve, HashAlg, PrivateKey};
use std::{borrow::Cow, time::Duration};

/// How long a refusal takes. Short enough for someone with six keys in the agent.
const REJECTION: Duration = Duration::from_millis(100);

/// Key exchanges that are offered, the best first.
const KEX: &[kex::Name] = &[kex::MLKEM768X25519_SHA256, kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731];

/// What is no key exchange and always said: extensions, and strict key exchange against prefix truncation
/// (CVE-2023-48795).
const KEX_EXTENSIONS: &[kex::Name] = &[kex::EXTENSION_SUPPORT_AS_SERVER, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER];

const CIPHERS: &[cipher::Name] = &[cipher::CHACHA20_POLY1305, cipher::AES_256_GCM, cipher::AES_128_GCM];

/// For ciphers that need one; none of those that are offered does.
const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM];

/// `[algorithms]` as it is written: OpenSSH's names, in order of preference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAlgorithms {
    /// Key exchanges.
    pub kex: Option<Vec<String>>,
    /// Ciphers.
    pub ciphers: Option<Vec<String>>,
    /// MACs.
    pub macs: Option<Vec<String>>,
}

/// What is spoken, in order of preference: some of what is safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms {
    kex: Vec<kex::Name>,
    ciphers: Vec<cipher::Name>,
    macs: Vec<mac::Name>,
}

impl Default for Algorithms {
    fn default() -> Self {
        Self { kex: KEX.to_vec(), ciphers: CIPHERS.to_vec(), macs: MACS.to_vec() }
    }
}

impl TryFrom<RawAlgorithms> for Algorithms {
    type Error = ConfigError;

    fn try_from(raw: RawAlgorithms) -> Result<Self, ConfigError> {
        Ok(Self {
            kex: chosen("kex", raw.kex, KEX)?,
            ciphers: chosen("ciphers", raw.ciphers, CIPHERS)?,
            macs: chosen("macs", raw.macs, MACS)?,
        })
    }
}

fn chosen<N: AsRef<str> + Copy>(
    list: &'static str,
    wanted: Option<Vec<String>>,
    known: &[N],
) -> Result<Vec<N>, ConfigError> {
    let Some(wanted) = wanted else { return Ok(known.to_vec()) };
    let names = || known.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if wanted.is_empty() {
        return Err(ConfigError::NoAlgorithm { list, known: names() });
    }
    let find = |found: String| {
        let name = known.iter().copied().find(|name| name.as_ref() == found);
        name.ok_or_else(|| ConfigError::Algorithm { list, found, known: names() })
    };
    wanted.into_iter().map(find).collect()
}

const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::SkEd25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// Whether a signature of this algorithm is refused: SHA-1, DSA, and whatever is not on the list.
pub(super) fn refused(algorithm: &Algorithm) -> bool {
    !KEYS.contains(algorithm)
}

/// What russh is told.
pub(super) fn server_config(config: &Config, host_key: PrivateKey, certificates: Vec<Certificate>) -> server::Config {
    let algorithms = &config.algorithms;
    let kex = algorithms.kex.iter().chain(KEX_EXTENSIONS).copied().collect();
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    server::Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-certgate")),
        methods,
        auth_rejection_time: REJECTION,
        // OpenSSH begins with `none` to learn the methods: without this every login would wait.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        certificates,
        window_size: WINDOW,
        // Of 32 kB each, for a peer that does not read: 10 hold more, and are no faster (benches/README.md).
        event_buffer_size: 6,
        maximum_packet_size: 32 * 1024,
        preferred: Preferred {
            kex: Cow::Owned(kex),
            host_key_certificates: Cow::Borrowed(&[]),
            key: Cow::Borrowed(KEYS),
            cipher: Cow::Owned(algorithms.ciphers.clone()),
            mac: Cow::Owned(algorithms.macs.clone()),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        // The handler counts offers as well; this counts what never reaches it, such as expired certificates.
        max_auth_attempts: usize::try_from(config.limits.auth_attempts).unwrap_or(20),
        // It would bound the whole connection; the login deadline is ours, and idle sessions may stay.
        inactivity_timeout: None,
        keepalive_interval: Some(config.limits.keepalive_interval),
        keepalive_max: config.limits.keepalive_max,
        ..server::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_and_dsa_are_refused() {
        assert!(refused(&Algorithm::Rsa { hash: None }));
        assert!(refused(&Algorithm::Dsa));
        assert!(!refused(&Algorithm::Rsa { hash: Some(HashAlg::Sha512) }));
        assert!(!refused(&Algorithm::SkEd25519));
    }
}
