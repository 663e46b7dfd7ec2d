//! Who a connection is: asked of the authority, once the signature has been verified, about exactly what was
//! presented. Nothing is remembered from an offer, a refusal or another login name.

use super::{Shared, connection::Connection};
use crate::{
    app::{
        authority::{Authority, Unreachable},
        protocol::{Authenticate, AuthenticateAnswer, AuthenticateRequest, Call, Credential, NodeIdentity, Presented},
    },
    domain::PublicKey,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long an authority that is being restarted is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(250);

/// What the one who waits is told when it does not come back.
pub(super) const AWAY: &str = "the access service is being restarted; try again";

/// As whom a connection was authenticated.
#[derive(Clone)]
pub(super) enum Identity {
    /// An account.
    Account { credential: Credential, user: String },
    /// A node.
    Node(NodeIdentity),
    /// A machine with a join token; the host key that it has proved.
    Joining(PublicKey),
}

impl Identity {
    /// For log lines.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Account { user, .. } => user.clone(),
            Self::Node(node) => node.path.to_string(),
            Self::Joining(key) => format!("joining {}", key.fingerprint()),
        }
    }
}

/// Asks who presents this. `key` is the plain key that signed; a machine may join only with one.
pub(super) async fn authenticate<A: Authority>(
    shared: &Shared<A>,
    connection: &Connection,
    presented: Presented,
    key: Option<PublicKey>,
    joining: bool,
) -> Result<Option<Identity>, Unreachable> {
    let request = AuthenticateRequest { connection: connection.id.clone(), peer: connection.peer, presented, joining };
    let answer = patiently::<Authenticate, A>(shared, connection, request).await?;
    Ok(match answer {
        AuthenticateAnswer::Account { credential, user } if !joining => Some(Identity::Account { credential, user }),
        AuthenticateAnswer::Node(node) if !joining => Some(Identity::Node(node)),
        AuthenticateAnswer::Joining if joining => key.map(Identity::Joining),
        // An answer to another question is no answer.
        AuthenticateAnswer::Account { .. }
        | AuthenticateAnswer::Node(_)
        | AuthenticateAnswer::Joining
        | AuthenticateAnswer::Refused => None,
    })
}

/// Asks, and asks again for a while when the authority cannot be reached.
pub(super) async fn patiently<C: Call, A: Authority>(
    shared: &Shared<A>,
    connection: &Connection,
    request: C::Request,
) -> Result<C::Answer, Unreachable>
where
    C::Request: Clone,
{
    let give_up = Instant::now() + PATIENCE;
    loop {
        let asked = tokio::select! {
            () = connection.over.cancelled() => return Err(Unreachable("the connection ended".into())),
            asked = shared.ask::<C>(request.clone()) => asked,
        };
        match asked {
            Err(_) if Instant::now() + AGAIN < give_up => sleep(AGAIN).await,
            asked => return asked,
        }
    }
}

/// Waits, no longer than for an answer, until the authority is there; false if it did not come back.
pub(super) async fn patiently_connected<A: Authority>(shared: &Shared<A>, connection: &Connection) -> bool {
    let mut connected = shared.connected.subscribe();
    tokio::select! {
        () = connection.over.cancelled() => false,
        () = sleep(PATIENCE) => false,
        came = connected.wait_for(|connected| *connected) => came.is_ok(),
    }
}
