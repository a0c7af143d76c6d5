//! HTTP/2 servers, by script.

use outbound_testkit::{Frame, FrameKind, Script};

/// Codes of RST_STREAM and GOAWAY (RFC 9113, 7).
pub const NO_ERROR: u32 = 0;
/// Ours.
pub const INTERNAL_ERROR: u32 = 2;
/// Not processed.
pub const REFUSED_STREAM: u32 = 7;
/// Not wanted any more.
pub const CANCEL: u32 = 8;
/// Too much of something.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A server that has said what it allows: these settings. It answers SETTINGS and pings.
pub fn settled(settings: &[(u16, u32)]) -> Script {
    Script::new().http2().write(Frame::settings(settings))
}

/// That has been asked something, on stream 1.
pub fn asked() -> Script {
    settled(&[]).until_frame(FrameKind::HEADERS)
}

/// That is asked something on each stream from `first` on, and does this.
pub fn each(script: Script, first: u32, answer: impl Fn(Script, u32) -> Script) -> Script {
    let streams = (first..).step_by(2).take(STREAMS);
    streams.fold(script, |script, stream| answer(script.until_frame(FrameKind::HEADERS), stream))
}

/// That says `200` and “hello”.
pub fn answered(script: Script, stream: u32) -> Script {
    script.write(Frame::response(stream, 200, &[])).write(Frame::data(stream, "hello").end())
}

/// That says so each time.
pub fn hello() -> Script {
    each(settled(&[]), 1, answered)
}

/// More than any test opens on one connection.
const STREAMS: usize = 16;
