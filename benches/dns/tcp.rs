//! The TCP client: one thread, 64 connections, one query in flight on each, as CoreDNS asks; every
//! answer checked. Connections are opened one after the other, each with a first answer, because
//! a server may hold few that wait to be accepted.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portolan::clock::now;
use rustix::event::epoll;

use crate::options::Load;
use crate::tally::{Figures, Tally};

const CONNECTIONS: usize = 64;
/// Longest frame here.
const OCTETS: usize = 514;
/// Nothing takes longer, unless it is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection with one query in flight.
struct Connection {
    stream: TcpStream,
    question: usize,
    asked: Instant,
    /// What has come of the answer: a frame of two octets of length and the message.
    frame: [u8; OCTETS],
    have: usize,
}

/// Asks, and tells how it went.
pub(crate) fn run(load: &Load) -> io::Result<Figures> {
    let mut tally = Tally::new(&load.names)?;
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS as u64 {
        let connection = Connection::open(load, &mut tally)?;
        let data = epoll::EventData::new_u64(number);
        epoll::add(&ready, &connection.stream, data, epoll::EventFlags::IN)?;
        connections.push(connection);
    }
    let begun = now();
    let end = begun + Duration::from_secs(load.seconds.into());
    for connection in &mut connections {
        connection.ask(&mut tally, begun)?;
    }
    let mut waiting = connections.len();
    let patience = rustix::event::Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    let mut events = Vec::with_capacity(CONNECTIONS);
    while waiting > 0 {
        events.clear();
        epoll::wait(&ready, rustix::buffer::spare_capacity(&mut events), Some(&patience))?;
        if events.is_empty() {
            tally.lost += waiting as u64;
            break;
        }
        for event in &events {
            let number = usize::try_from(event.data.u64()).expect("one of the connections");
            let connection = &mut connections[number];
            if !connection.hear(&mut tally)? {
                continue;
            }
            let time = now();
            if time < end {
                connection.ask(&mut tally, time)?;
            } else {
                waiting -= 1;
            }
        }
    }
    Ok(tally.figures(now() - begun))
}

impl Connection {
    /// Connects, and is answered once.
    fn open(load: &Load, tally: &mut Tally) -> io::Result<Self> {
        let stream = TcpStream::connect(load.target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (asked, frame) = (now(), [0; OCTETS]);
        let mut connection = Self { stream, question: 0, asked, frame, have: 0 };
        connection.ask(tally, asked)?;
        while !connection.hear(tally)? {}
        connection.stream.set_nonblocking(true)?;
        Ok(connection)
    }

    /// Asks the next question. What is in flight is far below what a socket holds.
    fn ask(&mut self, tally: &mut Tally, time: Instant) -> io::Result<()> {
        self.question = tally.draw();
        self.asked = time;
        let octets = tally.octets(self.question);
        let mut frame = [0; OCTETS];
        let length = u16::try_from(octets.len()).expect("a short question");
        frame[..2].copy_from_slice(&length.to_be_bytes());
        frame[2..2 + octets.len()].copy_from_slice(octets);
        self.stream.write_all(&frame[..2 + octets.len()])
    }

    /// Reads; true once the answer is there, and right.
    fn hear(&mut self, tally: &mut Tally) -> io::Result<bool> {
        match self.stream.read(&mut self.frame[self.have..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.have += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let length = 2 + usize::from(u16::from_be_bytes([self.frame[0], self.frame[1]]));
        if self.have < 2 || self.have < length {
            return Ok(false);
        }
        if self.have > length {
            return Err(io::Error::other("more than one answer to one query"));
        }
        self.have = 0;
        let took = now().saturating_duration_since(self.asked);
        tally.take(self.question, &self.frame[2..length], took)?;
        Ok(true)
    }
}
