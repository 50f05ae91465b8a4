//! The UDP client: one thread that never sleeps, 16 sockets, batches of datagrams, every answer
//! checked. Closed loop: 128 queries outstanding, a socket asks again when half of its own were
//! answered. Open loop: a query at each instant it is due, and its time counts from then.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};
use portolan::clock::now;

use crate::options::Load;
use crate::tally::{Figures, Tally};

const SOCKETS: usize = 16;
/// Queries outstanding on a socket: closed loop, open loop.
const WINDOW: usize = 8;
const OPEN_WINDOW: usize = 4096;
/// Most datagrams read or written at once.
const BATCH: usize = 32;
/// Longest question or answer here.
const OCTETS: usize = 512;
/// The receive buffer asked for.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Queries without any answer for so long are lost.
const SILENCE: Duration = Duration::from_millis(200);

/// Asks, and tells how it went.
pub(crate) fn run(load: &Load) -> io::Result<Figures> {
    let window = if load.rate.is_some() { OPEN_WINDOW } else { WINDOW };
    let lanes = (0..SOCKETS).map(|_| Lane::new(load, window)).collect::<io::Result<_>>()?;
    let mut client = Client { lanes, tally: Tally::new(&load.names)? };
    let length = Duration::from_secs(load.seconds.into());
    let begun = now();
    match load.rate {
        None => client.closed(begun + length)?,
        Some(rate) => client.open(begun, rate, rate * load.seconds)?,
    }
    Ok(client.tally.figures(now() - begun))
}

struct Client {
    lanes: Vec<Lane>,
    tally: Tally,
}

/// One socket.
struct Lane {
    socket: UdpSocket,
    /// A message's id modulo the number of slots is its slot.
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// When something was last heard here, or first asked.
    heard: Instant,
    headers: [MultiHeaders<()>; 2],
    buffers: Box<[[u8; OCTETS]; BATCH]>,
}

#[derive(Clone, Copy)]
struct Slot {
    id: u16,
    is_open: bool,
    question: usize,
    due: Instant,
}

impl Client {
    fn closed(&mut self, end: Instant) -> io::Result<()> {
        loop {
            let mut is_idle = true;
            for lane in &mut self.lanes {
                lane.receive(&mut self.tally)?;
                let time = now();
                if time < end && lane.free.len() * 2 >= lane.slots.len() {
                    lane.send(&mut self.tally, lane.free.len(), time)?;
                }
                lane.give_up(&mut self.tally, time);
                is_idle &= lane.is_idle() && time >= end;
            }
            if is_idle {
                return Ok(());
            }
        }
    }

    fn open(&mut self, begun: Instant, rate: u32, total: u32) -> io::Result<()> {
        let gap = Duration::from_secs(1) / rate;
        let (mut sent, mut looked) = (0, 0);
        loop {
            let time = now();
            while sent < total && begun + gap * sent <= time {
                let lane = sent as usize % SOCKETS;
                self.lanes[lane].send(&mut self.tally, 1, begun + gap * sent)?;
                sent += 1;
            }
            // Only where something is to come, so that an answer is seen at once.
            let waiting = (0..SOCKETS).map(|after| (looked + after) % SOCKETS);
            let Some(lane) = waiting.into_iter().find(|lane| !self.lanes[*lane].is_idle()) else {
                if sent == total {
                    return Ok(());
                }
                continue;
            };
            looked = lane + 1;
            self.lanes[lane].receive(&mut self.tally)?;
            if sent == total {
                self.lanes[lane].give_up(&mut self.tally, time);
            }
        }
    }
}

impl Lane {
    fn new(load: &Load, window: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(load.target)?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
        let count = u16::try_from(window).expect("few slots");
        let slot = |id| Slot { id, is_open: false, question: 0, due: now() };
        Ok(Self {
            socket,
            slots: (0..count).map(slot).collect(),
            free: (0..count).collect(),
            heard: now(),
            headers: [0; 2].map(|_| MultiHeaders::preallocate(BATCH, None)),
            buffers: Box::new([[0; OCTETS]; BATCH]),
        })
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Asks the next `count` questions, due at `due`. Those for which no slot is left are lost.
    fn send(&mut self, tally: &mut Tally, count: usize, due: Instant) -> io::Result<()> {
        if self.is_idle() {
            self.heard = due;
        }
        let wanted = count.min(BATCH);
        let mut lengths = [0; BATCH];
        let mut ready = 0;
        for (buffer, length) in self.buffers.iter_mut().zip(&mut lengths).take(wanted) {
            let Some(place) = self.free.pop() else {
                tally.lost += 1;
                continue;
            };
            let slots = self.slots.len();
            let slot = &mut self.slots[usize::from(place)];
            let question = tally.draw();
            // Another id each time, in the same slot.
            let id = slot.id.wrapping_add(u16::try_from(slots).expect("few slots"));
            *slot = Slot { id, is_open: true, question, due };
            let octets = tally.octets(question);
            buffer[..octets.len()].copy_from_slice(octets);
            buffer[..2].copy_from_slice(&id.to_be_bytes());
            *length = octets.len();
            ready += 1;
        }
        let mut done = 0;
        while done < ready {
            let each: [_; BATCH] = std::array::from_fn(|place| {
                let place = (done + place).min(BATCH - 1);
                [IoSlice::new(&self.buffers[place][..lengths[place]])]
            });
            let none = [None::<()>; BATCH];
            let headers = &mut self.headers[0];
            let flags = MsgFlags::empty();
            let fd = self.socket.as_raw_fd();
            let sent = sendmmsg(fd, headers, &each, &none[done..ready], [], flags);
            done += sent?.count();
        }
        Ok(())
    }

    /// Takes what has come.
    fn receive(&mut self, tally: &mut Tally) -> io::Result<()> {
        let mut lengths = [0; BATCH];
        let mut count = 0;
        {
            let mut each = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
            let headers = &mut self.headers[1];
            let fd = self.socket.as_raw_fd();
            match recvmmsg(fd, headers, &mut each, MsgFlags::MSG_DONTWAIT, None) {
                Ok(messages) => {
                    for message in messages {
                        lengths[count] = message.bytes;
                        count += 1;
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let time = now();
        for (buffer, length) in self.buffers.iter().zip(lengths).take(count) {
            let answer = &buffer[..length];
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            let place = usize::from(id) % self.slots.len();
            let slot = &mut self.slots[place];
            // One given up before may come late.
            if slot.id != id || !slot.is_open {
                continue;
            }
            tally.take(slot.question, answer, time.saturating_duration_since(slot.due))?;
            slot.is_open = false;
            self.free.push(u16::try_from(place).expect("few slots"));
            self.heard = time;
        }
        Ok(())
    }

    /// Counts what is outstanding as lost if nothing was heard for too long.
    fn give_up(&mut self, tally: &mut Tally, time: Instant) {
        if self.is_idle() || time.saturating_duration_since(self.heard) < SILENCE {
            return;
        }
        for (slot, place) in self.slots.iter_mut().zip(0..) {
            if slot.is_open {
                slot.is_open = false;
                self.free.push(place);
                tally.lost += 1;
            }
        }
    }
}
