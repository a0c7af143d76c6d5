//! The settings that are numbers.

use std::time::Duration;

use outbound_pool::{Builder, Pool, connect::Protocols};

use super::builder::InvalidClient;

/// What each is for is told by the setter of its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) total_timeout: Duration,
    pub(crate) head_timeout: Duration,
    pub(crate) read_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) pool_timeout: Duration,
    pub(crate) resolve_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) tls_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_host: Option<usize>,
    pub(crate) max_idle: Option<usize>,
    pub(crate) max_idle_per_host: Option<usize>,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_lifetime: Duration,
    pub(crate) protocols: Protocols,
    pub(crate) http2_prior_knowledge: bool,
    pub(crate) max_waiting: usize,
    pub(crate) max_attempts: u32,
    pub(crate) retry_after_cap: Duration,
    pub(crate) redirects: usize,
    pub(crate) decompression: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            total_timeout: seconds(60),
            head_timeout: seconds(15),
            read_timeout: seconds(15),
            write_timeout: seconds(15),
            pool_timeout: seconds(10),
            resolve_timeout: seconds(5),
            connect_timeout: seconds(5),
            tls_timeout: seconds(5),
            max_connections: 512,
            max_connections_per_host: None,
            max_idle: None,
            max_idle_per_host: None,
            idle_timeout: seconds(50),
            max_lifetime: Duration::MAX,
            protocols: Protocols::Both,
            http2_prior_knowledge: false,
            max_waiting: 4_096,
            max_attempts: 3,
            retry_after_cap: seconds(20),
            redirects: 0,
            decompression: true,
        }
    }
}

impl Settings {
    /// The limits of time, by name.
    pub(crate) fn timeouts(&self) -> [(&'static str, Duration); 8] {
        [
            ("total_timeout", self.total_timeout),
            ("head_timeout", self.head_timeout),
            ("read_timeout", self.read_timeout),
            ("write_timeout", self.write_timeout),
            ("pool_timeout", self.pool_timeout),
            ("resolve_timeout", self.resolve_timeout),
            ("connect_timeout", self.connect_timeout),
            ("tls_timeout", self.tls_timeout),
        ]
    }

    pub(crate) fn per_host(&self) -> usize {
        self.max_connections_per_host.unwrap_or(128.min(self.max_connections))
    }

    /// What the pool does not check itself; `permits` are those of the limit, if their number is fixed.
    pub(crate) fn check(&self, permits: Option<usize>) -> Result<(), InvalidClient> {
        let timeouts = self.timeouts().map(|(setting, timeout)| (setting, timeout.is_zero()));
        let numbers = [("max_attempts", self.max_attempts == 0), ("concurrency", permits == Some(0))];
        match timeouts.into_iter().chain(numbers).find(|&(_, is_zero)| is_zero) {
            Some((setting, _)) => Err(InvalidClient::new(setting, "it is zero: no call could pass")),
            None => Ok(()),
        }
    }

    pub(crate) fn pool(&self) -> Builder {
        let mut pool = Pool::builder()
            .max_connections(self.max_connections)
            .max_connections_per_host(self.per_host())
            .idle_timeout(self.idle_timeout)
            .max_lifetime(self.max_lifetime)
            .http2_prior_knowledge(self.http2_prior_knowledge)
            .max_waiting(self.max_waiting)
            .acquire_timeout(self.pool_timeout)
            .resolve_timeout(self.resolve_timeout)
            .connect_timeout(self.connect_timeout)
            .tls_timeout(self.tls_timeout);
        if let Some(idle) = self.max_idle {
            pool = pool.max_idle(idle);
        }
        if let Some(idle) = self.max_idle_per_host {
            pool = pool.max_idle_per_host(idle);
        }
        pool
    }
}
