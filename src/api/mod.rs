//! HTTP/1.1 with JSON over Unix sockets: the authority's surfaces, and the clients of them.
//!
//! What may be asked where is a declared table for each socket ([`server::ADMIN_CALLS`],
//! [`crate::app::protocol::GATEWAY_CALLS`], [`crate::app::protocol::provisioner::PROVISIONER_CALLS`]); nothing else answers.

mod backup;
pub mod client;
pub mod server;

/// `POST` there on the admin socket: [`crate::app::protocol::AdminCommand`], answered with
/// [`crate::app::protocol::CommandAnswer`].
pub const COMMAND_PATH: &str = "/v1/command";

/// `POST` there on the admin socket: [`crate::app::protocol::BackupRequest`], answered with the backup as it is written; or,
/// with another status than 200, [`crate::app::protocol::Refusal`]. An answer that breaks off is no backup.
pub const BACKUP_PATH: &str = "/v1/backup";

/// `GET` there on the admin socket: answers 200 when the authority serves.
pub const HEALTH_PATH: &str = "/v1/health";

/// The largest body of a request, in bytes: a command with its input, or a hello with ten thousand sessions.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// The largest command of an operator, in bytes: its input in JSON, where each quote and each end of line takes two.
const MAX_COMMAND: usize = 2 * crate::app::protocol::MAX_LOCAL_INPUT + MAX_BODY;

/// The largest hello of a gateway, in bytes: every forward that its largest bounds allow, at some 250 bytes each. A hello
/// that could not be taken would keep the gateway cut off for good.
const MAX_HELLO: usize = 256 * 1024 * 1024;
