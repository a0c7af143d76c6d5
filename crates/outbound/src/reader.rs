//! Request bodies that are read as they are sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use outbound_core::BoxError;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Semaphore,
};

use crate::{body::Body, offload};

impl Body {
    /// What `reader` gives, read as it is sent: never more than one chunk of 64 KiB ahead.
    ///
    /// An error of the reader's fails the call, and the server does not take what it got for the whole.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::stream(Reading { reader, buffer: BytesMut::new(), is_over: false })
    }

    /// As [`reader`](Self::reader), for one that blocks, such as a [`File`](std::fs::File) or a decompressor: each chunk is read on Tokio's
    /// blocking pool, and a thread of it is in use only while it reads, not while the server is slow. At most 64 of them do
    /// at once in a process.
    ///
    /// A call that is dropped stops after the chunk that is being read. It is read inside a runtime, where another call that blocks is not
    /// to be made: a response of the blocking client is sent on as [a stream](Self::stream).
    pub fn blocking_reader(reader: impl io::Read + Send + 'static) -> Self {
        Self::stream(Blocking::Idle(Some(reader)))
    }
}

pin_project_lite::pin_project! {
    struct Reading<R> {
        #[pin]
        reader: R,
        buffer: BytesMut,
        is_over: bool,
    }
}

enum Blocking<R> {
    Idle(Option<R>),
    Busy(Pin<Box<dyn Future<Output = (R, io::Result<Bytes>)> + Send>>),
}

// === Reading ===

impl<R: AsyncRead> http_body::Body for Reading<R> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if *this.is_over {
            return Poll::Ready(None);
        }
        if this.buffer.len() < CHUNK / 8 {
            *this.buffer = BytesMut::zeroed(CHUNK);
        }
        let mut chunk = ReadBuf::new(this.buffer);
        let read = ready!(this.reader.poll_read(cx, &mut chunk));
        let length = chunk.filled().len();
        *this.is_over = read.is_err() || length == 0;
        Poll::Ready(match read {
            Ok(()) if length == 0 => None,
            Ok(()) => Some(Ok(Frame::data(this.buffer.split_to(length).freeze()))),
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

// === Blocking ===

/// The reader is moved, never pinned.
impl<R> Unpin for Blocking<R> {}

impl<R: io::Read + Send + 'static> http_body::Body for Blocking<R> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match &mut *self {
                Self::Idle(reader) => {
                    let Some(reader) = reader.take() else { return Poll::Ready(None) };
                    *self = Self::Busy(Box::pin(offload::within(&READS, || read(reader))));
                }
                Self::Busy(reading) => {
                    let (reader, chunk) = ready!(reading.as_mut().poll(cx));
                    let is_over = chunk.as_ref().map_or(true, Bytes::is_empty);
                    *self = Self::Idle((!is_over).then_some(reader));
                    return Poll::Ready(match chunk {
                        Ok(chunk) if chunk.is_empty() => None,
                        Ok(chunk) => Some(Ok(Frame::data(chunk))),
                        Err(error) => Some(Err(error.into())),
                    });
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Idle(None))
    }
}

/// One chunk, and the reader back.
fn read<R: io::Read>(mut reader: R) -> (R, io::Result<Bytes>) {
    let mut chunk = vec![0; CHUNK];
    let length = loop {
        match reader.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    let chunk = length.map(|length| {
        chunk.truncate(length);
        chunk.into()
    });
    (reader, chunk)
}

/// Enough that a hop to another thread is worth its price.
const CHUNK: usize = 64 * 1024;
/// An eighth of the threads of Tokio's blocking pool, so that uploads leave the rest to everybody else.
static READS: Semaphore = Semaphore::const_new(64);
