//! Unix sockets.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use outbound_core::{BoxError, Phase};
use tokio::net::{UnixStream, unix};
use tower_service::Service;

use super::{Socket, encrypted::is_https, report};

/// Opens connections to one Unix socket, wherever the URI leads: its authority is the `Host` header and nothing else.
///
/// ```no_run
/// use outbound_pool::{Pool, connect::Unix};
///
/// // http://localhost/v1.43/info asks the daemon behind the socket.
/// let pool = Pool::builder().build(Unix::new("/run/docker.sock"))?;
/// # Ok::<(), outbound_pool::InvalidConfig>(())
/// ```
///
/// A path that begins with a zero byte names a socket in Linux' abstract namespace. An `https` URI fails with
/// [`NotEncrypted`](super::NotEncrypted) unless `Tls` is around.
#[derive(Clone, Debug)]
pub struct Unix {
    path: Arc<Path>,
}

impl Unix {
    /// The socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into() }
    }
}

impl Service<Uri> for Unix {
    type Response = TokioIo<Socket<unix::OwnedReadHalf, unix::OwnedWriteHalf>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move {
            is_https(&uri, true)?;
            report(Phase::Connect);
            let stream = UnixStream::connect(&path).await.map_err(|error| named(&path, error))?;
            Ok(TokioIo::new(Socket::unix(stream)))
        })
    }
}

/// The error with the path, where that may be the reason for it.
fn named(path: &Path, error: io::Error) -> io::Error {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match error.kind() {
        kind @ (ConnectionRefused | NotFound | PermissionDenied) => {
            io::Error::new(kind, format!("{}: {error}", path.display()))
        }
        _ => error,
    }
}
