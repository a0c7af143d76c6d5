//! What a client is, in words, and what of it contradicts itself.

use std::{fmt, time::Duration};

use outbound_pool::connect::Protocols;

use super::{ClientBuilder, Concurrency, settings::Settings};

/// What a [`Client`](super::Client) is: printed, its layers in their order, its worst case, and its contradictions.
///
/// ```
/// use std::time::Duration;
/// use outbound::Client;
///
/// let client = Client::builder().max_attempts(2).total_timeout(Duration::from_secs(10)).build()?;
/// println!("{}", client.describe());
/// assert_eq!(client.describe().attempts(), 2);
/// assert_eq!(client.describe().time(), Some(Duration::from_secs(10)));
/// // A limit of 15 seconds within one of 10.
/// assert!(!client.describe().contradictions().is_empty());
/// # Ok::<(), outbound::BoxError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Description {
    layers: Vec<(&'static str, String)>,
    attempts: u64,
    time: Option<Duration>,
    contradictions: Vec<Contradiction>,
}

/// Two settings of a client that do not go together: it works, but not as somebody meant it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Contradiction {
    /// This limit never runs out: the total does before.
    NeverRunsOut {
        /// Its name.
        setting: &'static str,
        /// Its length.
        limit: Duration,
        /// The total.
        total: Duration,
    },
    /// If each attempt waits for its head for as long as it may, the last ones are cut short, or not made. This counts the heads
    /// alone: what comes before (a turn, a connection, sending) and between (backoff) comes on top.
    AttemptsDoNotFit {
        /// How many are allowed.
        attempts: u32,
        /// The limit of each.
        head: Duration,
        /// The total.
        total: Duration,
    },
    /// Calls hold a permit while they wait for one of fewer connections. (A permit that is held through a backoff, its like, cannot be
    /// had here: the limit is inside the retries.)
    MorePermitsThanConnections {
        /// The permits.
        concurrency: usize,
        /// Which limit is lower: that of the host, if there is a base URL.
        setting: &'static str,
        /// The connections that all of them share over HTTP/1.1.
        connections: usize,
    },
    /// Of the connections that may be open to a host, some may not be kept: under full load they are opened anew for every call.
    FewerIdleThanOpen {
        /// Which limit is too low.
        setting: &'static str,
        /// How many are kept.
        idle: usize,
        /// How many may be open.
        open: usize,
    },
}

impl Description {
    pub(crate) fn new(builder: &ClientBuilder) -> Self {
        let settings = &builder.settings;
        let redirects = u64::try_from(settings.redirects).unwrap_or(u64::MAX);
        Self {
            layers: layers(builder),
            attempts: u64::from(settings.max_attempts).saturating_mul(redirects.saturating_add(1)),
            time: Some(settings.total_timeout).filter(|&total| total < Duration::MAX),
            contradictions: contradictions(builder).collect(),
        }
    }

    /// How many attempts a call makes at the worst: its own, and those of each redirect. The pool may send the request of each again, if
    /// its connection died, or the server said that it was not processed: [`outbound_pool`].
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// How long a call takes at the worst, its response body included; `None` for ever.
    pub fn time(&self) -> Option<Duration> {
        self.time
    }

    /// What contradicts itself.
    pub fn contradictions(&self) -> &[Contradiction] {
        &self.contradictions
    }
}

fn layers(builder: &ClientBuilder) -> Vec<(&'static str, String)> {
    let ClientBuilder { settings: s, defaults, concurrency, proxy, telling, .. } = builder;
    let base = defaults.base.as_ref().map_or("no base URL".to_owned(), |base| format!("base URL {base}"));
    let secret = defaults.headers.values().filter(|value| value.is_sensitive()).count();
    let idle = s.max_idle_per_host.unwrap_or(s.per_host().min(s.max_idle.unwrap_or(usize::MAX)));
    let mut layers = vec![
        ("defaults", format!("{base}, {} header fields, {secret} of them secret", defaults.headers.len())),
        ("deadline", format!("{} for the whole call, its response body included", Time(s.total_timeout))),
        (
            "redirects",
            match s.redirects {
                0 => "not followed".to_owned(),
                most => format!("up to {most}, without credentials to another origin"),
            },
        ),
        ("decompression", if s.decompression { "gzip, deflate, br" } else { "off" }.to_owned()),
        (
            "retry",
            format!("up to {} attempts, Retry-After up to {}", s.max_attempts, Time(s.retry_after_cap)),
        ),
        (
            "limit",
            match concurrency {
                None => "none but the pool's".to_owned(),
                Some(concurrency) => format!("{concurrency:?} at once, {} may wait", s.max_waiting),
            },
        ),
        (
            "timeout",
            format!(
                "head {}, read {}, write {}, for each attempt",
                Time(s.head_timeout),
                Time(s.read_timeout),
                Time(s.write_timeout)
            ),
        ),
        ("leak guard", "on".to_owned()),
        (
            "pool",
            format!(
                "{} connections, {} to a host, {idle} of them kept for {}{}; acquire {}, resolve {}, connect {}, TLS {}",
                s.max_connections,
                s.per_host(),
                Time(s.idle_timeout),
                match s.max_lifetime {
                    Duration::MAX => String::new(),
                    age => format!(", none of them beyond an age of {}", Time(age)),
                },
                Time(s.pool_timeout),
                Time(s.resolve_timeout),
                Time(s.connect_timeout),
                Time(s.tls_timeout)
            ),
        ),
        (
            "connect",
            format!(
                "over TLS {}, else {}; through {}",
                match s.protocols {
                    Protocols::Http1 => "HTTP/1.1",
                    Protocols::Http2 => "HTTP/2",
                    _ => "HTTP/2 or HTTP/1.1",
                },
                if s.http2_prior_knowledge { "HTTP/2" } else { "HTTP/1.1" },
                if proxy.is_some() { "the proxies of its own matcher" } else { "the environment's proxies" },
            ),
        ),
    ];
    if let Some(told) = telling.in_words() {
        let inside_retry = layers.iter().position(|&(layer, _)| layer == "limit").unwrap_or_default();
        layers.insert(inside_retry, ("telemetry", told));
    }
    layers
}

