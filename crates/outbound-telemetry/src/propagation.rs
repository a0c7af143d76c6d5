//! The trace goes on at the peer.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{Context, global, propagation::Injector};

/// Writes what the current context says into `headers`, but nothing that the caller has written already.
pub(crate) fn inject(headers: &mut HeaderMap) {
    let is_told = headers.contains_key("traceparent");
    global::get_text_map_propagator(|propagator| {
        Context::map_current(|context| propagator.inject_context(context, &mut Headers { headers, is_told }));
    });
}

struct Headers<'a> {
    headers: &'a mut HeaderMap,
    /// The caller has said which trace this belongs to: no `tracestate` of another is put beside it.
    is_told: bool,
}

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) else { return };
        if self.is_told && name == "tracestate" {
            return;
        }
        // `tracestate` is empty for most, and no header at all says the same.
        if !value.is_empty() {
            self.headers.entry(name).or_insert(value);
        }
    }
}
