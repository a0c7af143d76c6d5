//! One attempt, from its call to the end of its response body.

use std::{error::Error, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use opentelemetry::KeyValue;
use outbound_core::{Carried, Deadline, Exchange, Failure, Kind, Overloaded, Phase, find};
use tokio::time::Instant;
use tracing::Span;

use crate::{
    instruments::Instruments,
    layer::Options,
    span::{client_span, line},
    target::Target,
};

/// An attempt that is being measured. Dropping it ends it, whatever came of it: so there is no way not to.
#[derive(Debug)]
pub(crate) struct Ongoing {
    instruments: Arc<Instruments>,
    pub(crate) span: Span,
    target: Target,
    begun: Instant,
    deadline: Deadline,
    /// Whether its caller waits for it, or still asked when the deadline had passed.
    awaited: bool,
    exchange: Exchange,
    head: Option<(StatusCode, Version)>,
    error_type: Option<&'static str>,
    /// How long it waited for a limit's leave in vain, as the limit says.
    queued: Option<Duration>,
    sizes: Option<Sizes>,
}

/// Bytes of bodies, where they are asked for.
#[derive(Debug)]
struct Sizes {
    /// What the request body announces of itself.
    request: Option<u64>,
    response: u64,
    complete: bool,
}

impl Ongoing {
    pub(crate) fn begin<B: Body>(
        instruments: Arc<Instruments>,
        request: &mut Request<B>,
        options: Options,
    ) -> Self {
        let target = Target::of(request, options.known_methods, &instruments.hosts);
        instruments.active.add(1, &target.attributes());
        let sizes = || Sizes { request: request.body().size_hint().exact(), response: 0, complete: false };
        let (span, sizes) = (client_span(request, &target), options.body_sizes.then(sizes));
        let carried = Carried::on(request);
        Self {
            span,
            sizes,
            begun: Instant::now(),
            deadline: carried.deadline.unwrap_or_default(),
            awaited: true,
            exchange: carried.exchange.get_or_insert_default().clone(),
            head: None,
            error_type: None,
            queued: None,
            instruments,
            target,
        }
    }

    pub(crate) fn answered<B>(&mut self, response: &Response<B>) {
        let status = response.status();
        self.awaited = false;
        self.head = Some((status, response.version()));
        self.error_type = error_type(status);
    }

    /// It failed before its head, or while its body was read. The first error counts: a status of 500 is not made another by a
    /// body that is cut short.
    pub(crate) fn failed(&mut self, error: &(dyn Error + 'static)) {
        self.awaited = false;
        self.queued = find(error).map(Overloaded::time_waited);
        let failure = Failure::of(error);
        // Our side gave up: nobody erred.
        if self.error_type.is_some() || failure.kind() == Kind::Canceled {
            return;
        }
        self.error_type = Some(failure.error_type());
        if let Some(line) = line(error, failure.kind()) {
            self.span.record("otel.status_description", tracing::field::display(line));
        }
    }

    /// So much of the body has been read.
    pub(crate) fn read(&mut self, bytes: usize) {
        if let Some(sizes) = &mut self.sizes {
            sizes.response += bytes as u64;
        }
    }

    /// There is more of the body to come, and its caller waits for it.
    pub(crate) fn waits(&mut self) {
        self.awaited = true;
    }

    /// There is more of the body to come, and its caller may ask for it or not. One that has asked too late may not: a body that keeps
    /// nobody waiting ends at the deadline too.
    pub(crate) fn goes_on(&mut self) {
        self.awaited = self.deadline.is_past();
    }

    /// The body has been read to its end.
    pub(crate) fn complete(mut self) {
        self.awaited = false;
        if let Some(sizes) = &mut self.sizes {
            sizes.complete = true;
        }
    }

    fn measure(&self) {
        let instruments = &*self.instruments;
        let mut attributes = self.target.attributes();
        instruments.active.add(-1, &attributes);
        if let Some(queued) = self.time_in_queue() {
            instruments.time_in_queue.record(queued.as_secs_f64(), &attributes);
        }
        attributes.extend(self.error_type.map(|kind| KeyValue::new("error.type", kind)));
        attributes.extend(
            self.head
                .map(|(status, _)| KeyValue::new("http.response.status_code", i64::from(status.as_u16()))),
        );
        attributes.extend(self.version().map(|version| KeyValue::new("network.protocol.version", version)));
        instruments.duration.record(self.begun.elapsed().as_secs_f64(), &attributes);
        if let Some(size) = self.request_size() {
            instruments.request_size.record(size, &attributes);
        }
        if let Some(size) = self.response_size() {
            instruments.response_size.record(size, &attributes);
        }
    }

    /// By the record of the exchange, if anybody reports on it.
    fn time_in_queue(&self) -> Option<Duration> {
        if self.exchange.phase() == Phase::Queue {
            return self.queued;
        }
        let timings = self.exchange.timings();
        Some(timings.spent(Phase::Queue).saturating_add(timings.spent(Phase::Acquire)))
    }

    fn tell_span(&self) {
        let span = &self.span;
        if span.is_disabled() {
            return;
        }
        if let Some((status, _)) = self.head {
            span.record("http.response.status_code", i64::from(status.as_u16()));
        }
        if let Some(version) = self.version() {
            span.record("network.protocol.version", version);
        }
        let connection = self.exchange.connection();
        if let Some(peer) = connection.and_then(|connection| connection.established().remote) {
            span.record("network.peer.address", tracing::field::display(peer.ip()));
            span.record("network.peer.port", i64::from(peer.port()));
        }
        for (field, size) in [
            ("http.request.body.size", self.request_size()),
            ("http.response.body.size", self.response_size()),
        ] {
            if let Some(size) = size {
                span.record(field, i64::try_from(size).unwrap_or(i64::MAX));
            }
        }
        if let Some(error_type) = self.error_type {
            span.record("error.type", error_type);
            span.record("otel.status_code", "ERROR");
        }
    }

    fn version(&self) -> Option<&'static str> {
        Some(match self.head?.1 {
            Version::HTTP_09 => "0.9",
            Version::HTTP_10 => "1.0",
            Version::HTTP_11 => "1.1",
            Version::HTTP_2 => "2",
            Version::HTTP_3 => "3",
            _ => return None,
        })
    }

    /// What the request body announced, if the peer has answered and nothing says that it got less.
    fn request_size(&self) -> Option<u64> {
        let size = self.sizes.as_ref()?.request?;
        let is_reported = self.exchange.phase() > Phase::Queue;
        (self.head.is_some() && (!is_reported || self.exchange.bytes_out() >= size)).then_some(size)
    }

    fn response_size(&self) -> Option<u64> {
        let sizes = self.sizes.as_ref()?;
        sizes.complete.then_some(sizes.response)
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        // A deadline outside ends it without a word; but its caller is told.
        if self.awaited && self.error_type.is_none() && self.deadline.is_past() {
            self.error_type = Some(Kind::Timeout.as_str());
        }
        self.measure();
        self.tell_span();
    }
}

/// The `error.type` of a response that is an error: its status.
fn error_type(status: StatusCode) -> Option<&'static str> {
    let digits = CODES.get(usize::from(status.as_u16()).checked_sub(FIRST_ERROR)?)?;
    std::str::from_utf8(digits).ok()
}

const FIRST_ERROR: usize = 400;

/// The digits of 400 to 599, because an attribute wants them as a string.
const CODES: &[[u8; 3]; 200] = &{
    let (mut codes, mut at) = ([[0; 3]; 200], 0);
    while at < codes.len() {
        let code = FIRST_ERROR + at;
        codes[at] = [b'0' + (code / 100) as u8, b'0' + (code / 10 % 10) as u8, b'0' + (code % 10) as u8];
        at += 1;
    }
    codes
};
