//! The upstream that does what its scripts say.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    Ended, Frame, FrameKind, Received, Script, Upstream,
    frame::PREFACE,
    request::{Decoder, Head},
    script::Step,
    sightings::Entry,
    wire::{Wire, ended_by},
};

/// An upstream that does to each connection exactly what a [`Script`] says, good or bad.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use outbound_testkit::{Ended, Hostile, Script};
/// use tokio::{io::AsyncReadExt, net::TcpStream};
///
/// // The first connection is reset at once, all others are served.
/// let upstream = Hostile::new(Script::new().reset()).then(Script::hello()).start();
/// let mut client = TcpStream::connect(upstream.addr()).await.unwrap();
/// assert!(client.read(&mut [0]).await.is_err());
/// assert_eq!(upstream.ended(0).await, Ended::ByUsReset);
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it listens once started"]
pub struct Hostile {
    scripts: Vec<Script>,
    own_thread: bool,
    #[cfg(feature = "tls")]
    tls: Option<crate::Certificate>,
}

/// One connection, being played a script.
struct Line {
    // Dropped in this order: an entry says “ended” when the socket is gone.
    wire: Wire,
    entry: Entry,
    unread: BytesMut,
    request: Option<Unfinished>,
    frames: Frames,
}

/// Whether what comes is read frame by frame, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frames {
    No,
    Answered,
    Noted,
}

/// A request whose body has not been read to the end.
struct Unfinished {
    index: usize,
    decoder: Decoder,
}

// === Hostile ===

impl Hostile {
    /// Plays `script` to the first connection, and to all that no other script is for.
    pub fn new(script: Script) -> Self {
        Hostile {
            scripts: vec![script],
            own_thread: false,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Plays `script` to the next connection, and to all after it that no other script is for.
    pub fn then(mut self, script: Script) -> Self {
        self.scripts.push(script);
        self
    }

    /// Runs on a thread and runtime of its own: it goes on while the test's runtime is blocked, and Tokio's clock is the
    /// real one there.
    pub fn own_thread(mut self) -> Self {
        self.own_thread = true;
        self
    }

    /// Serves TLS with this certificate.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, certificate: crate::Certificate) -> Self {
        self.tls = Some(certificate);
        self
    }

    /// Starts listening on a free loopback port.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with I/O and time (unless on its own thread), or when no port is free.
    pub fn start(self) -> Upstream {
        let scripts = Arc::new(self.scripts);
        let pick = move |entry: &Entry| scripts[entry.number().min(scripts.len() - 1)].clone();
        #[cfg(feature = "tls")]
        if let Some(certificate) = self.tls {
            let acceptor = certificate.acceptor();
            return Upstream::launch("https", self.own_thread, move |socket, entry| {
                let (script, acceptor) = (pick(&entry), acceptor.clone());
                serve_tls(socket, entry, script, acceptor)
            });
        }
        Upstream::launch("http", self.own_thread, move |socket, entry| {
            let script = pick(&entry);
            serve(socket, entry, script)
        })
    }
}

async fn serve(socket: TcpStream, entry: Entry, script: Script) {
    let mut line = Line::new(Wire::new(socket), entry);
    let ended = match line.play(&script.before_handshake).await {
        Ok(()) => line.play_out(&script.steps).await,
        Err(ended) => ended,
    };
    line.end(ended);
}

#[cfg(feature = "tls")]
async fn serve_tls(socket: TcpStream, entry: Entry, script: Script, acceptor: tokio_rustls::TlsAcceptor) {
    let mut line = Line::new(Wire::new(socket), entry);
    if let Err(ended) = line.play(&script.before_handshake).await {
        return line.end(ended);
    }
    let Line { wire, entry, .. } = line;
    let Wire::Plain(socket) = wire else { unreachable!("nothing was encrypted yet") };
    match crate::tls::handshake(&acceptor, socket).await {
        Ok(wire) => {
            let mut line = Line::new(wire, entry);
            let ended = line.play_out(&script.steps).await;
            line.end(ended);
        }
        Err(ended) => entry.ended(ended),
    }
}

// === Line ===

impl Line {
    fn new(wire: Wire, entry: Entry) -> Self {
        Line { wire, entry, unread: BytesMut::new(), request: None, frames: Frames::No }
    }

    /// Plays the script, and then waits for the client to close.
    async fn play_out(&mut self, steps: &[Step]) -> Ended {
        match self.play(steps).await {
            Ok(()) => self.idle().await,
            Err(ended) => ended,
        }
    }

    fn end(mut self, ended: Ended) {
        let unread = std::mem::take(&mut self.unread);
        self.entry.connection(|connection| connection.unparsed.extend_from_slice(&unread));
        self.entry.ended(ended);
    }

