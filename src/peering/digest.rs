//! The digest of a catalog: the sum of the SHA-256 of its records, kept up as they come and go.
//!
//! A sum does not depend on the order, and what was added can be taken away again, so a change
//! costs its own records only. The four lanes do not carry into one another. A publisher that
//! forged a collision would fool its subscriber only about itself.

use std::fmt;

use bytes::Bytes;

/// SHA-256 of one record's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RecordHash([u8; 32]);

impl RecordHash {
    /// Of the bytes as they travel.
    pub(super) fn of(record: &[u8]) -> Self {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, record);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 octets"))
    }

    /// From a message.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn lanes(self) -> [u64; 4] {
        let mut lanes = [0; 4];
        for (lane, octets) in lanes.iter_mut().zip(self.0.chunks_exact(8)) {
            *lane = u64::from_be_bytes(octets.try_into().expect("chunks of eight"));
        }
        lanes
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.lanes()[0])
    }
}

/// The digest of a set of records; the default is that of none.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CatalogDigest([u64; 4]);

impl CatalogDigest {
    pub(super) fn add(&mut self, record: RecordHash) {
        for (lane, term) in self.0.iter_mut().zip(record.lanes()) {
            *lane = lane.wrapping_add(term);
        }
    }

    pub(super) fn remove(&mut self, record: RecordHash) {
        for (lane, term) in self.0.iter_mut().zip(record.lanes()) {
            *lane = lane.wrapping_sub(term);
        }
    }

    /// As it travels: 32 octets.
    pub(super) fn to_bytes(self) -> Bytes {
        self.0.iter().flat_map(|lane| lane.to_be_bytes()).collect()
    }
}

impl fmt::Debug for CatalogDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0[0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(records: &[Vec<u8>]) -> CatalogDigest {
        let mut digest = CatalogDigest::default();
        records.iter().for_each(|record| digest.add(RecordHash::of(record)));
        digest
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_removal_undoes(
            (records, shuffled) in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 0..12)
                .prop_flat_map(|records| (Just(records.clone()), Just(records).prop_shuffle())),
            extra in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut sum = digest(&records);
            prop_assert_eq!(sum, digest(&shuffled));
            sum.add(RecordHash::of(&extra));
            prop_assert_ne!(sum, digest(&records));
            sum.remove(RecordHash::of(&extra));
            prop_assert_eq!(sum, digest(&records));
        }
    }

    #[test]
    fn it_travels_as_32_octets() {
        assert_eq!(CatalogDigest::default().to_bytes().as_ref(), [0; 32]);
        let one = RecordHash::of(b"record");
        let mut digest = CatalogDigest::default();
        digest.add(one);
        assert_eq!(digest.to_bytes(), one.to_bytes());
        assert_eq!(RecordHash::parse(&one.to_bytes()), Some(one));
        assert_eq!(RecordHash::parse(b"short"), None);
    }
}
