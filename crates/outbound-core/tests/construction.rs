//! What is built, and by which line.

use std::sync::{Arc, Mutex};

use outbound_core::{CallSite, Construction, Watcher};

/// Keeps what was built in this file: others in the process build, too.
#[derive(Default)]
struct Seen(Mutex<Vec<(&'static str, u32)>>);

impl Seen {
    fn watching() -> Arc<Self> {
        let seen = Arc::new(Self::default());
        Construction::watch(&seen);
        seen
    }

    fn of(&self, what: &str) -> Vec<u32> {
        self.0.lock().unwrap().iter().filter(|(built, _)| *built == what).map(|&(_, line)| line).collect()
    }
}

impl Watcher for Seen {
    fn built(&self, construction: Construction) {
        self.0.lock().unwrap().push((construction.what, construction.site.location().line()));
    }
}

#[track_caller]
fn builder(what: &'static str) -> Builder {
    Builder(what)
}

struct Builder(&'static str);

impl Builder {
    #[track_caller]
    fn build(self) {
        Construction::announce(self.0);
    }
}

#[test]
fn it_is_the_line_of_who_called_the_constructor() {
    let seen = Seen::watching();
    builder("pool").build();
    let line = line!() - 1;
    assert_eq!(seen.of("pool"), [line]);
    for _ in 0..2 {
        builder("client").build();
    }
    assert_eq!(seen.of("client"), [line + 4; 2]);
}

#[test]
fn each_watcher_is_told_until_it_is_gone() {
    let (one, other) = (Seen::watching(), Seen::watching());
    builder("first").build();
    assert_eq!((one.of("first").len(), other.of("first").len()), (1, 1));
    drop(one);
    builder("second").build();
    assert_eq!(other.of("second").len(), 1);
}

/// Being told, somebody may build something in turn.
#[test]
fn no_lock_is_held_while_a_watcher_is_told() {
    struct Nested;

    impl Watcher for Nested {
        fn built(&self, construction: Construction) {
            if construction.what == "outer" {
                Construction::watch(&Arc::new(Nested));
                Construction::announce("inner");
            }
        }
    }

    let (nested, seen) = (Arc::new(Nested), Seen::watching());
    Construction::watch(&nested);
    builder("outer").build();
    assert!(!seen.of("inner").is_empty());
}

#[test]
fn it_says_what_and_where() {
    struct Said(Mutex<Vec<String>>);

    impl Watcher for Said {
        fn built(&self, construction: Construction) {
            if construction.what == "said" {
                self.0.lock().unwrap().push(construction.to_string());
            }
        }
    }

    let said = Arc::new(Said(Mutex::default()));
    Construction::watch(&said);
    builder("said").build();
    let (line, here) = (line!() - 1, CallSite::here().location().file());
    assert_eq!(said.0.lock().unwrap()[..], [format!("said built at {here}:{line}:21")]);
}