fn contradictions(builder: &ClientBuilder) -> impl Iterator<Item = Contradiction> + use<> {
    let ClientBuilder { settings, concurrency, defaults, .. } = builder;
    let Settings { total_timeout: total, head_timeout: head, max_attempts: attempts, .. } = *settings;
    let open = settings.per_host();
    let timeouts =
        settings.timeouts().into_iter().skip(1).chain([("retry_after_cap", settings.retry_after_cap)]);
    let never = timeouts
        .filter(move |&(_, limit)| total <= limit && limit < Duration::MAX)
        .map(move |(setting, limit)| Contradiction::NeverRunsOut { setting, limit, total });
    let unfit = (head < total && head.saturating_mul(attempts) > total)
        .then_some(Contradiction::AttemptsDoNotFit { attempts, head, total });
    // HTTP/2 carries many calls over one.
    let (over_tls, plain) = (settings.protocols == Protocols::Http2, settings.http2_prior_knowledge);
    let (setting, connections, shared) = match &defaults.base {
        None => ("max_connections", settings.max_connections, over_tls && plain),
        Some(base) if base.is_https() => ("max_connections_per_host", open, over_tls),
        Some(_) => ("max_connections_per_host", open, plain),
    };
    let permits = concurrency.as_ref().and_then(Concurrency::fixed);
    let permits = permits.filter(|&permits| permits > connections && !shared);
    let permits = permits.map(|concurrency| Contradiction::MorePermitsThanConnections {
        concurrency,
        setting,
        connections,
    });
    // The pool refuses the first if it is above the second.
    let idle = [("max_idle_per_host", settings.max_idle_per_host), ("max_idle", settings.max_idle)];
    let idle = idle.into_iter().find_map(|(setting, idle)| Some((setting, idle?)));
    let idle = idle.filter(|&(_, idle)| 0 < idle && idle < open);
    let idle = idle.map(|(setting, idle)| Contradiction::FewerIdleThanOpen { setting, idle, open });
    never.chain(unfit).chain(permits).chain(idle)
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (layer, does) in &self.layers {
            writeln!(f, "{layer:14} {does}")?;
        }
        write!(f, "{:14} {} attempts, ", "worst case", self.attempts)?;
        match self.time {
            Some(time) => write!(f, "{}", Time(time))?,
            None => f.write_str("for ever")?,
        }
        for contradiction in &self.contradictions {
            write!(f, "\n{:14} {contradiction}", "contradiction")?;
        }
        Ok(())
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NeverRunsOut { setting, limit, total } => {
                let (limit, total) = (Time(limit), Time(total));
                write!(f, "{setting} ({limit}) never runs out: total_timeout ({total}) does before")
            }
            Self::AttemptsDoNotFit { attempts, head, total } => {
                let (head, total) = (Time(head), Time(total));
                write!(f, "{attempts} attempts of up to {head} do not fit into total_timeout ({total})")
            }
            Self::MorePermitsThanConnections { concurrency, setting, connections } => write!(
                f,
                "concurrency ({concurrency}) is above {setting} ({connections}): over HTTP/1.1 permits are held by \
                 calls that wait for a connection"
            ),
            Self::FewerIdleThanOpen { setting, idle, open } => write!(
                f,
                "{setting} ({idle}) is below max_connections_per_host ({open}): under load connections are \
                 opened anew again and again"
            ),
        }
    }
}

/// As people write it.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::MAX => f.write_str("no limit"),
            time => write!(f, "{time:?}"),
        }
    }
}
