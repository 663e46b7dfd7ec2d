//! The CA keys, and the one way from a permit to a certificate.
//!
//! Only a permit of [`crate::policy`] is signed, and what was signed is read back from its bytes and compared with
//! the permit, field by field, before anybody gets it.

mod ed25519;
mod keys;
mod pipeline;

pub use keys::{CaKeys, KeyFileError, Signer};
pub use pipeline::{SigningError, sign_host, sign_user};
