//! A peer that follows a script on each connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::sites::Mesh;
use crate::drain::{self, Trigger};
use crate::gateway::conn::Conn;
use crate::gateway::role::Event;
use crate::model::ReplicaId;
use crate::tls::{Handlers, Limits, Listener};
use crate::wire::frame::{
    Acceptor, Control, MAX_PAYLOAD, Ready, Reply, Reset, ResetReason, Verdict,
};

/// What a fake peer does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Ends it before `READY`.
    CloseBeforeReady,
    /// Says nothing at all.
    Mute,
    /// Says `READY`, then ends it.
    CloseAfterReady,
    /// Says `READY`, reads the `OPEN`, then ends it.
    CloseAfterOpen,
    /// Says `READY` and nothing more.
    SilentAfterReady,
    /// Resets the stream before a `REPLY`.
    ResetAfterOpen,
    /// Refuses.
    Refuse(Verdict),
    /// Sends half a `REPLY`, then ends it.
    HalfAReply,
    /// Sends what is no frame.
    Nonsense,
    /// Accepts only after this time, with some payload and a FIN, and reads nothing meanwhile.
    AcceptLate(Duration),
    /// Accepts, sends these octets, then ends it without FIN.
    AcceptThenVanish(&'static [u8]),
    /// Accepts, sends so many whole frames and its FIN, and leaves in order.
    SayAndLeave(usize),
    /// Where early data is announced, gives it back and accepts only then; else accepts at once
    /// and gives back the first octets.
    GiveBack,
}

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    pub(super) replica: ReplicaId,
    /// The scripts that were played, one for each `OPEN` or connection.
    pub(super) played: mpsc::Receiver<()>,
    /// Streams that announced early data.
    pub(super) early: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
    _trigger: Trigger,
}

impl Fake {
    pub(super) fn start(mesh: &Mesh, name: &str, script: Script) -> Self {
        let trust = mesh.trust(name);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(any, trust, Limits::default()).unwrap();
        let address = listener.local_addr();
        let (trigger, drain) = drain::channel();
        let (control, _) = mpsc::channel(1);
        let (data, mut accepted) = mpsc::channel(64);
        let (play, played) = mpsc::channel(1024);
        let replica = ReplicaId::from_u64(rand::random());
        let early = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&early);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            listener.run(Handlers { control, data, sibling: None }, drain).await.unwrap();
        });
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(connection) = accepted.recv().await {
                let expiry = connection.peer.expires();
                let conn = Conn::new(connection.stream, connection.peer, connection.remote, expiry);
                let counts = (play.clone(), Arc::clone(&counted));
                connections.spawn(follow(script, conn, replica, counts));
            }
        });
        Self { address, replica, played, early, _tasks: tasks, _trigger: trigger }
    }
}

async fn say_and_leave(mut conn: Conn<Acceptor>, frames: usize) {
    let reply = conn.role().reply(Verdict::Accepted);
    conn.queue_some(reply);
    for _ in 0..frames {
        conn.queue_payload(&[7; MAX_PAYLOAD]);
    }
    let fin = conn.role().fin();
    conn.queue_some(fin);
    conn.flush().await.unwrap();
    conn.close().await;
}

async fn follow(
    script: Script,
    mut conn: Conn<Acceptor>,
    replica: ReplicaId,
    (play, early): (mpsc::Sender<()>, Arc<AtomicU32>),
) {
    // A full queue means that nobody counts.
    let played = || play.try_send(()).unwrap_or(());
    match script {
        Script::CloseBeforeReady => return played(),
        Script::Mute => {
            played();
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    conn.queue(&Control::Ready(Ready { replica }));
    conn.flush().await.unwrap();
    if script == Script::CloseAfterReady {
        return played();
    }
    let mut payload = Vec::new();
    while let Ok(event) = conn.event(&mut payload).await {
        let Event::Open(open) = event else { continue };
        early.fetch_add(u32::from(open.early), Ordering::Relaxed);
        played();
        let stream = open.stream;
        match script {
            Script::CloseAfterOpen => return,
            Script::SilentAfterReady => std::future::pending::<()>().await,
            Script::ResetAfterOpen => {
                let reason = ResetReason::Aborted;
                conn.queue(&Control::Reset(Reset { stream, reason }));
                return conn.close().await;
            }
            Script::Refuse(verdict) => {
                let reply = conn.role().reply(verdict);
                conn.queue_some(reply);
            }
            Script::HalfAReply => {
                let mut whole = Vec::new();
                let verdict = Verdict::Accepted;
                Control::Reply(Reply { stream, verdict }).encode(&mut whole);
                conn.queue_raw(&whole[..whole.len() - 1]);
                return conn.close().await;
            }
            Script::Nonsense => {
                conn.queue_raw(&[0xbf, 0xff, 0xff, 0xff]);
                return conn.close().await;
            }
            Script::AcceptLate(time) => {
                tokio::time::sleep(time).await;
                let reply = conn.role().reply(Verdict::Accepted);
                conn.queue_some(reply);
                conn.queue_payload(b"too late");
                let fin = conn.role().fin();
                conn.queue_some(fin);
            }
            Script::AcceptThenVanish(octets) => {
                let reply = conn.role().reply(Verdict::Accepted);
                conn.queue_some(reply);
                conn.queue_payload(octets);
                return conn.close().await;
            }
            Script::SayAndLeave(frames) => {
                say_and_leave(conn, frames).await;
                return played();
            }
            Script::GiveBack => {
                let accepted = if open.early { None } else { conn.role().reply(Verdict::Accepted) };
                conn.queue_some(accepted);
                payload.clear();
                while payload.is_empty() && conn.event(&mut payload).await.is_ok() {}
                let accepted = conn.role().reply(Verdict::Accepted);
                conn.queue_some(accepted);
                conn.queue_payload(&payload);
                let fin = conn.role().fin();
                conn.queue_some(fin);
            }
            Script::CloseBeforeReady | Script::Mute | Script::CloseAfterReady => {}
        }
    }
}
