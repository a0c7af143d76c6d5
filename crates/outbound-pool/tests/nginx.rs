//! Against a real server that closes its connections all the time: Debian's nginx, in an instance of the test's own.

mod support;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use http::Uri;
use outbound_pool::Pool;
use support::*;

const NGINX: &str = "/usr/sbin/nginx";
const REQUESTS: usize = 10_000;
const CONCURRENCY: usize = 64;

/// An nginx in the foreground, with its files in a directory of its own.
struct Nginx {
    child: Child,
    directory: PathBuf,
    port: u16,
}

impl Nginx {
    /// `None` where there is none to start.
    fn start(settings: &str) -> Option<Self> {
        if !Path::new(NGINX).exists() {
            eprintln!("skipped: there is no {NGINX}; Debian has it in the package nginx-light");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("outbound-nginx-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for nginx");
        let port = free_port();
        let at = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{ worker_connections 1024; }}
             http {{
                 access_log off; {settings}
                 client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
                 uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                 server {{ listen 127.0.0.1:{port}; location / {{ return 200 hello; }} }}
             }}"
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, config).expect("nginx's configuration");
        let (out, error) = (Stdio::null(), Stdio::null());
        let mut command = Command::new(NGINX);
        let child = command.arg("-c").arg(&file).arg("-p").arg(&directory).stdout(out).stderr(error).spawn();
        let mut nginx = Self { child: child.expect("nginx to start"), directory, port };
        nginx.wait();
        Some(nginx)
    }

    /// Until it listens.
    fn wait(&mut self) {
        let begun = SystemTime::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || fs::read_to_string(self.directory.join("error.log")).unwrap_or_default();
            assert!(self.child.try_wait().expect("a child").is_none(), "nginx ended: {}", log());
            assert!(
                begun.elapsed().unwrap_or_default() < Duration::from_secs(20),
                "nginx is silent: {}",
                log()
            );
            std::thread::yield_now();
        }
    }

    fn uri(&self) -> Uri {
        format!("http://127.0.0.1:{}/", self.port).parse().expect("a URI")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Every third response is the last of its connection, and idle ones live for a second: nobody is to notice.
#[test]
fn ten_thousand_requests_without_an_error() {
    let Some(nginx) = Nginx::start("keepalive_requests 3; keepalive_timeout 1s;") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = build(Pool::builder().max_connections(CONCURRENCY));
        let left = Arc::new(AtomicUsize::new(REQUESTS));
        let worker = |_| {
            let (pool, left, uri) = (pool.clone(), left.clone(), nginx.uri());
            tokio::spawn(async move {
                while left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                    let response = fetch(&pool, get(uri.clone())).await?;
                    assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"hello"[..]));
                }
                Ok::<_, outbound_core::BoxError>(())
            })
        };
        let workers: Vec<_> = (0..CONCURRENCY).map(worker).collect();
        for worker in workers {
            worker.await.unwrap().unwrap();
        }
        let totals = quiet(&pool).await.totals;
        println!("{REQUESTS} requests: {totals:?}");
        // Three for each connection, and no more connections than it takes.
        assert!(totals.opened >= REQUESTS as u64 / 3, "{totals:?}");
        assert!(totals.opened <= REQUESTS as u64 / 2, "{totals:?}");
        leaves_nothing("nginx", pool, &[]).await;
    });
}
