//! Datagrams in batches: one `recvmmsg` takes up to 32, one `sendmmsg` answers them.
//!
//! An answer leaves from the address that was asked: what the kernel tells with a datagram
//! (`IP_PKTINFO`, where the socket asks for it) is told back with the answer.
//!
//! Invariants: everything the kernel writes to lies in one [`Arena`], allocated and laid out once
//! and reached only through one raw pointer, so no reference is alive while the kernel writes; an
//! answer that cannot be sent never holds up the others.
//!
//! The places for datagrams overlap: each begins [`SLOT_OCTETS`] after the one before, and may
//! reach to the end of the arena. So the longest datagram there is fits whole wherever it is the
//! last of its batch, at a tenth of the memory. One that others followed is cut, and says so.
//!
//! Not here: what is answered, when to stop, and who owns the socket.

#![allow(unsafe_code, reason = "safe interfaces lay their arrays out anew for every call")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use nix::libc;

/// Datagrams taken and answers sent with one call of the system, as it counts them.
const CALL: libc::c_uint = 32;
const BATCH: usize = CALL as usize;
/// Octets that fit wherever a datagram stands: several times a question with all its trimmings.
const SLOT_OCTETS: usize = 1024;
/// The longest datagram there is.
const MAX_DATAGRAM_OCTETS: usize = 65_535;
const PLACES_OCTETS: usize = (BATCH - 1) * SLOT_OCTETS + MAX_DATAGRAM_OCTETS;
/// Room made for an answer, octets: the most that is sent, and one record over that.
const ANSWER_OCTETS: usize = 1536;

/// What the kernel reads and writes.
#[repr(C)]
struct Arena {
    received: [libc::mmsghdr; BATCH],
    sent: [libc::mmsghdr; BATCH],
    places: [libc::iovec; BATCH],
    answers: [libc::iovec; BATCH],
    names: [Name; BATCH],
    controls: [Control; BATCH],
    octets: [u8; PLACES_OCTETS],
}

/// A socket's address of either family; that of IPv4 is the shorter.
type Name = libc::sockaddr_in6;
const NAME_OCTETS: libc::socklen_t = 28;
const _: () = assert!(size_of::<Name>() == NAME_OCTETS as usize);

/// The one control message there can be: an `in_pktinfo` or `in6_pktinfo`, by its header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    info: [u32; 5],
}

/// Whether to wait for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until there is one; those that are there too come with it.
    ForOne,
    /// Not at all: [`io::ErrorKind::WouldBlock`] if there is none.
    Not,
}

/// One datagram as it came.
pub(super) struct Datagram<'b> {
    /// Its octets, which nobody else needs any more.
    pub(super) octets: &'b mut [u8],
    /// Whether these are all; else the first [`SLOT_OCTETS`].
    pub(super) whole: bool,
    /// From whom.
    pub(super) source: IpAddr,
}

/// Up to [`BATCH`] datagrams and their answers. Stays on the thread that made it.
#[derive(Debug)]
pub(super) struct Batch {
    arena: *mut Arena,
    /// Datagrams in it.
    received: usize,
    /// Headers whose lengths a call has overwritten.
    written: usize,
    /// By datagram; empty: it gets none.
    answers: Vec<Vec<u8>>,
}

impl Batch {
    pub(super) fn new() -> Self {
        // SAFETY: an arena is integers and raw pointers, for which zero octets are a value.
        let arena = Box::into_raw(unsafe { Box::<Arena>::new_zeroed().assume_init() });
        for at in 0..BATCH {
            // SAFETY: `arena` is a live allocation that nobody else knows; `at` is within its
            // arrays, and place `at` begins within `octets` and ends there at the latest.
            unsafe {
                let place = (&raw mut (*arena).octets).cast::<u8>().add(at * SLOT_OCTETS);
                (*arena).places[at].iov_base = place.cast();
                (*arena).places[at].iov_len = MAX_DATAGRAM_OCTETS;
                let header = &raw mut (*arena).received[at].msg_hdr;
                (*header).msg_name = (&raw mut (*arena).names[at]).cast();
                (*header).msg_iov = &raw mut (*arena).places[at];
                (*header).msg_iovlen = 1;
                (*header).msg_control = (&raw mut (*arena).controls[at]).cast();
            }
        }
        let answers = (0..BATCH).map(|_| Vec::with_capacity(ANSWER_OCTETS)).collect();
        Self { arena, received: 0, written: BATCH, answers }
    }

