//! The control messages (`portolan-control/1`): catalogs and notices between gateways.
//!
//! Every message is one [`Envelope`], encoded by prost and preceded by its length as a varint.
//! The dialer of a session subscribes, the acceptor publishes; both begin with [`Hello`]. A
//! catalog travels as a set of *records*, each an encoded [`Record`] kept as opaque bytes by the
//! messages that carry it: a record that cannot be read refuses only itself, and the digest of a
//! catalog is over exactly the bytes that travelled, so that fields added by a newer peer do not
//! upset it.
//!
//! Invariants: tags are never used twice and never change their meaning; what is not known is
//! skipped (an unknown message decodes to no body, an unknown field is dropped) and reported so
//! that it can be counted; a message over [`MAX_MESSAGE_BYTES`] is refused before it is buffered.
//! Not here: what the fields mean (`peering` parses them), digests, sockets.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use prost::Message;
use thiserror::Error;

use super::delimited::Delimited;

/// The oldest protocol version we speak.
pub const PROTOCOL_MIN: u32 = 1;
/// The newest protocol version we speak.
pub const PROTOCOL_MAX: u32 = 1;
/// Records are gathered into messages of at most this many bytes; a single record that is larger
/// travels alone.
pub const CHUNK_BYTES: usize = 32 * 1024;
/// The largest message that is read.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// The largest record that is sent: a message holding it alone stays well below the cap.
pub const MAX_RECORD_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// One message on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    /// What it says; absent when the sender is newer than we are.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub body: Option<Body>,
}

/// What a message says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// Who speaks; the first message both ways, and again when something in it changed.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Send me your catalog.
    #[prost(message, tag = "2")]
    Subscribe(Subscribe),
    /// You hold it already.
    #[prost(message, tag = "3")]
    Same(Same),
    /// A whole catalog begins.
    #[prost(message, tag = "4")]
    SnapshotBegin(SnapshotBegin),
    /// Some of its records.
    #[prost(message, tag = "5")]
    SnapshotChunk(SnapshotChunk),
    /// It is complete.
    #[prost(message, tag = "6")]
    SnapshotEnd(SnapshotEnd),
    /// What changed.
    #[prost(message, tag = "7")]
    Delta(Delta),
    /// What you should hold by now; sent every 30 s.
    #[prost(message, tag = "8")]
    Digest(Digest),
    /// Whether the publisher's source is synced.
    #[prost(message, tag = "9")]
    Synced(Synced),
    /// Whether the publisher drains.
    #[prost(message, tag = "10")]
    Drain(Drain),
}

impl Body {
    /// A name for logs and metrics: a closed set.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Subscribe(_) => "subscribe",
            Self::Same(_) => "same",
            Self::SnapshotBegin(_) => "snapshot_begin",
            Self::SnapshotChunk(_) => "snapshot_chunk",
            Self::SnapshotEnd(_) => "snapshot_end",
            Self::Delta(_) => "delta",
            Self::Digest(_) => "digest",
            Self::Synced(_) => "synced",
            Self::Drain(_) => "drain",
        }
    }
}

/// Who speaks.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// The oldest protocol version spoken.
    #[prost(uint32, tag = "1")]
    pub protocol_min: u32,
    /// The newest protocol version spoken.
    #[prost(uint32, tag = "2")]
    pub protocol_max: u32,
    /// The speaker's cluster; must be the certificate's.
    #[prost(string, tag = "3")]
    pub cluster: String,
    /// The speaker's replica id, random per start.
    #[prost(fixed64, tag = "4")]
    pub replica: u64,
    /// Optional abilities, one bit each; none is defined yet.
    #[prost(uint64, tag = "5")]
    pub features: u64,
    /// Where the speaker's cluster is reached, `host:port`.
    #[prost(string, repeated, tag = "6")]
    pub addresses: Vec<String>,
    /// The speaker's network; equal and non-empty on both sides means direct reach.
    #[prost(string, tag = "7")]
    pub network: String,
    /// The speaker's software version, for people.
    #[prost(string, tag = "8")]
    pub version: String,
    /// The live replicas of the speaker's cluster, its own included.
    #[prost(fixed64, repeated, tag = "9")]
    pub replicas: Vec<u64>,
    /// `topology.kubernetes.io/region` of the speaker's cluster; empty is unknown.
    #[prost(string, tag = "10")]
    pub region: String,
    /// `topology.kubernetes.io/zone` of the speaker's cluster; empty is unknown.
    #[prost(string, tag = "11")]
    pub zone: String,
}

