//! One listener for clients' datagrams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::carry::LOOK_EVERY;
use super::ear::{Beside, Ear};
use super::imports::{Door, Wanted};
use crate::gateway::Shared;
use crate::gateway::listeners::{Serves, Task};
use crate::gateway::memory::with_scratch;

/// Datagrams heard in one turn.
const BATCH: usize = 32;
/// Pause after an error of the socket, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Binds the listener; the task that serves it until it is told to stop. While the gateway drains
/// it serves on until its sessions are over.
pub(super) fn listen(
    shared: &Arc<Shared>,
    address: SocketAddr,
    (callee, port): Serves,
    stop: CancellationToken,
) -> io::Result<Task> {
    let door = Arc::new(Door { ear: Ear::bind(address)?, callee, port });
    Ok(Box::pin(serve(Arc::clone(shared), door, stop)))
}

async fn serve(shared: Arc<Shared>, door: Arc<Door>, stop: CancellationToken) {
    let mut searches = JoinSet::new();
    let mut beside = Beside::default();
    let mut stopping = false;
    loop {
        tokio::select! {
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                let imports = &shared.udp.imports;
                if !(imports.is_draining() && imports.has_any(door.ear.number)) {
                    break;
                }
            }
            () = shared.forced.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY), if stopping => {
                if !shared.udp.imports.has_any(door.ear.number) {
                    break;
                }
            }
            Some(ended) = searches.join_next() => shared.note_panic(ended),
            ready = door.ear.readable() => {
                let heard = ready.and_then(|()| batch(&shared, &door, &mut beside));
                match heard {
                    Ok(wanted) => for wanted in wanted {
                        searches.spawn(Arc::clone(&shared).open_session(wanted));
                    },
                    Err(error) => {
                        tracing::debug!(service = %door.callee, %error, "cannot hear clients");
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                }
            }
        }
    }
    shared.close_door(door.ear.number);
    searches.shutdown().await;
}

/// Hears what is there without waiting; the sessions that are to be opened.
fn batch(shared: &Shared, door: &Arc<Door>, beside: &mut Beside) -> io::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    with_scratch(|scratch| {
        for _ in 0..BATCH {
            match door.ear.hear(scratch, beside) {
                Ok(heard) => wanted.extend(shared.hear(door, heard, &scratch[..heard.octets])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    Ok(wanted)
}
