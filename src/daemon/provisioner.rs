//! The provisioner's process.

use super::{config::AuthorityConfig, outside::SystemEntropy, ready, stop_on_signals};
use crate::{
    api::client::GatewayClient,
    app::Entropy,
    provisioner::{Config, run},
};
use std::{error::Error, sync::Arc};

/// Runs the provisioner until it is asked to stop. It reads the authority's configuration, and of it `[provisioner]`.
///
/// # Errors
/// There is no such section, or a setting is out of range.
pub fn run_provisioner(config: AuthorityConfig) -> Result<(), Box<dyn Error>> {
    let raw = config.provisioner.ok_or("authority.toml has no [provisioner]: there is nothing to run")?;
    let config = Config::try_from(raw)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_on_signals()?;
        let mut instance = [0; 8];
        SystemEntropy.fill(&mut instance)?;
        let instance = format!("{:016x}", u64::from_ne_bytes(instance));
        let authority = Arc::new(GatewayClient::new(config.socket.clone()));
        tracing::info!(program = %config.executable.display(), "the provisioner is ready");
        ready();
        run(authority, config, instance, stop).await;
        tracing::info!("the provisioner has stopped");
        Ok(())
    })
}