/// Asks for the publisher's catalog, as far as this cluster may import it.
#[derive(Clone, PartialEq, Message)]
pub struct Subscribe {
    /// Digest of the catalog held; empty when none is.
    #[prost(bytes = "bytes", tag = "1")]
    pub digest: Bytes,
    /// The publisher's revision last seen; 0 when none was.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// The subscriber's digest is the publisher's: nothing is sent.
#[derive(Clone, PartialEq, Message)]
pub struct Same {
    /// That digest.
    #[prost(bytes = "bytes", tag = "1")]
    pub digest: Bytes,
    /// The publisher's revision.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// A whole catalog begins; it takes effect when it is complete.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotBegin {
    /// The publisher's revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// Some records of a snapshot.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotChunk {
    /// Encoded [`Record`]s.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub records: Vec<Bytes>,
}

/// A snapshot is complete.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotEnd {
    /// The publisher's revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Digest of all its records.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
}

/// What changed since the last revision; removals come first. A large change is several messages
/// of one revision and takes effect with the last.
#[derive(Clone, PartialEq, Message)]
pub struct Delta {
    /// The publisher's revision that this leads to.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Records that are gone.
    #[prost(message, repeated, tag = "2")]
    pub removals: Vec<Removal>,
    /// Encoded [`Record`]s that are new.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub upserts: Vec<Bytes>,
    /// Digest of the catalog with this applied; empty: more messages of this revision follow.
    #[prost(bytes = "bytes", tag = "4")]
    pub digest: Bytes,
}

/// A record that is gone. A changed record is a removal of the old and an upsert of the new.
#[derive(Clone, PartialEq, Message)]
pub struct Removal {
    /// The service's namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// The service's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// SHA-256 of the record's bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub hash: Bytes,
}

/// What the subscriber should hold.
#[derive(Clone, PartialEq, Message)]
pub struct Digest {
    /// Digest of all records sent.
    #[prost(bytes = "bytes", tag = "1")]
    pub digest: Bytes,
    /// The publisher's revision.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// Whether the publisher's own source is synced; until it is, the subscriber keeps what it has.
#[derive(Clone, PartialEq, Message)]
pub struct Synced {
    /// Whether.
    #[prost(bool, tag = "1")]
    pub synced: bool,
}

/// Whether the publisher is about to end.
#[derive(Clone, PartialEq, Message)]
pub struct Drain {
    /// Whether.
    #[prost(bool, tag = "1")]
    pub draining: bool,
}

/// One record of a catalog.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// What it describes; absent when the publisher is newer than we are.
    #[prost(oneof = "RecordBody", tags = "1, 2")]
    pub body: Option<RecordBody>,
}

/// What a record describes.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum RecordBody {
    /// One exported service, without its endpoints.
    #[prost(message, tag = "1")]
    Export(ExportRecord),
    /// One endpoint of an exported service, where endpoints travel at all.
    #[prost(message, tag = "2")]
    Endpoint(EndpointRecord),
}

