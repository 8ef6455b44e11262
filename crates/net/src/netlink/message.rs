//! One netlink message and its attributes, as bytes.

use nix::errno::Errno;

const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;

/// A request under construction: the netlink header, the family's own header, then attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
    tolerated: Option<Errno>,
}

impl Message {
    /// A request of the type `kind` whose family header is `header`.
    pub fn new(kind: u16, flags: i32, header: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(header);
        let mut message = Message { bytes, tolerated: None };
        message.pad();
        message
    }

    /// The one error that means that there was nothing to do: `EEXIST` of a creation, `ENOENT` of a removal.
    pub fn tolerating(mut self, error: Errno) -> Message {
        self.tolerated = Some(error);
        self
    }

    pub(super) fn tolerated(&self) -> Option<Errno> {
        self.tolerated
    }

    pub fn attr(mut self, kind: u16, data: impl AsRef<[u8]>) -> Message {
        self.push(kind, data.as_ref());
        self
    }

    /// A number in network order, as netfilter wants its numbers.
    pub fn be32(self, kind: u16, value: u32) -> Message {
        self.attr(kind, value.to_be_bytes())
    }

    /// A text with its closing zero.
    pub fn text(mut self, kind: u16, value: &str) -> Message {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end(start);
        self
    }

    /// An attribute that holds what `inside` writes: a header of another family, or attributes.
    pub fn nest(mut self, kind: u16, inside: impl FnOnce(Message) -> Message) -> Message {
        let start = self.begin(kind | NESTED);
        self = inside(self);
        self.end(start);
        self
    }

    /// Bytes as they are, padded.
    pub fn raw(mut self, data: &[u8]) -> Message {
        self.bytes.extend_from_slice(data);
        self.pad();
        self
    }

    fn push(&mut self, kind: u16, data: &[u8]) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(data);
        self.end(start);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).expect("callers split lists before 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// What follows the netlink header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// The finished message with its length, sequence number and further flags.
    pub(super) fn finish(mut self, sequence: u32, flags: i32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags as u16;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The attributes of a received payload, in order; what is cut off is left out.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let data = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & 0x3fff, data))
    })
}

/// The first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, data)| data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_ones_hold_their_length_without_the_padding() {
        let message = Message::new(1, 0, &[7]).attr(3, [1, 2, 3, 4, 5]).nest(4, |inner| inner.text(1, "ab").be32(2, 9));
        assert_eq!(
            message.payload(),
            [
                7, 0, 0, 0, 9, 0, 3, 0, 1, 2, 3, 4, 5, 0, 0, 0, 20, 0, 4, 0x80, 7, 0, 1, 0, b'a', b'b', 0, 0, 8, 0, 2,
                0, 0, 0, 0, 9
            ]
        );
        let nested = attribute(&message.payload()[4..], 4).unwrap();
        assert_eq!(attributes(nested).collect::<Vec<_>>(), [(1, &b"ab\0"[..]), (2, &[0, 0, 0, 9][..])]);
    }

    #[test]
    fn a_cut_off_attribute_is_left_out() {
        assert_eq!(attributes(&[8, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0, 1, 2, 3, 4]).count(), 0);
    }
}
