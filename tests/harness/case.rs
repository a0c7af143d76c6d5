//! One row of the fault matrix: what is done to the stack, and what has to come of it.

use std::{fmt, pin::Pin};

use http::{Method, Uri};
use outbound::pool::connect::{Connect, Tcp};
use outbound_testkit::{Connection, Frame, FrameKind, Hostile, Script, TestBody, Upstream};

use crate::stack::{Nothing, Setup, Stack};

/// A row that is played here, over the whole stack.
#[derive(Debug)]
pub struct Case {
    /// Its name as a test.
    pub name: &'static str,
    /// The fault.
    pub row: &'static str,
    /// Whether its clock is paused.
    pub paused: bool,
    /// What is played, and what has to come of it.
    pub plays: Vec<Play>,
}

/// One way in which a row is played.
pub struct Play {
    /// In what it differs from the others: the method, say.
    pub with: &'static str,
    /// What has to come of it.
    pub expected: &'static str,
    /// How it is played; returned is what came of it.
    pub run: Box<dyn Fn() -> Pin<Box<dyn Future<Output = Told>>> + Send + Sync>,
}

/// What came of a play after which nothing was left: there is no telling without having looked.
#[derive(Debug)]
pub struct Told(String);

/// A row that concerns one layer, and is tested there.
#[derive(Debug)]
pub struct Cited {
    /// The fault.
    pub row: &'static str,
    /// What is expected.
    pub expected: &'static str,
    /// The tests, as `crate::file::name`.
    pub tests: &'static [&'static str],
}

/// A row, wherever it is tested.
#[derive(Debug)]
pub enum Row {
    /// Here.
    Case(Case),
    /// Elsewhere.
    Cited(Cited),
}

// === Case ===

impl Case {
    /// A row that has yet to be told how it is played.
    pub fn new(name: &'static str, row: &'static str) -> Self {
        Self { name, row, paused: false, plays: Vec::new() }
    }

    /// Its clock is paused.
    #[must_use]
    pub fn paused(mut self) -> Self {
        self.paused = true;
        self
    }

    /// Played so, this has to come of it.
    #[must_use]
    pub fn play<F>(
        mut self,
        with: &'static str,
        run: impl Fn() -> F + Send + Sync + 'static,
        expected: &'static str,
    ) -> Self
    where
        F: Future<Output = Told> + 'static,
    {
        let run = Box::new(move || Box::pin(run()) as Pin<Box<dyn Future<Output = Told>>>);
        self.plays.push(Play { with, expected, run });
        self
    }

    /// The first connection is played `script`, all others are served: what has to come of a GET, and of a POST.
    #[must_use]
    pub fn served(self, script: Script, get: &'static str, post: &'static str) -> Self {
        let served = move |script: Script, method: Method| {
            move || {
                let upstream = Hostile::new(script.clone()).then(Script::hello());
                let method = method.clone();
                async move { play(Setup::default(), Tcp::new(), upstream, method).await }
            }
        };
        self.play("GET", served(script.clone(), Method::GET), get).play(
            "POST",
            served(script, Method::POST),
            post,
        )
    }

    /// The same, in HTTP/2.
    #[must_use]
    pub fn served_http2(self, script: Script, get: &'static str, post: &'static str) -> Self {
        let served = move |script: Script, method: Method| {
            move || {
                let upstream = Hostile::new(script.clone()).then(crate::frames::hello());
                let (method, setup) = (method.clone(), Setup { http2: true, ..Setup::default() });
                async move { play(setup, Tcp::new(), upstream, method).await }
            }
        };
        self.play("GET", served(script.clone(), Method::GET), get).play(
            "POST",
            served(script, Method::POST),
            post,
        )
    }
}

// === Told ===

impl Told {
    /// This came of it, and `nothing` was left.
    pub fn after(line: impl Into<String>, _nothing: Nothing) -> Self {
        Self(line.into())
    }

    /// And this.
    #[must_use]
    pub fn and(self, more: impl fmt::Display) -> Self {
        Self(format!("{}; {more}", self.0))
    }

    /// In words.
    pub fn into_line(self) -> String {
        self.0
    }
}

impl From<Case> for Row {
    fn from(case: Case) -> Self {
        Self::Case(case)
    }
}

impl From<Cited> for Row {
    fn from(cited: Cited) -> Self {
        Self::Cited(cited)
    }
}

impl fmt::Debug for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.with, self.expected)
    }
}

/// A row that is tested elsewhere.
pub fn cited(row: &'static str, expected: &'static str, tests: &'static [&'static str]) -> Row {
    Row::Cited(Cited { row, expected, tests })
}

/// Sends one request to an upstream and tells what came of it: each attempt, what the server saw, and the fate of the first connection.
pub async fn play<C: Connect>(setup: Setup, connector: C, upstream: Hostile, method: Method) -> Told {
    let upstream = upstream.start();
    let body = if method == Method::POST { TestBody::from("x") } else { TestBody::new() };
    let stack = setup.over(connector);
    let request = stack.request(method, upstream.uri("/"), body);
    let line = stack.call(request).await;
    tell(line, stack, upstream).await
}

/// The line with what the server saw and the fate of the first connection; and that nothing is left.
pub async fn tell(line: String, stack: Stack, upstream: Upstream) -> Told {
    let stats = stack.quiet().await;
    upstream.accepted(stats.totals.opened.try_into().expect("a small number")).await;
    let open = stats.connections.idle;
    upstream.until("what the pool has closed", |seen| seen.open == open).await;
    let sightings = upstream.sightings();
    let is_head = |frame: &&Frame| frame.kind == FrameKind::HEADERS;
    let streams = |connection: &Connection| connection.frames.iter().filter(is_head).count();
    let seen = sightings.requests.len() + sightings.connections.iter().map(streams).sum::<usize>();
    let fate = match sightings.connections.first() {
        None => "no connection",
        Some(first) if first.ended.is_none() => "kept",
        Some(_) => "closed",
    };
    let nothing = stack.leaves_nothing(vec![upstream]).await;
    Told::after(format!("{line}; {seen} seen; {fate}"), nothing)
}

/// As [`tell`], of what never reached a server.
pub async fn tell_of_nobody(line: String, stack: Stack) -> Told {
    let nothing = stack.leaves_nothing(Vec::new()).await;
    Told::after(format!("{line}; no connection"), nothing)
}

/// `http://authority/`.
///
/// # Panics
/// If that is no URI.
pub fn uri(authority: impl fmt::Display) -> Uri {
    format!("http://{authority}/").parse().expect("an authority")
}
