//! Never says what it is.

use guests::{Event, Verdict};

fn validate(_: &Event) -> Verdict {
    Verdict::Accept
}

guests::guest!(validate, || {
    loop {
        std::hint::black_box(());
    }
});
