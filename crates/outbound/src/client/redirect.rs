//! When a redirect is followed, and what of the request goes with it.

use http::{
    Request,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
};
use outbound_core::{CallContext, Carried, Origin};
use tower_http::follow_redirect::policy::{Action, Attempt, Policy};

use crate::Body;

/// Follows so many redirects, and lets no credentials cross origins:
///
/// - the header fields `Authorization`, `Cookie` and `Proxy-Authorization`, and whatever is marked sensitive, stay behind, and do not come
///   back when a further redirect leads home (as in curl and the Fetch standard);
/// - a request with a body to be repeated elsewhere (307, 308) is not followed: who knows what is in it;
/// - nor is the way from https to http.
///
/// What is not followed is the caller's, as it came.
#[derive(Clone, Debug)]
pub(crate) struct NoCredentials {
    left: usize,
    is_followed: bool,
    is_abroad: bool,
}

impl NoCredentials {
    pub(crate) fn up_to(redirects: usize) -> Self {
        Self { left: redirects, is_followed: false, is_abroad: false }
    }
}

impl<E> Policy<Body, E> for NoCredentials {
    fn redirect(&mut self, attempt: &Attempt<'_>) -> Result<Action, E> {
        let (Ok(from), Ok(to)) = (Origin::of(attempt.previous()), Origin::of(attempt.location())) else {
            return Ok(Action::Stop);
        };
        let crosses = from != to;
        let is_downgrade = from.is_https() && !to.is_https();
        if self.left == 0 || is_downgrade || (crosses && !attempt.method().is_safe()) {
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
        if !self.is_abroad {
            return;
        }
        let headers = request.headers_mut();
        for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
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
