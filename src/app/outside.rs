//! What the use cases need from outside and take as arguments: the time and randomness.

use crate::domain::Timestamp;
use thiserror::Error;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system gave no random bytes.
#[derive(Clone, Debug, Error)]
#[error("the system gave no random bytes: {0}")]
pub struct NoEntropy(pub String);

/// Gives random bytes fit for secrets.
pub trait Entropy: Send + Sync + 'static {
    /// Fills a buffer.
    ///
    /// # Errors
    /// The system has none.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy>;
}
