//! When a redirect is followed, and what of the request goes with it.

use http::{
    Method, Request, StatusCode,
    header::{AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION},
};
use http_body::Body as _;
use outbound_core::{CallContext, Carried, Origin};
use outbound_retry::BodyFactory;
use tower_http::follow_redirect::policy::{Action, Attempt, Policy};

use crate::Body;

/// Follows so many redirects, and lets no credentials cross origins:
///
/// - the header fields `Authorization`, `Cookie` and `Proxy-Authorization`, and whatever is marked sensitive, stay behind, and do not come
///   back when a further redirect leads home (as in curl and the Fetch standard);
/// - a `Host` of the caller's own stays behind likewise: it is the first origin's name;
/// - a request whose body would be repeated elsewhere is not followed, whatever its method: who knows what is in it;
/// - nor is one whose method is not safe, nor the way from https to http.
///
/// What is not followed is the caller's, as it came.
#[derive(Clone, Debug)]
pub(crate) struct NoCredentials {
    left: usize,
    is_followed: bool,
    is_abroad: bool,
    has_body: bool,
}

impl NoCredentials {
    pub(crate) fn up_to(redirects: usize) -> Self {
        Self { left: redirects, is_followed: false, is_abroad: false, has_body: false }
    }
}

impl<E> Policy<Body, E> for NoCredentials {
    fn redirect(&mut self, attempt: &Attempt<'_>) -> Result<Action, E> {
        let (Ok(from), Ok(to)) = (Origin::of(attempt.previous()), Origin::of(attempt.location())) else {
            return Ok(Action::Stop);
        };
        let crosses = from != to;
        let is_downgrade = from.is_https() && !to.is_https();
        let takes_body = self.has_body && !leaves_body(attempt);
        if self.left == 0 || is_downgrade || (crosses && (takes_body || !attempt.method().is_safe())) {
            return Ok(Action::Stop);
        }
        self.left -= 1;
        self.is_followed = true;
        self.is_abroad |= crosses;
        Ok(Action::Follow)
    }

    fn on_request(&mut self, request: &mut Request<Body>) {
        if self.is_followed {
            // It was made of the first URI's path.
            Carried::on(request).url_template = None;
        }
        self.has_body = !request.body().is_end_stream();
        if !self.has_body {
            // What was left behind is not to come back with a further attempt.
            request.extensions_mut().remove::<BodyFactory<Body>>();
        }
        if !self.is_abroad {
            return;
        }
        let headers = request.headers_mut();
        for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HOST] {
            headers.remove(name);
        }
        let is_secret = |value: &http::HeaderValue| value.is_sensitive();
        let secret: Vec<_> =
            headers.iter().filter(|(_, value)| is_secret(value)).map(|(name, _)| name.clone()).collect();
        for name in secret {
            headers.remove(name);
        }
        // Anybody's extension may hold a secret; the context of the call does not.
        let context = CallContext::of(request);
        request.extensions_mut().clear();
        if let Some(context) = context {
            context.attach(request);
        }
    }

    fn clone_body(&self, body: &Body) -> Option<Body> {
        body.try_clone()
    }
}

/// Whether the redirected request has no body, although the one before may have had one (RFC 9110, 15.4).
fn leaves_body(attempt: &Attempt<'_>) -> bool {
    match attempt.status() {
        StatusCode::SEE_OTHER => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => attempt.previous_method() == Method::POST,
        _ => false,
    }
}