/// One exported service.
#[derive(Clone, PartialEq, Message)]
pub struct ExportRecord {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The ServiceExport's creationTimestamp, Unix milliseconds.
    #[prost(int64, tag = "3")]
    pub created_ms: i64,
    /// Its type.
    #[prost(enumeration = "ServiceTypeCode", tag = "4")]
    pub service_type: i32,
    /// Its ports, in the Service's order.
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<PortRecord>,
    /// Session affinity by client address, forgotten after so many seconds; absent is none.
    #[prost(uint32, optional, tag = "6")]
    pub client_ip_timeout_seconds: Option<u32>,
    /// Its IP families, in order.
    #[prost(enumeration = "IpFamilyCode", repeated, tag = "7")]
    pub ip_families: Vec<i32>,
    /// `internalTrafficPolicy`, verbatim.
    #[prost(string, optional, tag = "8")]
    pub internal_traffic_policy: Option<String>,
    /// `trafficDistribution`, verbatim.
    #[prost(string, optional, tag = "9")]
    pub traffic_distribution: Option<String>,
    /// `exportedLabels`.
    #[prost(btree_map = "string, string", tag = "10")]
    pub labels: BTreeMap<String, String>,
    /// `exportedAnnotations`.
    #[prost(btree_map = "string, string", tag = "11")]
    pub annotations: BTreeMap<String, String>,
    /// What the `portolan.dev/*` annotations ask for.
    #[prost(message, optional, tag = "12")]
    pub settings: Option<SettingsRecord>,
}

/// One port of an exported service.
#[derive(Clone, PartialEq, Message)]
pub struct PortRecord {
    /// Its name; empty for an only, unnamed one.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its protocol.
    #[prost(enumeration = "ProtocolCode", tag = "2")]
    pub protocol: i32,
    /// Its number, 1 to 65535.
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// The application protocol hint.
    #[prost(string, optional, tag = "4")]
    pub app_protocol: Option<String>,
    /// Ready endpoints behind it.
    #[prost(uint32, tag = "5")]
    pub ready: u32,
}

/// The settings that travel with an export; a value that is not known is the default.
#[derive(Clone, PartialEq, Message)]
pub struct SettingsRecord {
    /// `policy`.
    #[prost(enumeration = "PolicyCode", tag = "1")]
    pub policy: i32,
    /// The clusters of `pinned`, in order.
    #[prost(string, repeated, tag = "2")]
    pub pinned: Vec<String>,
    /// `fence`.
    #[prost(enumeration = "FenceCode", tag = "3")]
    pub fence: i32,
    /// `dns`.
    #[prost(enumeration = "DnsCode", tag = "4")]
    pub dns: i32,
    /// `weight`, 0 to 1000; absent is the default.
    #[prost(uint32, optional, tag = "5")]
    pub weight: Option<u32>,
    /// `early-data`.
    #[prost(bool, tag = "6")]
    pub early_data: bool,
    /// `proxy-protocol`.
    #[prost(enumeration = "ProxyCode", tag = "7")]
    pub proxy_protocol: i32,
    /// `local`.
    #[prost(enumeration = "LocalCode", tag = "8")]
    pub local: i32,
    /// What the export takes at this moment, in percent; absent is all.
    #[prost(uint32, optional, tag = "9")]
    pub share: Option<u32>,
}

/// One endpoint of an exported service.
#[derive(Clone, PartialEq, Message)]
pub struct EndpointRecord {
    /// The service's namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// The service's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its address: 4 or 16 octets.
    #[prost(bytes = "bytes", tag = "3")]
    pub address: Bytes,
    /// The pod's hostname.
    #[prost(string, optional, tag = "4")]
    pub hostname: Option<String>,
    /// The Service ports it serves.
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<PortRef>,
}

/// A Service port by what identifies it.
#[derive(Clone, PartialEq, Message)]
pub struct PortRef {
    /// Its protocol.
    #[prost(enumeration = "ProtocolCode", tag = "1")]
    pub protocol: i32,
    /// Its number, 1 to 65535.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Where it is at the endpoint's address, 1 to 65535; 0 is not said.
    #[prost(uint32, tag = "3")]
    pub target: u32,
}

