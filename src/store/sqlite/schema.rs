//! The schema of the database, and how a file is known to be ours.

/// Big-endian at byte 68 of the file: `cgat`. Tells our file from any other SQLite database.
pub(super) const APPLICATION_ID: u32 = 0x6367_6174;

/// Big-endian at byte 60 of the file: rises when the schema changes.
pub(super) const SCHEMA_VERSION: u32 = 6;

/// The oldest schema that [`super::migrate`] knows a way from.
pub(super) const OLDEST_SCHEMA: u32 = 4;

/// The tables.
pub(super) const SCHEMA: &str = include_str!("schema.sql");
