//! Waiting on the same core: a one-shot answer and a bell. No locks, no atomics; neither can leave its core.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The side that answers.
#[derive(Debug)]
pub struct Answer<T>(Rc<RefCell<Slot<T>>>);

/// The side that waits; `None` means that the answering side was dropped.
#[derive(Debug)]
pub struct Pending<T>(Rc<RefCell<Slot<T>>>);

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    abandoned: bool,
    waiter: Option<Waker>,
    /// The waiting side is gone.
    left: bool,
    answerer: Option<Waker>,
}

/// A place for exactly one answer.
pub fn oneshot<T>() -> (Answer<T>, Pending<T>) {
    let slot = Rc::new(RefCell::new(Slot {
        value: None,
        abandoned: false,
        waiter: None,
        left: false,
        answerer: None,
    }));
    (Answer(slot.clone()), Pending(slot))
}

impl<T> Answer<T> {
    /// Sends the answer. The waiting side may be gone, which is fine.
    pub fn send(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Answer<T> {
    /// Ready once no caller waits for the answer, so that work on it can stop.
    pub fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.0.borrow_mut();
        if slot.left {
            return Poll::Ready(());
        }
        match &mut slot.answerer {
            Some(waker) => waker.clone_from(cx.waker()),
            None => slot.answerer = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Answer<T> {
    /// Goes on with `work` while a caller waits; nothing if that ended first.
    pub async fn unless_left<W>(&self, work: impl Future<Output = W>) -> Option<W> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match self.poll_left(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => work.as_mut().poll(cx).map(Some),
        })
        .await
    }
}

impl<T> Pending<T> {
    /// A look at the answer for another part of this core.
    pub fn peek(&self) -> Peek<T> {
        Peek(self.0.clone())
    }
}

/// Looks at an answer while it waits to be taken.
#[derive(Debug)]
pub struct Peek<T>(Rc<RefCell<Slot<T>>>);

/// What a [`Peek`] sees.
#[derive(Debug)]
pub enum Peeked<'a, T> {
    /// No answer yet, or it was taken.
    Nothing,
    /// The answer.
    Answer(&'a T),
    /// The answering side was dropped.
    Abandoned,
}

impl<T> Peek<T> {
    /// Looks.
    pub fn look<R>(&self, see: impl FnOnce(Peeked<'_, T>) -> R) -> R {
        let slot = self.0.borrow();
        see(match &slot.value {
            Some(value) => Peeked::Answer(value),
            None if slot.abandoned => Peeked::Abandoned,
            None => Peeked::Nothing,
        })
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let answerer = {
            let mut slot = self.0.borrow_mut();
            slot.left = true;
            slot.answerer.take()
        };
        if let Some(answerer) = answerer {
            answerer.wake();
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut slot = self.0.borrow_mut();
        slot.abandoned = slot.value.is_none();
        if let Some(waiter) = slot.waiter.take() {
            waiter.wake();
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.0.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Some(value));
        }
        if slot.abandoned {
            return Poll::Ready(None);
        }
        slot.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A bell: [`Bell::ring`] lets one waiter through, now or at its next wait. Rings do not add up.
#[derive(Debug, Default)]
pub struct Bell(RefCell<BellState>);

#[derive(Debug, Default)]
struct BellState {
    rung: bool,
    waiter: Option<Waker>,
}

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        let mut state = self.0.borrow_mut();
        state.rung = true;
        if let Some(waiter) = state.waiter.take() {
            waiter.wake();
        }
    }

    /// Waits for a ring since the last wait. One waiter at a time.
    pub async fn wait(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if std::mem::take(&mut state.rung) {
                return Poll::Ready(());
            }
            state.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
