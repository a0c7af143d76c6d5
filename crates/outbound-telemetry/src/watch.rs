//! What is not a call: pools, limits and whatever else has numbers to show.

use std::{fmt, sync::Arc};

use opentelemetry::{
    KeyValue, StringValue,
    metrics::{AsyncInstrument, Meter},
};

/// Lets a meter look at `T` whenever it collects, until this is dropped.
///
/// An OpenTelemetry instrument cannot be taken back, and what its callback holds lives as long as the meter's provider. So it is this
/// that holds `T`, and the callbacks only look: a pool that is watched closes its connections when its last clone and its
/// watch have gone.
///
/// ```
/// use outbound_telemetry::{Series, Watch};
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// let jobs = Series { name: "app.jobs", unit: "{job}", description: "Jobs under way." };
/// let meter = opentelemetry::global::meter("app");
/// let watch = Watch::new(&meter, "mail", AtomicU64::new(3))
///     .gauge(jobs, |jobs, observe| observe(jobs.load(Relaxed), &[]));
/// # drop(watch);
/// ```
#[must_use = "dropped, it observes nothing"]
pub struct Watch<T> {
    subject: Arc<T>,
    meter: Meter,
    name: KeyValue,
}

/// What a series of numbers is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// In dots and lower case.
    pub name: &'static str,
    /// In UCUM: `s`, `By`, `{connection}`.
    pub unit: &'static str,
    /// In a sentence.
    pub description: &'static str,
}

/// Called by a reader of `T` with each number, and with the attributes that tell it from the others of its series.
pub type Observe<'a, N> = dyn FnMut(N, &[KeyValue]) + 'a;

macro_rules! series {
    ($($(#[$doc:meta])* $method:ident: $number:ty, $instrument:ident;)*) => {
        $(
            $(#[$doc])*
            pub fn $method(
                self,
                series: Series,
                read: impl Fn(&T, &mut Observe<'_, $number>) + Send + Sync + 'static,
            ) -> Self {
                let (subject, name) = (Arc::downgrade(&self.subject), self.name.clone());
                self.meter
                    .$instrument(series.name)
                    .with_unit(series.unit)
                    .with_description(series.description)
                    .with_callback(move |instrument: &dyn AsyncInstrument<$number>| {
                        let Some(subject) = subject.upgrade() else { return };
                        read(&subject, &mut |number, attributes| {
                            let attributes = [attributes, std::slice::from_ref(&name)].concat();
                            instrument.observe(number, &attributes);
                        });
                    })
                    .build();
                self
            }
        )*
    };
}

impl<T: Send + Sync + 'static> Watch<T> {
    /// Watches `subject`, with nothing to show yet. All of its series have the attribute `outbound.name`, `name`: two subjects of one
    /// kind need two names, or one hides the other.
    pub fn new(meter: &Meter, name: impl Into<StringValue>, subject: T) -> Self {
        let name = KeyValue::new("outbound.name", name.into());
        Self { subject: Arc::new(subject), meter: meter.clone(), name }
    }

    series! {
        /// A number that stands for itself: sums of it over several processes say nothing, as of a limit.
        gauge: u64, u64_observable_gauge;
        /// A time that stands for itself.
        seconds: f64, f64_observable_gauge;
        /// A number that goes up and down, and adds up over several processes, as of connections.
        up_down: i64, i64_observable_up_down_counter;
        /// A number that only goes up.
        counter: u64, u64_observable_counter;
    }

    /// What is watched.
    pub fn subject(&self) -> &T {
        &self.subject
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("name", &self.name.value).finish_non_exhaustive()
    }
}
