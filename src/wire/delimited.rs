//! Messages one after another, each preceded by its length as a varint.

use bytes::{Buf, Bytes, BytesMut};

/// A length prefix that needs more octets than this is over any cap.
const MAX_PREFIX_BYTES: usize = 5;

/// The announced length is over the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Cuts a stream of bytes at the lengths that it announces. Memory is bounded by the cap plus one
/// read.
#[derive(Debug, Default)]
pub(super) struct Delimited {
    buffer: BytesMut,
}

impl Delimited {
    /// Where the next bytes are to be appended.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Takes the next whole message of at most so many bytes, if there is one. After an error
    /// nothing more can be read.
    pub(super) fn next(&mut self, most: usize) -> Result<Option<Bytes>, TooLong> {
        let Some((prefix, length)) = self.length(most)? else {
            return Ok(None);
        };
        if self.buffer.len() - prefix < length {
            return Ok(None);
        }
        self.buffer.advance(prefix);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The length prefix: how many octets it takes, and what it says.
    fn length(&self, most: usize) -> Result<Option<(usize, usize)>, TooLong> {
        let mut value: u64 = 0;
        for (index, byte) in self.buffer.iter().take(MAX_PREFIX_BYTES).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let length = usize::try_from(value).map_err(|_| TooLong)?;
                return if length > most { Err(TooLong) } else { Ok(Some((index + 1, length))) };
            }
        }
        if self.buffer.len() >= MAX_PREFIX_BYTES { Err(TooLong) } else { Ok(None) }
    }
}
