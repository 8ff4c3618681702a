//! A future that is polled only after it was woken. A task with several futures polls all of them at each wake-up; for
//! one that nearly always waits, this reduces the poll to reading a flag.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Wraps a future.
pub(super) struct WhenWoken<F> {
    future: Pin<Box<F>>,
    /// The bell that the future rings, and its waker; `None` before the first poll.
    bell: Option<(Arc<Bell>, Waker)>,
}

/// Records a wake-up and wakes the task.
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Set before the task wakes, so that its poll sees it.
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future> WhenWoken<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future: Box::pin(future), bell: None }
    }
}

impl<F: Future> Future for WhenWoken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, bell } = &mut *self;
        match bell {
            Some((bell, _)) if bell.task.will_wake(cx.waker()) => {
                if !bell.rung.load(Ordering::Acquire) {
                    return Poll::Pending;
                }
                // Cleared before the poll, so that a wake-up during it counts.
                bell.rung.store(false, Ordering::Release);
            }
            // The first poll, or the future has moved to another task.
            _ => {
                let new = Arc::new(Bell { rung: AtomicBool::new(false), task: cx.waker().clone() });
                *bell = Some((Arc::clone(&new), Waker::from(new)));
            }
        }
        let Some((_, waker)) = bell else { return Poll::Pending };
        future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use super::super::tests::Woken;
    use super::*;

    #[test]
    fn it_is_looked_at_once_for_each_time_that_it_wakes_whatever_task_has_it() {
        let (looks, inner) = (AtomicUsize::new(0), Mutex::new(None::<Waker>));
        let mut future = Box::pin(WhenWoken::new(poll_fn(|cx| {
            *inner.lock().expect("a waker") = Some(cx.waker().clone());
            if looks.fetch_add(1, Ordering::Relaxed) == 3 { Poll::Ready("done") } else { Poll::Pending }
        })));
        let (first, second) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let wake = || inner.lock().expect("a waker").clone().expect("it was looked at").wake();
        let mut look =
            |task: &Arc<Woken>| future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(task))));
        let counts =
            || (looks.load(Ordering::Relaxed), first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed));

        assert!(look(&first).is_pending() && look(&first).is_pending());
        assert_eq!(counts(), (1, 0, 0), "not again before it has woken its task");
        wake();
        assert!(look(&first).is_pending() && look(&first).is_pending());
        assert_eq!(counts(), (2, 1, 0));
        assert!(look(&second).is_pending(), "another task is to be woken from now on");
        wake();
        assert_eq!(counts(), (3, 1, 1));
        assert_eq!(look(&second), Poll::Ready("done"));
    }
}
