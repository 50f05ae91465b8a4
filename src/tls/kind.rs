//! The kinds of connection that share the gateway port, told apart by ALPN.

/// What a connection is for. Exactly one is offered per dial and checked on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Catalogs: the dialer subscribes, the acceptor publishes.
    Control,
    /// One stream at a time, reused; probes too.
    Data,
    /// Datagrams.
    Udp,
    /// A connection parked by a cluster that has no inbound path.
    Park,
    /// Between replicas of one cluster.
    Sibling,
    /// Joining by token.
    Join,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Control, Self::Data, Self::Udp, Self::Park, Self::Sibling, Self::Join];

    /// Its ALPN protocol id, as on the wire.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        self.as_str().as_bytes()
    }

    /// Its ALPN protocol id, as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "portolan-control/1",
            Self::Data => "portolan-data/1",
            Self::Udp => "portolan-udp/1",
            Self::Park => "portolan-park/1",
            Self::Sibling => "portolan-sibling/1",
            Self::Join => "portolan-join/1",
        }
    }

    /// The kind of an ALPN protocol id.
    #[must_use]
    pub fn from_alpn(protocol: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.alpn() == protocol)
    }
}
