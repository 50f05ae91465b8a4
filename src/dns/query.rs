//! Reading a query: header, question, and the OPT record if there is one, with the client subnet
//! if it tells one.
//!
//! The reader walks the message once, from front to back, and never follows a compression
//! pointer. It reads as far as it can even in a malformed message, so that the error answer can
//! carry the question and an OPT record (RFC 6891, section 6.1.1).

use std::net::IpAddr;

use super::encode::{option, rtype};
use super::localities::Client;

/// Octets of a message's header.
pub(super) const HEADER_OCTETS: usize = 12;
/// Longest name on the wire, the root label included (RFC 1035, section 2.3.4).
pub(super) const MAX_NAME_OCTETS: usize = 255;
/// Octets of a question's type and class.
const TYPE_AND_CLASS: usize = 4;
/// QR and the opcode in the header's third octet.
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
/// Address families of RFC 7871 (those of the IANA).
const IPV4: u16 = 1;
const IPV6: u16 = 2;
/// Longest label.
const MAX_LABEL_OCTETS: u8 = 63;

/// What is wrong with a message, before anyone asks what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// An operation other than QUERY.
    Opcode,
    /// Not the format of RFC 1035 and RFC 6891.
    Format,
    /// An EDNS version that does not exist yet.
    EdnsVersion,
}

/// The question, as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'d> {
    /// Name, type and class, in the client's spelling.
    pub(super) octets: &'d [u8],
    /// The type.
    pub(super) qtype: u16,
    /// The class.
    pub(super) qclass: u16,
}

/// What the OPT record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientEdns {
    /// The largest UDP answer the client takes, octets.
    pub(super) payload: u16,
    /// The EDNS version it speaks.
    pub(super) version: u8,
    /// The DO bit.
    pub(super) dnssec_ok: bool,
}

/// A client subnet that the OPT record tells (RFC 7871).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet<'d> {
    /// Family, source prefix, scope and address, as they came.
    pub(super) octets: &'d [u8],
    /// Whom it stands for.
    pub(super) client: Client,
}

/// A message that must be answered.
#[derive(Debug)]
pub(super) struct Query<'d> {
    /// Its id.
    pub(super) id: u16,
    /// The header's third octet: opcode, RD.
    pub(super) flags: u8,
    /// Its question, where there is exactly one and it is well-formed.
    pub(super) asked: Option<Asked<'d>>,
    /// Its (first) OPT record.
    pub(super) edns: Option<ClientEdns>,
    /// The (first) client subnet that it tells.
    pub(super) subnet: Option<Subnet<'d>>,
    /// What is wrong with it.
    pub(super) fault: Option<Fault>,
}

impl<'d> Query<'d> {
    /// Reads a message; `None` for the only two that get no answer: fewer than 12 octets, and
    /// answers (QR set), which would make two servers talk to each other for ever.
    pub(super) fn read(message: &'d [u8]) -> Option<Self> {
        let header: &[u8; HEADER_OCTETS] = message.first_chunk()?;
        let [id0, id1, flags, _, counts @ ..] = *header;
        if flags & QR != 0 {
            return None;
        }
        let id = u16::from_be_bytes([id0, id1]);
        let count = |at: usize| u16::from_be_bytes([counts[2 * at], counts[2 * at + 1]]);
        let mut query = Self { id, flags, asked: None, edns: None, subnet: None, fault: None };
        let mut cursor = Cursor { octets: message, at: HEADER_OCTETS };
        let sound = query.read_questions(&mut cursor, count(0))
            && query.read_records(&mut cursor, count(1), Section::Other)
            && query.read_records(&mut cursor, count(2), Section::Other)
            && query.read_records(&mut cursor, count(3), Section::Additional)
            && cursor.at == message.len();
        query.fault = if flags & OPCODE != 0 {
            Some(Fault::Opcode)
        } else if !sound || query.asked.is_none() {
            Some(Fault::Format)
        } else if query.edns.is_some_and(|edns| edns.version > 0) {
            Some(Fault::EdnsVersion)
        } else {
            None
        };
        Some(query)
    }

    /// Skips all questions; keeps the question only if it is the only one (RFC 9619).
    fn read_questions(&mut self, cursor: &mut Cursor<'d>, count: u16) -> bool {
        for _ in 0..count {
            let start = cursor.at;
            let Some((qtype, qclass)) = cursor.question() else { return false };
            let octets = &cursor.octets[start..cursor.at];
            self.asked = (count == 1).then_some(Asked { octets, qtype, qclass });
        }
        true
    }

