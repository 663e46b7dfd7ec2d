//! `backup` and `restore`: their words. What they do has files to do with, and is the operator's program's own business.

use crate::domain::Fingerprint;
use std::path::PathBuf;

/// Write an encrypted backup of the directory, while everything runs (operators)
#[derive(Debug, clap::Args)]
#[command(
    after_help = "backup --to age1… /var/backups/certgate-1.age\nbackup --to age1… --with-ca-keys - > certgate-with-keys.age"
)]
pub(crate) struct Backup {
    /// Into which file, which must not be there yet; - for standard output
    pub(crate) file: PathBuf,
    /// Who can read it: a public key of age (age1…), as 'age-keygen' prints it; more than one if given more than once
    #[arg(long, value_name = "RECIPIENT", required = true)]
    pub(crate) to: Vec<String>,
    /// With the private keys of the CA: whoever can read it can let anybody in
    #[arg(long)]
    pub(crate) with_ca_keys: bool,
}

/// Make an authority's state directory from a backup; shows what it is, and asks, before anything is written (operators)
#[derive(Debug, clap::Args)]
#[command(
    after_help = "restore certgate-1.age --identity key.txt --dry-run\nrestore certgate-1.age --identity key.txt --audit-key SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
)]
pub(crate) struct Restore {
    /// The backup
    pub(crate) file: PathBuf,
    /// The secret key of age that it was made for, in a file
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: PathBuf,
    /// The state directory, which must be empty
    #[arg(long, value_name = "DIR", default_value = "/var/lib/certgate")]
    pub(crate) into: PathBuf,
    /// The fingerprint of the authority's audit key, as 'ca show' printed it once: only a backup that it has signed is
    /// taken. Anybody can make one who knows the recipient
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) audit_key: Option<Fingerprint>,
    /// Only show what it is
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}
