//! Suppresses one useless wake-up. hyper wakes the connection whenever a handler reads a piece of a body, so that it
//! reads on. After the last piece this is a poll for nothing, a twentieth of the cost of a small request.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

thread_local! {
    static HEARING: Cell<Hearing> = const { Cell::new(Hearing::Heard) };
}

/// How this thread treats the doorbells that it rings.
#[derive(Default)]
enum Hearing {
    /// It wakes their connections.
    #[default]
    Heard,
    /// It wakes none. No doorbell has rung yet.
    Muted,
    /// It wakes none. This doorbell has rung.
    Missed(Missed),
}

/// A doorbell that rang while muted.
pub(super) struct Missed(Arc<Bell>);

impl Missed {
    /// Wakes the connection now.
    pub(super) fn ring(self) {
        self.0.wake();
    }
}

/// The doorbell of one connection.
#[derive(Default)]
pub(super) struct Doorbell(Option<(Arc<Bell>, Waker)>);

struct Bell {
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match HEARING.take() {
            Hearing::Heard => self.task.wake_by_ref(),
            Hearing::Muted | Hearing::Missed(_) => HEARING.set(Hearing::Missed(Missed(Arc::clone(self)))),
        }
    }
}

impl Doorbell {
    /// Polls a future with the doorbell in place of the task's waker.
    pub(super) fn poll<F: Future>(&mut self, future: Pin<&mut F>, cx: &Context<'_>) -> Poll<F::Output> {
        let known = self.0.take_if(|(bell, _)| bell.task.will_wake(cx.waker()));
        let (_, waker) = self.0.insert(known.unwrap_or_else(|| {
            let bell = Arc::new(Bell { task: cx.waker().clone() });
            (Arc::clone(&bell), Waker::from(bell))
        }));
        future.poll(&mut Context::from_waker(waker))
    }
}

/// Runs `work` while this thread does not wake the connection of a doorbell that it rings. Returns that doorbell. Other
/// threads may ring meanwhile, and do wake.
pub(super) fn muted<T>(work: impl FnOnce() -> T) -> (T, Option<Missed>) {
    /// Restores the state even if `work` panics. A thread that stayed muted would hang all of its connections.
    struct Unmute(Hearing);
    impl Drop for Unmute {
        fn drop(&mut self) {
            HEARING.set(std::mem::take(&mut self.0));
        }
    }
    let unmute = Unmute(HEARING.replace(Hearing::Muted));
    let result = work();
    let missed = match HEARING.take() {
        Hearing::Missed(missed) => Some(missed),
        Hearing::Heard | Hearing::Muted => None,
    };
    drop(unmute);
    (result, missed)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::Ordering::Relaxed;

    use super::super::tests::Woken;
    use super::*;

    /// A waker for a future, and how often it woke the task.
    fn doorbell() -> (Waker, Arc<Woken>) {
        let (woken, mut doorbell) = (Arc::<Woken>::default(), Doorbell::default());
        let mut given = None;
        let mut look = |task: &Waker| {
            let future = poll_fn(|cx| {
                given = Some(cx.waker().clone());
                Poll::<()>::Pending
            });
            assert!(doorbell.poll(std::pin::pin!(future), &Context::from_waker(task)).is_pending());
            given.clone().expect("it was looked at")
        };
        let task = Waker::from(Arc::clone(&woken));
        assert!(look(&task).will_wake(&look(&task)), "one for each task");
        assert!(!look(Waker::noop()).will_wake(&look(&task)));
        (look(&task), woken)
    }

    #[test]
    fn what_is_muted_wakes_nobody_and_is_told() {
        let (bell, woken) = doorbell();
        bell.wake_by_ref();
        assert_eq!(woken.0.load(Relaxed), 1);
        let ((), missed) = muted(|| bell.wake_by_ref());
        let (seven, none) = muted(|| 7);
        assert_eq!((seven, none.is_none(), woken.0.load(Relaxed)), (7, true, 1));
        bell.wake_by_ref();
        assert_eq!(woken.0.load(Relaxed), 2);
        missed.expect("it was rung").ring();
        assert_eq!(woken.0.load(Relaxed), 3);
        let (inner, outer) = muted(|| muted(|| bell.wake_by_ref()).1);
        assert!(inner.is_some() && outer.is_none(), "each is told of its own");
    }

    #[test]
    fn only_this_thread_is_muted_and_not_for_longer_than_a_panic() {
        let (bell, woken) = doorbell();
        let elsewhere = bell.clone();
        muted(|| std::thread::spawn(move || elsewhere.wake()).join().expect("it wakes"));
        assert_eq!(woken.0.load(Relaxed), 1);
        let broken = std::panic::catch_unwind(|| muted(|| panic!("within")));
        assert!(broken.is_err());
        bell.wake();
        assert_eq!(woken.0.load(Relaxed), 2);
    }
}