    /// Skips the records of a section; false where the section is malformed.
    fn read_records(&mut self, cursor: &mut Cursor<'d>, count: u16, section: Section) -> bool {
        (0..count).all(|_| self.read_record(cursor, section).is_some())
    }

    /// One record. An OPT is noted as soon as its fixed part is read, so that a malformed one is
    /// answered with an OPT too.
    fn read_record(&mut self, cursor: &mut Cursor<'d>, section: Section) -> Option<()> {
        let owner = cursor.owner()?;
        let rtype = cursor.u16()?;
        let class = cursor.u16()?;
        let [_extended_rcode, version, flags, _] = cursor.take(4)? else { return None };
        let opt = rtype == rtype::OPT;
        let first = self.edns.is_none();
        if opt && first {
            let dnssec_ok = flags & 0x80 != 0;
            self.edns = Some(ClientEdns { payload: class, version: *version, dnssec_ok });
        }
        let length = cursor.u16()?;
        let data = cursor.take(usize::from(length))?;
        if !opt {
            return Some(());
        }
        let placed = first && owner == Owner::Root && section == Section::Additional;
        if placed { self.read_options(data) } else { None }
    }

    /// EDNS options are {code, length, data} to the last octet; of what they say only the client
    /// subnet is looked at.
    fn read_options(&mut self, mut data: &'d [u8]) -> Option<()> {
        while let Some(([code0, code1, high, low], rest)) = data.split_first_chunk() {
            let (inside, rest) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
            if u16::from_be_bytes([*code0, *code1]) == option::CLIENT_SUBNET {
                let subnet = Subnet::read(inside)?;
                self.subnet = self.subnet.or(subnet);
            }
            data = rest;
        }
        data.is_empty().then_some(())
    }
}

impl<'d> Asked<'d> {
    /// The name, with the root label.
    pub(super) fn name(&self) -> &'d [u8] {
        &self.octets[..self.octets.len() - TYPE_AND_CLASS]
    }
}

/// Where a record stands; OPT belongs into the additional section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Additional,
    Other,
}

/// A record's owner as far as anyone cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Root,
    Name,
}

impl<'d> Subnet<'d> {
    /// `None` is malformed (RFC 7871, sections 6 and 7.1.2: a scope in a query, an address longer
    /// or shorter than its prefix needs, bits beyond it); `Some(None)` of a family that nobody
    /// knows.
    fn read(octets: &'d [u8]) -> Option<Option<Self>> {
        let ([family0, family1, known, scope], told) = octets.split_first_chunk()?;
        let family = u16::from_be_bytes([*family0, *family1]);
        let most = match family {
            IPV4 => 4,
            IPV6 => 16,
            _ => return Some(None),
        };
        let bits = usize::from(*known);
        let beyond = |last: &u8| bits % 8 != 0 && last << (bits % 8) != 0;
        if *scope != 0
            || told.len() > most
            || told.len() != bits.div_ceil(8)
            || told.last().is_some_and(beyond)
        {
            return None;
        }
        let mut address = [0; 16];
        address[..told.len()].copy_from_slice(told);
        let [v0, v1, v2, v3, ..] = address;
        let address =
            if family == IPV4 { IpAddr::from([v0, v1, v2, v3]) } else { IpAddr::from(address) };
        Some(Some(Self { octets, client: Client { address, known: *known } }))
    }
}

/// A place in a message.
struct Cursor<'d> {
    octets: &'d [u8],
    at: usize,
}

impl<'d> Cursor<'d> {
    fn take(&mut self, count: usize) -> Option<&'d [u8]> {
        let taken = self.octets.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    }

    /// A question's type and class; its name must be written out.
    fn question(&mut self) -> Option<(u16, u16)> {
        let start = self.at;
        loop {
            let length = self.u8()?;
            if length > MAX_LABEL_OCTETS {
                return None;
            }
            self.take(usize::from(length))?;
            if self.at - start > MAX_NAME_OCTETS {
                return None;
            }
            if length == 0 {
                break;
            }
        }
        Some((self.u16()?, self.u16()?))
    }

    /// Skips a record's owner; a pointer ends it and is not followed.
    fn owner(&mut self) -> Option<Owner> {
        let start = self.at;
        loop {
            let length = self.u8()?;
            match length {
                0 if self.at == start + 1 => return Some(Owner::Root),
                0 => return Some(Owner::Name),
                1..=MAX_LABEL_OCTETS => {
                    self.take(usize::from(length))?;
                }
                0xC0.. => {
                    self.u8()?;
                    return Some(Owner::Name);
                }
                _ => return None,
            }
            if self.at - start > MAX_NAME_OCTETS {
                return None;
            }
        }
    }
}
