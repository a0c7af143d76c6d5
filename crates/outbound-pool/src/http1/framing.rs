//! What a message's header fields say of its connection, and of where it ends: all of it read in one pass.

use http::{
    HeaderMap, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE},
};

#[derive(Debug, Default)]
pub(super) struct Framing {
    pub(super) has_host: bool,
    pub(super) has_length: bool,
    /// It asks for another protocol (RFC 9110, 7.8).
    pub(super) upgrades: bool,
    /// `Connection: close` (RFC 9112, 9.6).
    pub(super) closes: bool,
    keeps_alive: bool,
    /// Fields that name transfer codings.
    codings: usize,
    /// They name another than `chunked`, or several.
    is_coded: bool,
}

impl Framing {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut framing = Self::default();
        for (name, value) in headers {
            if name == HOST {
                framing.has_host = true;
            } else if name == CONTENT_LENGTH {
                framing.has_length = true;
            } else if name == CONNECTION {
                let tokens = || value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
                framing.closes |= tokens().any(|token| token.eq_ignore_ascii_case(b"close"));
                framing.keeps_alive |= tokens().any(|token| token.eq_ignore_ascii_case(b"keep-alive"));
            } else if name == UPGRADE {
                framing.upgrades = true;
            } else if name == TRANSFER_ENCODING {
                framing.codings += 1;
                framing.is_coded |= !value.as_bytes().eq_ignore_ascii_case(b"chunked");
            }
        }
        framing
    }

    /// Whether the connection persists after this response (RFC 9112, 9.3), and its framing leaves no doubt where that ends (6.3).
    pub(super) fn is_reusable(&self, status: StatusCode, version: Version) -> bool {
        let persists = match version {
            Version::HTTP_11 => !self.closes,
            _ => self.keeps_alive,
        };
        let is_ambiguous = self.codings > 1 || self.is_coded || (self.codings == 1 && self.has_length);
        persists && !is_ambiguous && status != StatusCode::SWITCHING_PROTOCOLS
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// hyper closes many of these by itself, so that no server could tell.
    #[test]
    fn a_connection_is_used_again_only_if_its_response_leaves_no_doubt() {
        let (ten, eleven) = (Version::HTTP_10, Version::HTTP_11);
        for (name, status, version, fields, reusable) in [
            ("plain", 200, eleven, &[("content-length", "5")][..], true),
            ("chunked", 200, eleven, &[("transfer-encoding", "Chunked")], true),
            ("keep-alive", 200, eleven, &[("connection", "keep-alive")], true),
            ("close", 200, eleven, &[("connection", "close")], false),
            ("close in a list", 200, eleven, &[("connection", "x-y , Close")], false),
            (
                "close in a second field",
                200,
                eleven,
                &[("connection", "x-y"), ("connection", "close")],
                false,
            ),
            ("no close", 200, eleven, &[("connection", "closed, not-close")], true),
            ("HTTP/1.0", 200, ten, &[], false),
            ("HTTP/1.0 keep-alive", 200, ten, &[("connection", "Keep-Alive")], true),
            ("switching protocols", 101, eleven, &[], false),
            ("two codings", 200, eleven, &[("transfer-encoding", "gzip, chunked")], false),
            ("chunked twice", 200, eleven, &[("transfer-encoding", "chunked, chunked")], false),
            (
                "chunked in two fields",
                200,
                eleven,
                &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                false,
            ),
            (
                "chunked and a length",
                200,
                eleven,
                &[("transfer-encoding", "chunked"), ("content-length", "5")],
                false,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for &(name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Framing::of(&headers).is_reusable(status, version), reusable, "{name}");
        }
    }
}
