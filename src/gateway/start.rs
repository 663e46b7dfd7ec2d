//! What is started on a session channel (RFC 4254, 6.5), each in a task of its own: by an account a command, by a node its
//! agent, a look at the time, or a tunnel.

use super::{
    agents::{self, Agent},
    auth::Identity,
    channels::WhenFull,
    command::Command,
    handler::Handler,
    inlet::Inlet,
    tunnel::{self, TunnelChannel},
};
use crate::app::authority::Authority;
use russh::ChannelId;
use std::sync::Arc;

impl<A: Authority> Handler<A> {
    /// Starts a command on a session channel, if that is possible, and says whether it was.
    pub(super) fn start_command(&self, id: ChannelId, line: &[u8]) -> bool {
        let Some(Identity::Account { credential, user }) = self.identity.clone() else { return false };
        let started = self.connection.channels.with(id, |entry| {
            let channel = entry.waiting.take()?;
            Some((channel, entry.inlet.clone(), entry.terminal.clone()))
        });
        let Some((channel, inlet, terminal)) = started.flatten() else { return false };
        let command = Command {
            shared: self.shared.clone(),
            connection: self.connection.clone(),
            credential,
            user,
            // One byte more than is permitted shows that it is too long; the rest need not wait for its turn.
            line: line.iter().copied().take(self.shared.config.limits.command_line.saturating_add(1)).collect(),
            channel,
            inlet,
            terminal,
            slots: self.commands.clone(),
        };
        tokio::spawn(command.run(self.served(id)));
        true
    }

    pub(super) fn start_agent(&mut self, id: ChannelId) -> bool {
        let identity = match &self.identity {
            Some(identity @ Identity::Node(_)) => identity.clone(),
            // Whoever guesses tokens begins with a new handshake for each.
            Some(identity @ Identity::Joining(_)) if !self.join_started => identity.clone(),
            Some(Identity::Joining(_)) => return false,
            Some(Identity::Account { .. }) | None => return false,
        };
        let started = self.connection.channels.with(id, |entry| {
            let channel = entry.waiting.take()?;
            entry.when_full = WhenFull::EndConnection;
            Some((channel, entry.inlet.clone()))
        });
        let Some((channel, inlet)) = started.flatten() else { return false };
        self.join_started = matches!(identity, Identity::Joining(_));
        let agent = Agent { shared: self.shared.clone(), connection: self.connection.clone(), channel, inlet };
        tokio::spawn(agents::serve(agent, identity, self.served(id)));
        true
    }

    pub(super) fn start_look(&self, id: ChannelId) -> bool {
        let Some(Identity::Node(node)) = &self.identity else { return false };
        let started = self.connection.channels.with(id, |entry| Some((entry.waiting.take()?, entry.inlet.clone())));
        let Some((channel, inlet)) = started.flatten() else { return false };
        let look = Agent { shared: self.shared.clone(), connection: self.connection.clone(), channel, inlet };
        tokio::spawn(agents::look(look, node.clone(), self.served(id)));
        true
    }

    pub(super) fn start_tunnel(&self, id: ChannelId) -> bool {
        let Some(Identity::Node(node)) = &self.identity else { return false };
        let started = self.connection.channels.with(id, |entry| {
            let channel = entry.waiting.take()?;
            entry.when_full = WhenFull::Wait;
            // Nothing has come yet: whoever speaks before the answer has no tunnel.
            entry.inlet = Arc::new(Inlet::new(tunnel::BUFFER));
            Some((channel, entry.inlet.clone()))
        });
        let Some((channel, inlet)) = started.flatten() else { return false };
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        let tunnel = TunnelChannel { shared, connection, node: node.node, channel, inlet };
        tokio::spawn(tunnel::serve(tunnel, self.served(id)));
        true
    }
}
