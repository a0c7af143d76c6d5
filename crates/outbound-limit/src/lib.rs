//! Limits.
mod adaptive;
mod algorithm;
mod concurrency;
mod gate;
mod invalid;
mod limiter;
mod order;
mod per_key;
mod place;
mod rate;
mod request;
mod stats;
mod sync;
mod verdict;

pub use adaptive::{Adaptive, AdaptiveLimit, AdaptiveLimitLayer};
pub use algorithm::{Aimd, Algorithm, Gradient2, Sample, Vegas, Windowed};
pub use concurrency::{ConcurrencyLimit, ConcurrencyLimitLayer, ResponseFuture, Scope};
pub use invalid::InvalidOption;
pub use limiter::{Limiter, Limits};
pub use order::Order;
pub use per_key::{PerKey, PerOrigin};
pub use place::Release;
pub use rate::{RateLimit, RateLimitFuture, RateLimitLayer, RateLimiter, RatePerKey, Rates};
pub use stats::Stats;
