//! Where a call was, what went wrong, and whether the peer may have acted.

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable lower-case name, fit for a metric label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// Where on its way a call was. Ordered: a later phase is greater.
    Phase {
        /// Waiting for a permit of a limit, or asleep between attempts.
        Queue => "queue",
        /// Waiting for a connection of the pool, or for room to open one.
        Acquire => "acquire",
        /// Resolving the host name.
        Resolve => "resolve",
        /// Opening the socket; over HTTP/2 also waiting for what the server allows (RFC 9113, 3.4), after the TLS handshake.
        Connect => "connect",
        /// The TLS handshake, ALPN included.
        Tls => "tls",
        /// The request is being written.
        Send => "send",
        /// The request has been written; the head of the response has not arrived.
        Head => "head",
        /// The head has arrived; the body has not ended.
        Body => "body",
    }
}

words! {
    /// What went wrong.
    Kind {
        /// A limit of time ran out: [`Elapsed`](crate::Elapsed).
        Timeout => "timeout",
        /// A limit of ours had no room, or the origin asked to be left alone: [`Overloaded`](crate::Overloaded),
        /// [`CoolingDown`](crate::CoolingDown).
        Overloaded => "overloaded",
        /// The name could not be resolved, or resolved to nothing.
        Resolve => "resolve",
        /// The peer refused the connection.
        Refused => "refused",
        /// No route to the peer.
        Unreachable => "unreachable",
        /// This machine has no descriptor, port or memory left.
        Exhausted => "exhausted",
        /// The certificate is not to be trusted: expired, wrong name, unknown issuer.
        Certificate => "certificate",
        /// The TLS handshake failed for another reason than the certificate.
        Tls => "tls",
        /// The peer reset the connection or the stream.
        Reset => "reset",
        /// The peer closed the connection before the response head was complete.
        Closed => "closed",
        /// The response body ended before its announced end.
        Truncated => "truncated",
        /// The peer broke the protocol.
        Protocol => "protocol",
        /// The head of the response was larger than allowed.
        TooLarge => "too_large",
        /// The request's own body failed, or contradicted its Content-Length.
        RequestBody => "request_body",
        /// The request cannot be sent as it is: no host, unknown scheme.
        Invalid => "invalid",
        /// Our side gave up: the call was cancelled, or the client was closed.
        Canceled => "canceled",
        /// None of the others: the chain names nothing we know, or an answer that will not do: [`Answered`](crate::Answered).
        Other => "other",
    }
}

words! {
    /// May the peer have acted on the request?
    Delivery {
        /// No: not one byte of it was written.
        NotSent => "not_sent",
        /// No: the peer says that it did not process it (HTTP/2 REFUSED_STREAM, or GOAWAY below its stream; RFC 9113, 8.7).
        Refused => "refused",
        /// Perhaps: at least a byte was written and no final head came back. Also the answer when nothing is known.
        Maybe => "maybe",
        /// Yes: a final response head arrived.
        Answered => "answered",
    }
}

words! {
    /// Why a failure was not retried.
    GaveUp {
        /// The peer may have acted on the request, and nobody said that acting twice does no harm (RFC 9110, 9.2.2).
        NotIdempotent => "not_idempotent",
        /// As many attempts as allowed have been made.
        Attempts => "attempts",
        /// The retry budget has nothing left.
        Budget => "budget",
        /// The next attempt would have begun after the deadline.
        Deadline => "deadline",
        /// The request's body cannot be sent again: it was larger than what is kept of one, or it failed.
        Body => "body",
        /// The peer asked for a longer wait than is allowed.
        RetryAfter => "retry_after",
        /// Sending it again would not help, or the policy says so for a reason of its own.
        Policy => "policy",
    }
}

impl Delivery {
    /// Whether the peer certainly has not acted, so that any method may be sent again.
    pub const fn is_unprocessed(self) -> bool {
        matches!(self, Self::NotSent | Self::Refused)
    }
}
