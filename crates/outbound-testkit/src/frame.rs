//! HTTP/2, frame by frame (RFC 9113, 4.1).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// One HTTP/2 frame: what a [`Script`](crate::Script) writes, and what it has read.
///
/// Nothing is checked: a frame can be as wrong as a test wants it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Bytes,
}

/// What a [`Frame`] is, by its number (RFC 9113, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKind(pub u8);

impl FrameKind {
    /// Content.
    pub const DATA: Self = Self(0);
    /// The fields that begin a request or response, or its trailers.
    pub const HEADERS: Self = Self(1);
    /// The end of a stream.
    pub const RST_STREAM: Self = Self(3);
    /// What one side asks of the other.
    pub const SETTINGS: Self = Self(4);
    /// A request of which the peer has only thought.
    pub const PUSH_PROMISE: Self = Self(5);
    /// Is anybody there?
    pub const PING: Self = Self(6);
    /// The beginning of the end of a connection.
    pub const GOAWAY: Self = Self(7);
    /// Leave to send more.
    pub const WINDOW_UPDATE: Self = Self(8);
    /// More fields.
    pub const CONTINUATION: Self = Self(9);
}

// === Frame ===

impl Frame {
    /// Any frame.
    pub fn new(kind: FrameKind, flags: u8, stream: u32, payload: impl Into<Bytes>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// SETTINGS: identifiers and values.
    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let mut payload = BytesMut::new();
        for &(name, value) in settings {
            payload.put_u16(name);
            payload.put_u32(value);
        }
        Self::new(FrameKind::SETTINGS, 0, 0, payload)
    }

    /// HEADERS with this status and these fields, uncompressed (RFC 7541, 6.2.2), the whole of them.
    pub fn response(stream: u32, status: u16, fields: &[(&str, &str)]) -> Self {
        let status = status.to_string();
        let fields = [(":status", &*status)].into_iter().chain(fields.iter().copied());
        Self::new(FrameKind::HEADERS, END_HEADERS, stream, encode(fields))
    }

    /// HEADERS as trailers are: without a status, and the end of the stream.
    pub fn trailers(stream: u32, fields: &[(&str, &str)]) -> Self {
        Self::new(FrameKind::HEADERS, END_HEADERS, stream, encode(fields.iter().copied())).end()
    }

    /// DATA.
    pub fn data(stream: u32, data: impl Into<Bytes>) -> Self {
        Self::new(FrameKind::DATA, 0, stream, data)
    }

    /// RST_STREAM with this error code.
    pub fn reset(stream: u32, code: u32) -> Self {
        Self::new(FrameKind::RST_STREAM, 0, stream, code.to_be_bytes().to_vec())
    }

    /// GOAWAY: the last stream that is or may be processed, and an error code.
    pub fn go_away(last: u32, code: u32) -> Self {
        Self::new(FrameKind::GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    /// WINDOW_UPDATE.
    pub fn window_update(stream: u32, bytes: u32) -> Self {
        Self::new(FrameKind::WINDOW_UPDATE, 0, stream, bytes.to_be_bytes().to_vec())
    }

    /// With the flag that ends its stream.
    #[must_use]
    pub fn end(mut self) -> Self {
        self.flags |= END_STREAM;
        self
    }

    /// With the flag that makes it the answer to a SETTINGS or PING; an answer to SETTINGS is empty.
    #[must_use]
    pub fn ack(mut self) -> Self {
        self.flags |= ACK;
        if self.kind == FrameKind::SETTINGS {
            self.payload = Bytes::new();
        }
        self
    }

    /// Whether it ends its stream.
    pub fn is_end(&self) -> bool {
        matches!(self.kind, FrameKind::DATA | FrameKind::HEADERS) && self.flags & END_STREAM != 0
    }

    /// Whether it is the answer to a SETTINGS or PING.
    pub fn is_ack(&self) -> bool {
        matches!(self.kind, FrameKind::SETTINGS | FrameKind::PING) && self.flags & ACK != 0
    }

    /// The error code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            FrameKind::RST_STREAM => 0,
            FrameKind::GOAWAY => 4,
            _ => return None,
        };
        Some(self.payload.get(at..at + 4)?.try_into().map(u32::from_be_bytes).expect("four bytes"))
    }

    /// The next one, once it is there in full.
    pub(crate) fn take(unread: &mut BytesMut) -> Option<Self> {
        let head = unread.get(..HEAD)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if unread.len() < HEAD + length {
            return None;
        }
        let mut frame = unread.split_to(HEAD + length).freeze();
        frame.advance(3);
        let (kind, flags) = (FrameKind(frame.get_u8()), frame.get_u8());
        let stream = frame.get_u32() & !(1 << 31);
        Some(Self { kind, flags, stream, payload: frame })
    }
}

impl From<Frame> for Bytes {
    fn from(frame: Frame) -> Self {
        let mut bytes = BytesMut::with_capacity(HEAD + frame.payload.len());
        bytes.put_uint(frame.payload.len() as u64, 3);
        bytes.put_u8(frame.kind.0);
        bytes.put_u8(frame.flags);
        bytes.put_u32(frame.stream);
        bytes.put(frame.payload);
        bytes.freeze()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, flags, stream, payload } = self;
        write!(f, "Frame({kind:?}, flags {flags:#x}, stream {stream}, {} bytes)", payload.len())
    }
}

/// Literals without indexing, names included.
fn encode<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Bytes {
    let mut block = BytesMut::new();
    for (name, value) in fields {
        block.put_u8(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.put_slice(text.as_bytes());
        }
    }
    block.freeze()
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn length(block: &mut BytesMut, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else { return block.put_u8(length as u8) };
    block.put_u8(127);
    while rest >= 128 {
        block.put_u8(128 | (rest % 128) as u8);
        rest /= 128;
    }
    block.put_u8(rest as u8);
}

/// What a client says first (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
