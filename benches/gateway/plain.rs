//! One half of the plain relay pair: what moving bytes costs without TLS, frames, authorisation
//! or metrics. It is what a careful program does and no more: one scratch buffer per thread, a
//! direction is read only while nothing of it waits to be written.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::backend;

const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Relays every listener to its target until killed.
pub(crate) async fn serve(maps: Vec<(SocketAddr, SocketAddr)>) -> io::Result<()> {
    let mut loops = JoinSet::new();
    for (address, target) in maps {
        let listener = backend::listen(address)?;
        loops.spawn(async move {
            let mut streams = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((client, _)) = listener.accept() => {
                        streams.spawn(async move { drop(relay(client, target).await) });
                    }
                    Some(_) = streams.join_next() => {}
                }
            }
        });
    }
    crate::say("ready")?;
    while loops.join_next().await.is_some() {}
    Ok(())
}

async fn relay(client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (Half::default(), Half::default());
    poll_fn(|cx| {
        let upward = up.poll(cx, &client, &server)?;
        let downward = down.poll(cx, &server, &client)?;
        match (upward, downward) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Half {
    pending: Vec<u8>,
    taken: usize,
    finished: bool,
}

impl Half {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<io::Result<()>> {
        while !self.finished {
            while self.taken < self.pending.len() {
                ready!(to.poll_write_ready(cx))?;
                match to.try_write(&self.pending[self.taken..]) {
                    Ok(count) => self.taken += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            self.pending = Vec::new();
            self.taken = 0;
            ready!(from.poll_read_ready(cx))?;
            BUFFER.with_borrow_mut(|buffer| self.step(from, to, buffer))?;
        }
        Poll::Ready(Ok(()))
    }

    fn step(&mut self, from: &TcpStream, to: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        let count = match from.try_read(buffer) {
            Ok(0) => {
                self.finished = true;
                return SockRef::from(to).shutdown(Shutdown::Write);
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let written = match to.try_write(&buffer[..count]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < count {
            self.pending = buffer[written..count].to_vec();
        }
        Ok(())
    }
}
