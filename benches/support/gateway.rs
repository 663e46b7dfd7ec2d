//! The real gateway as a process of its own.

use super::authority::Authority;
use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A running gateway, ended with this.
pub struct Gateway {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Gateway {
    /// Starts one whose files lie in `dir`, and waits until it listens and the authority knows it.
    pub async fn start(authority: &Authority, dir: &Path) -> Self {
        // Free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = authority.path("gateway.sock");
        let config = format!(
            "listen = [\"{address}\"]\nauthority_socket = \"{}\"\nhost_key = \"{}\"\nname = \"gateway-1\"\n\
             [limits]\nconnections_per_address = 4096\nunauthenticated_per_address = 4096\nconnections_per_account = 4096\nforwards_per_account = 4096\n\
             [penalties]\nenabled = false\n",
            socket.display(),
            dir.join("gateway_key").display()
        );
        let file = dir.join("gateway.toml");
        fs::write(&file, config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_certgated"))
            .args(["gateway", "--config"])
            .arg(&file)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("gateway.log")).unwrap())
            .spawn()
            .unwrap();
        let mut gateway = Self { child, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err()
            || !authority.operator(&["status", "--json"]).await.contains("\"gateway-1\"")
        {
            if gateway.child.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(30) {
                panic!("no gateway: {}", fs::read_to_string(dir.join("gateway.log")).unwrap());
            }
            sleep(Duration::from_millis(20));
        }
        gateway
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
