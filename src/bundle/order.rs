//! The authority's order to a node to end one session of its sshd.
//!
//! A gateway passes it on, and cannot make one. It names a process by number and start, so it is of no use for anything
//! else: kept and sent again, it finds nothing.

use super::{
    message::{Message, Signed},
    signed::{BundleError, BundleKey},
};
use crate::domain::NodePath;
use serde::{Deserialize, Serialize};

/// This session is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// On which node.
    pub node: NodePath,
    /// The process number of its privileged sshd.
    pub process: u32,
    /// When that has started, in clock ticks since the machine did.
    pub start: u64,
    /// Its login.
    pub login: String,
    /// Who wants it, for the node's log.
    pub by: String,
}

impl Message for Order {
    const DOMAIN: &'static [u8] = b"certgate end session v1\0";
    const MAX_BYTES: usize = 4096;
}

/// The same as it travels.
pub type SignedOrder = Signed<Order>;

impl SignedOrder {
    /// Checks the signature, and that it is for `node`; only then is the payload parsed. None if it is for another one.
    ///
    /// # Errors
    /// Whatever is wrong first: size, key, signature, format.
    pub fn open(&self, trusted: &[BundleKey], node: &NodePath) -> Result<Option<Order>, BundleError> {
        let order = self.read(trusted)?;
        Ok(Some(order).filter(|order| order.node == *node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::SignedCurrent;
    use ed25519_dalek::SigningKey;

    #[test]
    fn an_order_is_taken_from_the_authority_only_and_for_the_node_that_it_names() {
        let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let trusted = [BundleKey::from(&key)];
        let node: NodePath = "login-0.h100.acme".parse().unwrap();
        let order =
            Order { node: node.clone(), process: 4242, start: 99, login: "user1".into(), by: "operator".into() };
        let signed = SignedOrder::sign(&order, &key).unwrap();
        assert_eq!(signed.open(&trusted, &node), Ok(Some(order.clone())));
        assert_eq!(signed.open(&trusted, &"login-1.h100.acme".parse().unwrap()), Ok(None));
        let foreign = SignedOrder::sign(&order, &other).unwrap();
        assert_eq!(foreign.open(&trusted, &node), Err(BundleError::UnknownKey));
        let forged = SignedOrder { key: trusted[0], ..foreign };
        assert_eq!(forged.open(&trusted, &node), Err(BundleError::Signature));
        let changed = SignedOrder { payload: signed.payload.replace("4242", "4243"), ..signed.clone() };
        assert_eq!(changed.open(&trusted, &node), Err(BundleError::Signature));
        // A signature over one kind of message is none over another.
        let SignedOrder { payload, key, signature, .. } = signed;
        let word = SignedCurrent { payload, key, signature, message: std::marker::PhantomData };
        assert_eq!(word.open(&trusted, &"h100.acme".parse().unwrap()), Err(BundleError::Signature));
    }
}
