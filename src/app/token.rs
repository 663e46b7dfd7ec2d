//! The join token as text: what an operator copies from the bastion to a new node.

use crate::domain::{Fingerprint, NodePath};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a text must begin with to be a join token; also what a secret scanner can look for.
const PREFIX: &str = "cgt1_";

/// Everything that `certgate-node join` needs: where to go, whom to trust there, who it will be, and the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenText {
    /// Gateways, each `HOST:PORT`.
    #[serde(rename = "g")]
    pub gateways: Vec<String>,
    /// Fingerprints of the gateways' host keys.
    #[serde(rename = "k")]
    pub host_keys: Vec<Fingerprint>,
    /// The node that the machine becomes.
    #[serde(rename = "n")]
    pub node: NodePath,
    /// 32 random bytes, base64 (URL-safe, no padding). The authority keeps only its hash.
    #[serde(rename = "s")]
    pub secret: String,
}

/// Without the secret.
impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenText").field("gateways", &self.gateways).field("node", &self.node).finish_non_exhaustive()
    }
}

impl fmt::Display for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for TokenText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "that is not a join token; copy the whole line that 'node token' printed (it begins with cgt1_)";
        let encoded = text.trim().strip_prefix(PREFIX).filter(|rest| rest.len() < 16 * 1024).ok_or(FORM)?;
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| FORM)?;
        serde_json::from_slice(&json).map_err(|_| FORM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_never_shows_its_secret() {
        let token = TokenText {
            gateways: vec!["bastion.example.com:22".into()],
            host_keys: vec![Fingerprint::from_bytes([3; 32])],
            node: "login-0.h100.acme".parse().unwrap(),
            secret: "c2VjcmV0".into(),
        };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("c2VjcmV0"));
        assert!("cgt1_!!".parse::<TokenText>().is_err());
        assert!("hello".parse::<TokenText>().is_err());
    }
}
