//! Just enough HTTP/1 to know where a request ends.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A request head, taken as it comes: what is not a header field is left out.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

/// Finds the end of a request body.
#[derive(Debug, PartialEq)]
pub(crate) enum Decoder {
    Length(u64),
    ChunkSize { size: u64, extension: bool },
    ChunkData(u64),
    ChunkEnd,
    Trailers { line: usize },
    Done,
}

// === Head ===

impl Head {
    /// The length of the head at the start of `bytes`, once all of it is there.
    pub(crate) fn len(bytes: &[u8]) -> Option<usize> {
        bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let method = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let target = words.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            })
            .collect();
        Head { method, target, headers }
    }

    pub(crate) fn decoder(&self) -> Decoder {
        let value = |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        match value("transfer-encoding") {
            Some(coding) if coding.to_ascii_lowercase().ends_with("chunked") => Decoder::chunked(),
            _ => match value("content-length").and_then(|length| length.parse().ok()) {
                None | Some(0) => Decoder::Done,
                Some(length) => Decoder::Length(length),
            },
        }
    }
}

// === Decoder ===

impl Decoder {
    fn chunked() -> Self {
        Decoder::ChunkSize { size: 0, extension: false }
    }

    pub(crate) fn is_done(&self) -> bool {
        *self == Decoder::Done
    }

    /// Takes what belongs to the body off `bytes` and adds its data to `data`; returns how much it took.
    pub(crate) fn feed(&mut self, bytes: &[u8], data: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            match self {
                Decoder::Done => break,
                Decoder::Length(left) | Decoder::ChunkData(left) => {
                    let n = (bytes.len() - taken).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    data.extend_from_slice(&bytes[taken..taken + n]);
                    taken += n;
                    *left -= n as u64;
                    if *left == 0 {
                        *self = match self {
                            Decoder::Length(_) => Decoder::Done,
                            _ => Decoder::ChunkEnd,
                        };
                    }
                    continue;
                }
                Decoder::ChunkSize { size, extension } => match (byte as char).to_digit(16) {
                    Some(digit) if !*extension => {
                        *size = size.saturating_mul(16).saturating_add(digit.into())
                    }
                    _ if byte == b'\n' && *size == 0 => *self = Decoder::Trailers { line: 0 },
                    _ if byte == b'\n' => *self = Decoder::ChunkData(*size),
                    _ => *extension = true,
                },
                Decoder::ChunkEnd if byte == b'\n' => *self = Decoder::chunked(),
                Decoder::ChunkEnd => {}
                Decoder::Trailers { line: 0 } if byte == b'\n' => *self = Decoder::Done,
                Decoder::Trailers { line } if byte == b'\n' => *line = 0,
                Decoder::Trailers { line } if byte != b'\r' => *line += 1,
                Decoder::Trailers { .. } => {}
            }
            taken += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_where_they_end() {
        #[rustfmt::skip]
        let cases = [
            // name        head field                    what comes after it                       body          left
            ("none",       "x: y",                       "GET",                                    "",           "GET"),
            ("length 0",   "content-length: 0",          "GET",                                    "",           "GET"),
            ("length",     "Content-Length: 5",          "helloGET",                               "hello",      "GET"),
            ("chunked",    "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\nGET",             "hello",      "GET"),
            ("two chunks", "transfer-encoding: chunked", "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",       "hello",      ""),
            ("hex size",   "transfer-encoding: chunked", "0A\r\n0123456789\r\n0\r\n\r\n",          "0123456789", ""),
            ("extension",  "transfer-encoding: chunked", "5;a=5\r\nhello\r\n0\r\n\r\nGET",         "hello",      "GET"),
            ("trailers",   "transfer-encoding: chunked", "1\r\nx\r\n0\r\na: b\r\nc: d\r\n\r\nGET", "x",          "GET"),
        ];
        for (name, field, wire, body, left) in cases {
            let head = Head::parse(format!("POST / HTTP/1.1\r\n{field}\r\n\r\n").as_bytes());
            // In one piece, and byte by byte.
            for piece in [wire.len(), 1] {
                let (mut decoder, mut data, mut taken) = (head.decoder(), Vec::new(), 0);
                while taken < wire.len() && !decoder.is_done() {
                    let end = wire.len().min(taken + piece);
                    taken += decoder.feed(&wire.as_bytes()[taken..end], &mut data);
                }
                assert_eq!(data, body.as_bytes(), "{name}");
                assert_eq!(&wire[taken..], left, "{name}");
                assert!(decoder.is_done(), "{name}");
            }
        }
    }
}