    /// `Err` when the connection is over. Boxed, as a script can hold scripts.
    fn play<'a>(
        &'a mut self,
        steps: &'a [Step],
    ) -> Pin<Box<dyn Future<Output = Result<(), Ended>> + Send + 'a>> {
        Box::pin(async move {
            for step in steps {
                self.take(step).await?;
            }
            Ok(())
        })
    }

    async fn take(&mut self, step: &Step) -> Result<(), Ended> {
        match step {
            Step::ReadHead => self.read_head().await,
            Step::ReadBody => self.read_body().await,
            Step::ReadExactly(n) => self.read_exactly(*n).await,
            Step::FirstByte => match self.unread.is_empty() {
                true => self.fill().await,
                false => Ok(()),
            },
            Step::Http2 => {
                while self.unread.len() < PREFACE.len() {
                    self.fill().await?;
                }
                let preface = self.unread.split_to(PREFACE.len());
                assert_eq!(&*preface, PREFACE, "the client does not speak HTTP/2");
                self.frames = Frames::Answered;
                Ok(())
            }
            Step::UntilFrame(kind) => loop {
                let frame = self.next_frame().await?;
                if frame.kind == *kind && !frame.is_ack() {
                    return Ok(());
                }
            },
            Step::Mute => {
                self.frames = Frames::Noted;
                Ok(())
            }
            Step::Write(bytes) => self.write(bytes).await,
            Step::WriteForever(bytes) => loop {
                self.write(bytes).await?;
            },
            Step::Dribble { bytes, at_once, every } => {
                let mut chunks = bytes.chunks(*at_once).peekable();
                while let Some(chunk) = chunks.next() {
                    self.write(chunk).await?;
                    if chunks.peek().is_some() {
                        self.unless_closed(sleep(*every)).await?;
                    }
                }
                Ok(())
            }
            Step::Wait(gate) => self.unless_closed(gate.pass()).await,
            Step::Delay(delay) => self.unless_closed(sleep(*delay)).await,
            Step::Repeat { steps, times: Some(times) } => {
                for _ in 0..*times {
                    self.play(steps).await?;
                }
                Ok(())
            }
            Step::Repeat { steps, times: None } => loop {
                self.play(steps).await?;
                tokio::task::consume_budget().await;
            },
            Step::HalfClose => {
                self.wire.fin(true).await;
                self.entry.ended(Ended::ByUsFin);
                Ok(())
            }
            Step::Stall => Err(self.wire.closed().await),
            Step::Close | Step::Cut => {
                self.wire.fin(matches!(step, Step::Close)).await;
                self.wire.drain();
                Err(Ended::ByUsFin)
            }
            Step::Reset => {
                self.wire.reset_on_drop();
                Err(Ended::ByUsReset)
            }
        }
    }

    async fn read_head(&mut self) -> Result<(), Ended> {
        let len = loop {
            match Head::len(&self.unread) {
                Some(len) => break len,
                None => self.fill().await?,
            }
        };
        let raw = self.unread.split_to(len);
        let head = Head::parse(&raw);
        let decoder = head.decoder();
        let complete = decoder.is_done();
        let index = self.entry.request(Received {
            connection: self.entry.number(),
            method: head.method,
            target: head.target,
            headers: head.headers,
            body: Vec::new(),
            raw: raw.to_vec(),
            complete,
        });
        self.request = (!complete).then_some(Unfinished { index, decoder });
        Ok(())
    }

    async fn read_body(&mut self) -> Result<(), Ended> {
        while self.request.is_some() {
            if self.unread.is_empty() {
                self.fill().await?;
            }
            self.take_body(usize::MAX);
        }
        Ok(())
    }

    async fn read_exactly(&mut self, mut n: usize) -> Result<(), Ended> {
        while n > 0 {
            if self.unread.is_empty() {
                self.fill().await?;
            }
            n -= match self.request {
                Some(_) => self.take_body(n),
                None => {
                    let bytes = self.unread.split_to(n.min(self.unread.len()));
                    self.entry.connection(|connection| connection.unparsed.extend_from_slice(&bytes));
                    bytes.len()
                }
            };
        }
        Ok(())
    }

    /// Enters up to `n` bytes of those already here as part of the request; returns how many.
    fn take_body(&mut self, n: usize) -> usize {
        let Some(Unfinished { index, decoder }) = &mut self.request else {
            return 0;
        };
        let bytes = &self.unread[..n.min(self.unread.len())];
        let mut data = Vec::new();
        let taken = decoder.feed(bytes, &mut data);
        let complete = decoder.is_done();
        self.entry.update(*index, |request| {
            request.raw.extend_from_slice(&bytes[..taken]);
            request.body.append(&mut data);
            request.complete = complete;
        });
        self.unread.advance(taken);
        if complete {
            self.request = None;
        }
        taken
    }

    /// Reads a frame and notes it. Those that want an answer get it.
    async fn next_frame(&mut self) -> Result<Frame, Ended> {
        let frame = loop {
            match Frame::take(&mut self.unread) {
                Some(frame) => break frame,
                None => self.fill().await?,
            }
        };
        self.entry.connection(|connection| connection.frames.push(frame.clone()));
        let wants_answer = matches!(frame.kind, FrameKind::SETTINGS | FrameKind::PING) && !frame.is_ack();
        if wants_answer && self.frames == Frames::Answered {
            self.write(&Bytes::from(frame.clone().ack())).await?;
        }
        Ok(frame)
    }

    /// Reads what comes and keeps it, until the client closes.
    async fn idle(&mut self) -> Ended {
        while self.frames != Frames::No {
            if let Err(ended) = self.next_frame().await {
                return ended;
            }
        }
        loop {
            let bytes = self.unread.split();
            self.entry.connection(|connection| connection.unparsed.extend_from_slice(&bytes));
            if let Err(ended) = self.fill().await {
                return ended;
            }
        }
    }

    async fn fill(&mut self) -> Result<(), Ended> {
        match self.wire.read_buf(&mut self.unread).await {
            Ok(0) => Err(Ended::ByPeerFin),
            Ok(n) => {
                self.entry.connection(|connection| connection.bytes_in += n as u64);
                Ok(())
            }
            Err(error) => Err(ended_by(&error)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let written = async {
            self.wire.write_all(bytes).await?;
            self.wire.flush().await
        };
        written.await.map_err(|error| ended_by(&error))
    }

    async fn unless_closed<T>(&self, waited: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::select! {
            biased;
            value = waited => Ok(value),
            ended = self.wire.closed() => Err(ended),
        }
    }
}