macro_rules! code {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
        #[repr(i32)]
        pub enum $name {
            /// Not given, or given by a newer peer in a way we do not know.
            Unknown = 0,
            $($(#[$variant_doc])* $variant = $value),*
        }
    };
}

code!(
    /// The type of an exported service.
    ServiceTypeCode {
        /// One address in front of all endpoints.
        ClusterSetIp = 1,
        /// No address of its own.
        Headless = 2,
    }
);
code!(
    /// A transport protocol.
    ProtocolCode {
        /// TCP.
        Tcp = 1,
        /// UDP.
        Udp = 2,
        /// SCTP.
        Sctp = 3,
    }
);
code!(
    /// An IP family.
    IpFamilyCode {
        /// IPv4.
        V4 = 1,
        /// IPv6.
        V6 = 2,
    }
);
code!(
    /// How candidates are ordered.
    PolicyCode {
        /// By measured round-trip time.
        Nearest = 1,
        /// The own cluster only.
        Local = 2,
        /// By weight.
        Weighted = 3,
        /// In a given order.
        Pinned = 4,
    }
);
code!(
    /// What a call may not leave.
    FenceCode {
        /// Anywhere.
        None = 1,
        /// The same region.
        Region = 2,
        /// The same region and zone.
        Zone = 3,
    }
);
code!(
    /// What a name resolves to.
    DnsCode {
        /// The clusterset address.
        Vip = 1,
        /// The nearest endpoints.
        Endpoints = 2,
    }
);
code!(
    /// The PROXY protocol spoken to the backend.
    ProxyCode {
        /// None.
        None = 1,
        /// Version 2.
        V2 = 2,
    }
);
code!(
    /// Whether local traffic passes the gateway.
    LocalCode {
        /// No.
        Direct = 1,
        /// Yes.
        Gateway = 2,
    }
);

/// Why bytes were refused; the session ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The announced length is over the cap.
    #[error(
        "a control message announces more than {MAX_MESSAGE_BYTES} bytes; is the peer one of ours?"
    )]
    TooLong,
    /// The bytes are no message.
    #[error("a control message cannot be decoded ({0}); is the peer one of ours?")]
    Malformed(#[source] prost::DecodeError),
}

/// A message as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// What it says; `None` is a message we do not know, to be skipped and counted.
    pub body: Option<Body>,
    /// It held fields that we do not know, which were skipped.
    pub unknown_fields: bool,
    /// Its size in bytes, without the length prefix.
    pub size: usize,
}

/// Appends a message, its length before it.
pub fn encode(body: Body, out: &mut BytesMut) {
    let envelope = Envelope { body: Some(body) };
    envelope.encode_length_delimited(out).expect("a growing buffer always has room");
}

/// Cuts a stream of bytes into messages. Memory is bounded by the cap plus one read.
#[derive(Debug, Default)]
pub struct Decoder {
    messages: Delimited,
}

impl Decoder {
    /// Where the next bytes are to be appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.messages.buffer()
    }

    /// Takes the next whole message, if there is one. After an error nothing more can be read.
    pub fn next_message(&mut self) -> Result<Option<Received>, DecodeError> {
        let next = self.messages.next(MAX_MESSAGE_BYTES).map_err(|_| DecodeError::TooLong)?;
        let Some(raw) = next else { return Ok(None) };
        let length = raw.len();
        let envelope = Envelope::decode(raw).map_err(DecodeError::Malformed)?;
        // A known message encodes back to what was read unless something was skipped.
        let unknown_fields = envelope.body.is_some() && envelope.encoded_len() < length;
        Ok(Some(Received { body: envelope.body, unknown_fields, size: length }))
    }
}

/// Gathers records into groups of at most [`CHUNK_BYTES`]; a larger one stands alone.
pub fn chunks(records: impl IntoIterator<Item = Bytes>) -> impl Iterator<Item = Vec<Bytes>> {
    /// Tag and length octets of one record inside its message, at most.
    const OVERHEAD: usize = 6;
    let mut records = records.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut room = CHUNK_BYTES;
        let mut group = Vec::new();
        while let Some(next) =
            records.next_if(|record| group.is_empty() || record.len() + OVERHEAD <= room)
        {
            room = room.saturating_sub(next.len() + OVERHEAD);
            group.push(next);
        }
        (!group.is_empty()).then_some(group)
    })
}

#[cfg(test)]
mod tests;
