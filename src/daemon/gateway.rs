//! The gateway's process.

use super::{outside::SystemEntropy, ready, stop_on_signals};
use crate::{
    api::client::GatewayClient,
    app::Entropy,
    gateway::{Config, Gateway, RawConfig, THREAD_STACK_BYTES, load_or_make_host_key},
};
use std::{error::Error, sync::Arc};
use tokio::net::TcpListener;

/// Runs a gateway until it is asked to stop.
///
/// # Errors
/// A setting is out of range, the host key is unsafe, an address cannot be listened on.
pub fn run_gateway(config: RawConfig) -> Result<(), Box<dyn Error>> {
    let config = Config::try_from(config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(THREAD_STACK_BYTES).build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let stop = stop_on_signals()?;
    let mut seed = [0; 32];
    SystemEntropy.fill(&mut seed)?;
    let host_key = load_or_make_host_key(&config.host_key, || seed)?;
    let authority = Arc::new(GatewayClient::new(config.authority_socket.clone()));
    let mut listeners = Vec::new();
    for address in &config.listen {
        let listener = TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        listeners.push(listener);
    }
    let gateway = Gateway::new(config, host_key, authority, Arc::new(random))?;
    ready();
    gateway.serve(listeners, stop).await;
    tracing::info!("the gateway has stopped");
    Ok(())
}

/// 128 bits from the kernel. It fails only where a kernel has no random numbers at all; a predictable name for a
/// session is then worse than none.
#[allow(clippy::panic)]
fn random() -> u128 {
    let mut bytes = [0; 16];
    match SystemEntropy.fill(&mut bytes) {
        Ok(()) => u128::from_ne_bytes(bytes),
        Err(error) => panic!("{error}"),
    }
}
