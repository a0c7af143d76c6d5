//! A response, byte for byte.

use std::fmt::Write as _;

use bytes::Bytes;
use http::StatusCode;

/// An HTTP/1.1 response as [`Script::respond`](crate::Script::respond) writes it, in part if asked to.
///
/// Framed by `content-length` unless told otherwise; 1xx, 204 and 304 get none.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    version: &'static str,
    headers: Vec<(String, String)>,
    body: Bytes,
    framing: Framing,
    trailers: Vec<(String, String)>,
    cut: Option<Cut>,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked(usize),
    UntilClose,
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    Head(usize),
    Body(usize),
}

// === Answer ===

impl Answer {
    /// A complete response with this status and body.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Answer {
            status,
            version: "HTTP/1.1",
            headers: Vec::new(),
            body: body.into(),
            framing: Framing::Length,
            trailers: Vec::new(),
            cut: None,
        }
    }

    /// One more header field; written as it is, valid or not.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body in chunks of `size` bytes, the last one shorter.
    ///
    /// # Panics
    ///
    /// When `size` is 0.
    pub fn chunked(mut self, size: usize) -> Self {
        assert!(size > 0, "a chunk of 0 bytes ends the body");
        self.framing = Framing::Chunked(size);
        self
    }

    /// A body without framing, which only the end of the connection ends.
    pub fn until_close(mut self) -> Self {
        self.framing = Framing::UntilClose;
        self
    }

    /// One more trailer field; only a chunked body carries it.
    pub fn trailer(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.trailers.push((name.into(), value.into()));
        self
    }

    /// `HTTP/1.0` in the status line.
    pub fn http_10(mut self) -> Self {
        self.version = "HTTP/1.0";
        self
    }

    /// Only the first `n` bytes of the head.
    pub fn cut_head(mut self, n: usize) -> Self {
        self.cut = Some(Cut::Head(n));
        self
    }

    /// The whole head, and only the first `n` bytes of the body as it is on the wire, chunk framing included.
    pub fn cut_body(mut self, n: usize) -> Self {
        self.cut = Some(Cut::Body(n));
        self
    }

    /// What is written.
    pub fn to_bytes(&self) -> Bytes {
        let mut wire = self.head().into_bytes();
        let head = wire.len();
        wire.extend_from_slice(&self.body_on_the_wire());
        match self.cut {
            Some(Cut::Head(n)) => wire.truncate(n.min(head)),
            Some(Cut::Body(n)) => wire.truncate(head.saturating_add(n)),
            None => {}
        }
        wire.into()
    }

    fn head(&self) -> String {
        let reason = StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Scripted");
        let mut head = format!("{} {} {reason}\r\n", self.version, self.status);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match self.framing {
            _ if matches!(self.status, 100..200 | 204 | 304) => {}
            Framing::Length => {
                let _ = write!(head, "content-length: {}\r\n", self.body.len());
            }
            Framing::Chunked(_) => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::UntilClose => {}
        }
        head.push_str("\r\n");
        head
    }

    fn body_on_the_wire(&self) -> Bytes {
        let Framing::Chunked(size) = self.framing else {
            return self.body.clone();
        };
        let mut wire = Vec::new();
        for chunk in self.body.chunks(size) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n");
        for (name, value) in &self.trailers {
            wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        wire.extend_from_slice(b"\r\n");
        wire.into()
    }
}

impl From<Answer> for Bytes {
    fn from(answer: Answer) -> Self {
        answer.to_bytes()
    }
}
