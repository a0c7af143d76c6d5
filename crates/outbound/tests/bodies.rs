//! Request bodies: bytes, streams and readers.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll},
    thread::{self, ThreadId},
};

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use outbound::{Body, BoxError};
use outbound_testkit::{TestBody, assert_body_contract};
use tokio::io::{AsyncRead, ReadBuf};

#[tokio::test]
async fn bytes_are_one_frame_of_known_length() -> Result<(), BoxError> {
    for (name, body, bytes) in [
        ("nothing", Body::from(()), ""),
        ("empty", Body::from(""), ""),
        ("default", Body::default(), ""),
        ("str", Body::from("hello"), "hello"),
        ("string", Body::from(String::from("hello")), "hello"),
        ("vec", Body::from(b"hello".to_vec()), "hello"),
        ("bytes", Body::from(Bytes::from("hello")), "hello"),
        ("slice", Body::from(&b"hello"[..]), "hello"),
    ] {
        assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64), "{name}");
        assert_eq!(body.is_end_stream(), bytes.is_empty(), "{name}");
        assert_eq!(body.as_bytes().map(|bytes| &bytes[..]), Some(bytes.as_bytes()), "{name}");
        assert_eq!(body.try_clone().unwrap().collect().await?.to_bytes(), bytes, "{name}");
        assert_eq!(body.collect().await?.to_bytes(), bytes, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_is_what_it_wraps() {
    assert_body_contract(|body: TestBody| Body::stream(body)).await;
    let stream = Body::stream(Full::new(Bytes::from("hello")));
    assert!(stream.as_bytes().is_none() && stream.try_clone().is_none());
    assert_eq!(stream.size_hint().exact(), Some(5));
    fn is_sync<T: Send + Sync + Unpin + 'static>(_: T) {}
    is_sync(stream);
}

/// Gives so many bytes at a time.
struct Steps(Vec<io::Result<usize>>);

impl io::Read for Steps {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = if self.0.is_empty() { 0 } else { self.0.remove(0)? };
        let length = length.min(buffer.len());
        buffer[..length].fill(b'x');
        Ok(length)
    }
}

impl AsyncRead for Steps {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = vec![0; into.remaining()];
        let length = io::Read::read(&mut *self, &mut bytes)?;
        into.put_slice(&bytes[..length]);
        Poll::Ready(Ok(()))
    }
}

/// The sizes of its frames, and how it ended.
async fn frames(mut body: Body) -> (Vec<usize>, Option<String>) {
    let mut sizes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => sizes.push(frame.into_data().unwrap().len()),
            Err(error) => {
                assert!(body.frame().await.is_none(), "it has ended");
                return (sizes, Some(error.to_string()));
            }
        }
    }
    assert!(body.is_end_stream());
    (sizes, None)
}

#[tokio::test]
async fn a_reader_is_read_to_its_end_or_its_error() {
    const MUCH: usize = 1 << 20;
    type Case = (&'static str, fn() -> Steps, Vec<usize>, Option<&'static str>);
    #[rustfmt::skip]
    let cases: [Case; 4] = [
        ("empty",  || Steps(vec![]),                                                 vec![],           None),
        ("steps",  || Steps(vec![Ok(3), Ok(1), Ok(5)]),                              vec![3, 1, 5],    None),
        ("chunks", || Steps(vec![Ok(MUCH), Ok(MUCH)]),                               vec![65_536; 2],  None),
        ("fails",  || Steps(vec![Ok(3), Err(io::Error::other("the disk is gone"))]), vec![3],          Some("the disk is gone")),
    ];
    for (name, steps, sizes, error) in cases {
        let expected = (sizes, error.map(String::from));
        assert_eq!(frames(Body::reader(steps())).await, expected, "{name}");
        assert_eq!(frames(Body::blocking_reader(steps())).await, expected, "{name}, blocking");
    }
    let interrupted = Steps(vec![Ok(1), Err(io::ErrorKind::Interrupted.into()), Ok(2)]);
    assert_eq!(frames(Body::blocking_reader(interrupted)).await, (vec![1, 2], None));
}

/// Says on which thread it is read, and blocks until it is told to go on.
struct Blocks {
    threads: Arc<Mutex<Vec<ThreadId>>>,
    go_on: mpsc::Receiver<()>,
}

impl io::Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.threads.lock().unwrap().push(thread::current().id());
        if self.go_on.recv().is_err() {
            return Ok(0);
        }
        buffer[0] = b'x';
        Ok(1)
    }
}

#[tokio::test]
async fn a_blocking_reader_blocks_no_worker() {
    let (let_go_on, go_on) = mpsc::channel();
    let threads = Arc::new(Mutex::new(Vec::new()));
    let mut body = Body::blocking_reader(Blocks { threads: threads.clone(), go_on });
    for _ in 0..3 {
        let mut frame = Box::pin(body.frame());
        // This runtime has one thread: were it the one that reads, it would hang here.
        assert!(futures_poll(&mut frame).await.is_pending());
        let_go_on.send(()).unwrap();
        assert_eq!(frame.await.unwrap().unwrap().into_data().unwrap(), "x");
    }
    drop(let_go_on);
    assert!(body.frame().await.is_none());
    assert!(threads.lock().unwrap().iter().all(|&thread| thread != thread::current().id()));
}

async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}
