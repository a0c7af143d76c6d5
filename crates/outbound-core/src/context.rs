//! What travels with a request and its response: one entry in `http::Extensions` for all of it, so that the whole stack pays for one.

use std::{fmt, num::NonZeroU32, panic::Location};

use http::{Extensions, Request, Response, request, response};
use tracing::{Metadata, dispatcher};

use crate::{deadline::Deadline, exchange::Exchange, ledger::Ledger, retries::Retries};

/// A message that carries context: a request or a response, the parts of one, or its extensions alone.
pub trait Message: sealed::Sealed {
    #[doc(hidden)]
    fn extensions(&self) -> &Extensions;
    #[doc(hidden)]
    fn extensions_mut(&mut self) -> &mut Extensions;
}

/// Which try this is: 1 for the first, written by the retry layer on each request it sends and on the response it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(NonZeroU32);

/// The line of the user's code that made the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallSite(&'static Location<'static>);

/// The caller's word that sending this request twice does no more than sending it once, whatever its method
/// (RFC 9110, 9.2.2: "some means to know that the request semantics are actually idempotent").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idempotent;

/// The low-cardinality template that a request's path was made from, as in `/users/{id}` (OpenTelemetry's `url.template`).
///
/// There are as many as there are lines of code that make calls, so it lives as long as the program; one that is read from a
/// configuration is leaked once, with [`String::leak`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UrlTemplate(&'static str);

/// All that a message carries, found with one look: for a layer that wants several of the keys.
///
/// ```
/// use outbound_core::{Attempt, Carried, Deadline};
///
/// let mut request = http::Request::new(());
/// Carried::on(&mut request).attempt = Some(Attempt::FIRST);
/// assert_eq!(Attempt::of(&request), Some(Attempt::FIRST));
/// assert_eq!(Carried::of(&request).unwrap().deadline, None);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Carried {
    /// [`Deadline::of`] it. Nobody may put a later one here than there is.
    pub deadline: Option<Deadline>,
    /// [`Attempt::of`] it.
    pub attempt: Option<Attempt>,
    /// [`CallSite::of`] it.
    pub call_site: Option<CallSite>,
    /// The `tracing` span in which its call site was put on it: the caller's, where spans of layers hide it from those inside.
    pub span: Option<&'static Metadata<'static>>,
    /// [`Idempotent::of`] it.
    pub idempotent: bool,
    /// [`UrlTemplate::of`] it.
    pub url_template: Option<UrlTemplate>,
    /// [`Exchange::of`] it.
    pub exchange: Option<Exchange>,
    /// [`Ledger::of`] it.
    pub ledger: Option<Ledger>,
    /// [`Retries::of`] it.
    pub retries: Option<Retries>,
}

/// All that a request carries for its call as a whole: everything but the number and the record of one attempt.
///
/// A retry layer keeps it, and gives it to each further attempt. Cloning it allocates nothing.
#[derive(Clone, Debug)]
pub struct CallContext(Carried);

// === Attempt ===

impl Attempt {
    /// The first.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The attempt that `message` is, or was answered at; `None` says the first, or that nobody counts.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.attempt
    }

    /// Puts it on `message`.
    pub fn attach(self, message: &mut impl Message) {
        Carried::on(message).attempt = Some(self);
    }

    /// Puts it on `message`, unless it is the first and `message` carries no context yet: then its absence says as much,
    /// and costs nothing.
    pub fn note(self, message: &mut impl Message) {
        match Carried::of(message) {
            None if self == Self::FIRST => {}
            Some(carried) if carried.attempt == Some(self) => {}
            _ => self.attach(message),
        }
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Its number, from 1.
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === CallSite ===

impl CallSite {
    /// The caller's line. Functions that pass it on are `#[track_caller]` themselves.
    #[track_caller]
    pub fn here() -> Self {
        Self(Location::caller())
    }

    /// The line that made the call `message` belongs to.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.call_site
    }

    /// Puts it on `message`, and with it the `tracing` span that the caller is in: [`Carried::span`].
    pub fn attach(self, message: &mut impl Message) {
        let carried = Carried::on(message);
        carried.call_site = Some(self);
        carried.span = dispatcher::get_default(|dispatch| dispatch.current_span().metadata());
    }

    /// File, line and column.
    pub fn location(self) -> &'static Location<'static> {
        self.0
    }
}

impl fmt::Display for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === Idempotent ===

impl Idempotent {
    /// Whether the caller said so of `message`.
    pub fn of(message: &impl Message) -> bool {
        Carried::of(message).is_some_and(|carried| carried.idempotent)
    }

    /// Says so of `message`.
    pub fn attach(self, message: &mut impl Message) {
        Carried::on(message).idempotent = true;
    }
}

// === UrlTemplate ===

impl UrlTemplate {
    /// `template`, whatever its syntax: nothing is made of it but a label.
    pub const fn new(template: &'static str) -> Self {
        Self(template)
    }

    /// The template of `message`'s path, if the caller named it.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.url_template
    }

    /// Puts it on `message`.
    pub fn attach(self, message: &mut impl Message) {
        Carried::on(message).url_template = Some(self);
    }

    /// The template itself.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

// === Carried ===

impl Carried {
    /// What `message` carries, if it carries anything.
    pub fn of(message: &impl Message) -> Option<&Self> {
        message.extensions().get()
    }

    /// What `message` carries: nothing, put there now, if there was nothing.
    pub fn on(message: &mut impl Message) -> &mut Self {
        message.extensions_mut().get_or_insert_default()
    }
}

// === CallContext ===

impl CallContext {
    /// What `message` carries for its call, if it carries anything.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message).map(Self::from)
    }

    /// Puts it on `message`, in place of all that is there.
    pub fn attach(self, message: &mut impl Message) {
        *Carried::on(message) = self.0;
    }
}

impl From<&Carried> for CallContext {
    fn from(carried: &Carried) -> Self {
        let Carried { deadline, call_site, span, idempotent, url_template, ref ledger, ref retries, .. } =
            *carried;
        let (ledger, retries) = (ledger.clone(), retries.clone());
        let (attempt, exchange) = (None, None);
        Self(Carried {
            deadline,
            attempt,
            call_site,
            span,
            idempotent,
            url_template,
            exchange,
            ledger,
            retries,
        })
    }
}

// === Message ===

macro_rules! message {
    ($message:ty, $($body:ident)?, $this:ident => $shared:expr, $unique:expr) => {
        impl$(<$body>)? sealed::Sealed for $message {}

        impl$(<$body>)? Message for $message {
            fn extensions(&self) -> &Extensions {
                let $this = self;
                $shared
            }

            fn extensions_mut(&mut self) -> &mut Extensions {
                let $this = self;
                $unique
            }
        }
    };
}

message!(Request<B>, B, this => Request::extensions(this), Request::extensions_mut(this));
message!(Response<B>, B, this => Response::extensions(this), Response::extensions_mut(this));
message!(request::Parts, , this => &this.extensions, &mut this.extensions);
message!(response::Parts, , this => &this.extensions, &mut this.extensions);
message!(Extensions, , this => this, this);

mod sealed {
    pub trait Sealed {}
}
