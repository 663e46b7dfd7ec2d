//! What a cluster's nodes accept: the *bundle* that the authority signs, and the *access table* that a node compiles
//! from it for its helper. Formats only, as pure functions over bytes; docs/bundle.md and docs/access-table.md
//! describe them.

mod compose;
mod current;
mod message;
mod order;
mod signed;
pub mod table;
mod table_writer;

pub use compose::{CaPublicKeys, SharedLoginStatus, bundle_for, farewell, principals_on, shared_logins};
pub use current::{Current, SignedCurrent};
pub use order::{Order, SignedOrder};
pub use signed::{
    Bundle, BundleError, BundleKey, DeniedKey, DeniedSerial, FORMAT, Group, Leaving, Login, MAX_BUNDLE_BYTES,
    SharedLogin, SignedBundle,
};
pub use table_writer::{CompileError, compile, compile_with};
