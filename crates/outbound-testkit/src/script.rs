//! What a hostile upstream does with one connection.

use std::time::Duration;

use bytes::Bytes;

use crate::{Answer, FrameKind, Gate};

/// The steps that a [`Hostile`](crate::Hostile) upstream takes with one connection, in order.
///
/// Every step that waits also watches the client: when that has closed its side, the script is over. When the steps
/// are done the socket stays open, and what still comes is kept in [`Connection::unparsed`](crate::Connection::unparsed),
/// until the client closes.
///
/// ```
/// use outbound_testkit::{Answer, Script};
///
/// // One good exchange; then read the next request and close in its face.
/// let script = Script::new().exchange(Answer::new(200, "hello")).first_byte().close();
/// # drop(script);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(crate) before_handshake: Vec<Step>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    ReadHead,
    ReadBody,
    ReadExactly(usize),
    FirstByte,
    Http2,
    UntilFrame(FrameKind),
    Mute,
    Write(Bytes),
    WriteForever(Bytes),
    Dribble { bytes: Bytes, at_once: usize, every: Duration },
    Wait(Gate),
    Delay(Duration),
    Repeat { steps: Vec<Step>, times: Option<usize> },
    HalfClose,
    Stall,
    Close,
    Cut,
    Reset,
}

// === Script ===

impl Script {
    /// No steps: the connection is accepted, whatever comes is read, and nothing is ever answered.
    pub fn new() -> Self {
        Script::default()
    }

    /// Answers every request on the connection with `200` and “hello”.
    pub fn hello() -> Self {
        Script::new().forever(Script::new().exchange(Answer::new(200, "hello")))
    }

    /// Reads one request, body included, and writes `answer`.
    pub fn exchange(self, answer: Answer) -> Self {
        self.read_head().read_body().respond(answer)
    }

    /// Reads a request head, up to and including its empty line.
    pub fn read_head(self) -> Self {
        self.step(Step::ReadHead)
    }

    /// Reads what is left of the body of the last head, by its `content-length` or chunks.
    pub fn read_body(self) -> Self {
        self.step(Step::ReadBody)
    }

    /// Reads exactly `n` bytes: of the body of the last head while that is unfinished, else of anything.
    pub fn read_exactly(self, n: usize) -> Self {
        self.step(Step::ReadExactly(n))
    }

    /// Waits for the first byte of the next request, and reads what has come.
    pub fn first_byte(self) -> Self {
        self.step(Step::FirstByte)
    }

    /// Reads HTTP/2's preface, and from then on everything frame by frame, each of which is noted in
    /// [`Connection::frames`](crate::Connection::frames). Whenever it reads, it acknowledges SETTINGS and answers pings.
    /// It says nothing by itself: a server's SETTINGS are a [`Frame`](crate::Frame) that the script writes.
    pub fn http2(self) -> Self {
        self.step(Step::Http2)
    }

    /// Reads frames up to and including the next of this kind that is no acknowledgement.
    pub fn until_frame(self, kind: FrameKind) -> Self {
        self.step(Step::UntilFrame(kind))
    }

    /// From now on pings are not answered, and SETTINGS not acknowledged.
    pub fn mute(self) -> Self {
        self.step(Step::Mute)
    }

    /// Writes a complete response framed by `content-length`.
    pub fn answer(self, status: u16, body: impl Into<Bytes>) -> Self {
        self.respond(Answer::new(status, body))
    }

    /// Writes this response, or the part of it that it was cut to.
    pub fn respond(self, answer: Answer) -> Self {
        self.write(answer)
    }

    /// Writes exactly these bytes.
    pub fn write(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Write(bytes.into()))
    }

    /// Writes these bytes again and again, as fast as the client takes them, until it closes.
    pub fn write_forever(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::WriteForever(bytes.into()))
    }

    /// Writes `at_once` bytes, waits `every` on Tokio's clock, and so on to the last byte.
    ///
    /// # Panics
    ///
    /// When `at_once` is 0.
    pub fn dribble(self, bytes: impl Into<Bytes>, at_once: usize, every: Duration) -> Self {
        assert!(at_once > 0, "dribbling 0 bytes at once never ends; use `stall`");
        self.step(Step::Dribble { bytes: bytes.into(), at_once, every })
    }

    /// Waits, without reading, until the test lets it through the gate.
    pub fn wait(self, gate: &Gate) -> Self {
        self.step(Step::Wait(gate.clone()))
    }

    /// Waits this long on Tokio's clock, without reading.
    pub fn delay(self, delay: Duration) -> Self {
        self.step(Step::Delay(delay))
    }

    /// Takes the steps of `script` `times` times.
    pub fn repeat(self, times: usize, script: Script) -> Self {
        self.step(Step::Repeat { steps: script.steps, times: Some(times) })
    }

    /// Takes the steps of `script` again and again, until the client closes.
    pub fn forever(self, script: Script) -> Self {
        self.step(Step::Repeat { steps: script.steps, times: None })
    }

    /// Ends our side (FIN); the client's side stays open and the script goes on.
    pub fn half_close(self) -> Self {
        self.step(Step::HalfClose)
    }

    /// Neither reads nor writes, until the client closes.
    ///
    /// Bytes that nobody reads do not hide that the client has gone, as long as they fit into the socket's buffers:
    /// behind a full window its FIN is stuck, too. To see the end of such a client, [`wait`](Self::wait) at a gate
    /// instead and open that once the client has gone: the script's end reads on.
    pub fn stall(self) -> Self {
        self.step(Step::Stall)
    }

    /// Closes the socket in order: TLS says goodbye, then FIN. What has arrived is read first, since the kernel
    /// resets a socket that is closed with unread bytes; what comes later is answered with RST.
    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    /// As [`close`](Self::close), but TLS says no goodbye: a truncation.
    pub fn cut(self) -> Self {
        self.step(Step::Cut)
    }

    /// Resets the connection (RST).
    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// The steps of `script` are taken on the bare socket, before the TLS handshake; without TLS, before anything.
    pub fn before_handshake(mut self, script: Script) -> Self {
        self.before_handshake.extend(script.steps);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}
