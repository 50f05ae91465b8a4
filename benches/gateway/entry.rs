//! Waits until gateways serve: an agent that leads to services, or plain listeners.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use portolan::clock::now;
use portolan::commands::client::Admin;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Prints the addresses in the order asked for, as a JSON list, once each accepts clients.
pub(crate) async fn wait(admin: SocketAddr, services: &[String]) -> io::Result<()> {
    let admin = Admin::new(admin);
    let deadline = now() + PATIENCE;
    let mut found = Vec::new();
    for service in services {
        let (namespace, name) = service.split_once('/').expect("namespace/name");
        loop {
            if let Some(entry) = entry(&admin, &format!("{name}.{namespace}")).await {
                found.push(entry);
                break;
            }
            if now() >= deadline {
                let state = admin.state().await;
                return Err(io::Error::other(format!("{service} is not served: {state:#?}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    crate::say(&serde_json::to_string(&found).expect("addresses are JSON"))
}

/// Returns once every address accepts connections.
pub(crate) async fn accepting(addresses: &[SocketAddr]) -> io::Result<()> {
    let deadline = now() + PATIENCE;
    for address in addresses {
        while let Err(error) = TcpStream::connect(address).await {
            if now() >= deadline {
                return Err(io::Error::other(format!("{address}: {error}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

async fn entry(admin: &Admin, name: &str) -> Option<SocketAddr> {
    let service = admin.explain(name).await.ok()?;
    let first = service.candidates.first()?;
    if !first.usable || first.rtt_ms.is_none() {
        return None;
    }
    let at = SocketAddr::new(*service.ips.first()?, service.ports.first()?.port.get());
    TcpStream::connect(at).await.ok().map(|_| at)
}