    /// Takes what is there; how many datagrams. Those from before are forgotten, also on an error.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, wait: Wait) -> io::Result<usize> {
        for at in 0..self.written {
            // SAFETY: the arena is ours and `at` within it.
            unsafe {
                let header = &raw mut (*self.arena).received[at].msg_hdr;
                (*header).msg_namelen = NAME_OCTETS;
                (*header).msg_controllen = size_of::<Control>();
            }
        }
        (self.received, self.written) = (0, BATCH);
        let flags = if wait == Wait::Not { libc::MSG_DONTWAIT } else { libc::MSG_WAITFORONE };
        // SAFETY: there are BATCH headers, and each names memory of the arena with its true length.
        let count = unsafe {
            let headers = (&raw mut (*self.arena).received).cast();
            libc::recvmmsg(socket.as_raw_fd(), headers, CALL, flags, null_mut())
        };
        self.received = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.written = self.received;
        Ok(self.received)
    }

    /// Shows each datagram and the place of its answer; one left empty is not sent.
    pub(super) fn answer_each(&mut self, mut answer: impl FnMut(Datagram<'_>, &mut Vec<u8>)) {
        for (at, out) in self.answers.iter_mut().enumerate().take(self.received) {
            out.clear();
            let most = if at + 1 == self.received { MAX_DATAGRAM_OCTETS } else { SLOT_OCTETS };
            // SAFETY: `at` is below the number of datagrams received, so the kernel has filled all
            // this, and writes to it only in `receive`, which no datagram outlives. The place is
            // not shorter than `most`, and the next one begins behind that.
            let (name, heard, octets) = unsafe {
                let heard = (*self.arena).received[at];
                let place = (&raw mut (*self.arena).octets).cast::<u8>().add(at * SLOT_OCTETS);
                let octets =
                    std::slice::from_raw_parts_mut(place, most.min(heard.msg_len as usize));
                ((*self.arena).names[at], heard, octets)
            };
            // What wakes a closed socket is no datagram and has no source.
            let Some(source) = source(&name, heard.msg_hdr.msg_namelen) else { continue };
            let whole = heard.msg_len as usize <= most;
            answer(Datagram { octets, whole, source }, out);
        }
    }

    /// Sends the answers, each to where its question came from; how many could not be sent.
    #[allow(clippy::needless_pass_by_ref_mut, reason = "it writes to the arena")]
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let arena = self.arena;
        let mut count = 0;
        for (at, answer) in self.answers.iter().enumerate().take(self.received) {
            if answer.is_empty() {
                continue;
            }
            // SAFETY: the arena is ours, `count <= at` are within it, and `answer` stays as it is
            // until the call below has returned; the kernel only reads it.
            unsafe {
                let control = &mut (*arena).controls[at];
                control.turn();
                (*arena).answers[count].iov_base = answer.as_ptr().cast_mut().cast();
                (*arena).answers[count].iov_len = answer.len();
                let header = &raw mut (*arena).sent[count].msg_hdr;
                *header = (*arena).received[at].msg_hdr;
                (*header).msg_iov = &raw mut (*arena).answers[count];
            }
            count += 1;
        }
        deliver(count, |from| {
            // SAFETY: the headers up to `count` name memory of the arena and of the answers.
            let sent = unsafe {
                let headers = (&raw mut (*arena).sent).cast::<libc::mmsghdr>().add(from);
                let left = libc::c_uint::try_from(count - from).unwrap_or(0);
                libc::sendmmsg(socket.as_raw_fd(), headers, left, libc::MSG_DONTWAIT)
            };
            usize::try_from(sent).map_err(|_| io::Error::last_os_error())
        })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and nothing points into it any more.
        drop(unsafe { Box::from_raw(self.arena) });
    }
}

impl Control {
    /// What was told about a question, as it is told with the answer: the source, without the
    /// interface, since the way back may be another. Only a link-local address means nothing
    /// without one.
    fn turn(&mut self) {
        match (self.header.cmsg_level, self.header.cmsg_type) {
            // in_pktinfo: interface, the address that was asked, the header's.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => self.info[0] = 0,
            // in6_pktinfo: the address that was asked, interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let linked = u32::from_be(self.info[0]) & 0xFFC0_0000 == 0xFE80_0000;
                self.info[4] *= u32::from(linked);
            }
            _ => {}
        }
    }
}

/// The address in a name of that length.
fn source(name: &Name, length: libc::socklen_t) -> Option<IpAddr> {
    if length == 0 {
        return None;
    }
    match i32::from(name.sin6_family) {
        // An IPv4 address stands where this has the flow.
        libc::AF_INET => Some(Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes()).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(name.sin6_addr.s6_addr).into()),
        _ => None,
    }
}

/// Sends `count` messages by `send`, which is told where to begin and says how many went out, or
/// why the first did not. That one is left out: it has no route or is denied, or a queue is full,
/// and its client asks again; waiting would hold up all the others. How many were left out.
fn deliver(count: usize, mut send: impl FnMut(usize) -> io::Result<usize>) -> usize {
    let (mut at, mut failed) = (0, 0);
    while at < count {
        match send(at) {
            Ok(sent @ 1..) => at += sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => {
                at += 1;
                failed += 1;
            }
        }
    }
    failed
}

#[cfg(test)]
#[path = "tests/batch.rs"]
mod tests;
