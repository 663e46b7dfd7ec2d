//! Why a use case did not do what was asked.

use super::outside::NoEntropy;
use crate::{
    ca::SigningError,
    policy::{Denial, Reason},
    store::StoreError,
};
use thiserror::Error;

/// `Display` is the operator's voice; [`AppError::for_user`] is the other one.
#[derive(Debug, Error)]
pub enum AppError {
    /// It was refused.
    #[error("{}", .0.operator)]
    Denied(#[from] Denial),
    /// It could not be made durable, so it was not done.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A certificate could not be signed.
    #[error("{0}")]
    Signing(#[from] SigningError),
    /// A secret could not be made.
    #[error("{0}")]
    Entropy(#[from] NoEntropy),
    /// A defect.
    #[error("certgate made a mistake: {0}; nothing was changed. Please report it")]
    Defect(&'static str),
}

impl AppError {
    /// What the one who asked is told: all of a refusal that concerns them, little of our troubles.
    #[must_use]
    pub fn for_user(&self) -> String {
        match self {
            Self::Denied(denial) => denial.user.clone(),
            Self::Store(_) | Self::Signing(_) | Self::Entropy(_) | Self::Defect(_) => {
                "the authority could not do that now; nothing was changed. Try again, or tell the people who run this \
                 bastion"
                    .into()
            }
        }
    }

    /// The reason of a refusal.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Denied(denial) => Some(denial.reason),
            _ => None,
        }
    }
}
