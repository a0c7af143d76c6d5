//! HTTP/2 as a server writes it, frame by frame (RFC 9113, 6).

use outbound_testkit::Script;

/// The types.
pub const DATA: u8 = 0;
/// Opens a stream, or answers on it.
pub const HEADERS: u8 = 1;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// What each side asks of the other.
pub const SETTINGS: u8 = 4;
/// A request that nobody made.
pub const PUSH_PROMISE: u8 = 5;
/// Whether the peer is there.
pub const PING: u8 = 6;
/// No more streams.
pub const GOAWAY: u8 = 7;
/// Room for more data.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;

/// The flags.
pub const END_STREAM: u8 = 1;
/// This is all of the head.
pub const END_HEADERS: u8 = 4;
/// The settings have been read.
pub const ACK: u8 = 1;

/// Codes.
pub const NO_ERROR: [u8; 4] = [0, 0, 0, 0];
/// Ours.
pub const INTERNAL_ERROR: [u8; 4] = [0, 0, 0, 2];
/// Not processed.
pub const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
/// Not wanted any more.
pub const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// `:status: 200` (RFC 7541, appendix A).
pub const OK: &[u8] = &[0x88];

/// `:status: 102`: a literal value of a name in the static table (RFC 7541, 6.2.2).
pub const PROCESSING: &[u8] = &[0x08, 3, b'1', b'0', b'2'];

/// A server that says what it allows, with these settings besides.
pub fn settled(settings: &[u8]) -> Script {
    Script::new().frame(SETTINGS, 0, 0, settings).read_frame(SETTINGS).frame(SETTINGS, ACK, 0, &[])
}

/// `:status: 200` and a `content-length` below 100.
pub fn ok_of(length: u8) -> Vec<u8> {
    // A literal field of a name in the static table, not indexed; the name is 28 (RFC 7541, 6.2.2).
    vec![0x88, 0x0f, 28 - 15, 2, b'0' + length / 10, b'0' + length % 10]
}

/// Settings: what is at most allowed of streams, and the window that each begins with.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// The last stream that was processed, and why there are no more.
pub fn goaway(last: u32, code: [u8; 4]) -> Vec<u8> {
    [last.to_be_bytes(), code].concat()
}

/// Answers each request with `200` and “hello”.
pub fn hello() -> Script {
    settled(&[]).forever(exchange())
}

/// Answers one request with `200` and “hello”.
pub fn exchange() -> Script {
    let hello = |script: Script| script.reply_frame(DATA, END_STREAM, "hello");
    hello(Script::new().read_frame(HEADERS).reply_frame(HEADERS, END_HEADERS, OK))
}
