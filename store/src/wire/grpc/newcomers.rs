//! Connections that have shown nothing yet for which they should be kept: where there are too many, the oldest gives way to a new one.
//!
//! Whoever opens connections and says nothing on them would else keep out whoever has something to say. A connection is in the list from
//! its beginning until it has [settled](Newcomer::settle), and what that takes is for the port to say.
//!
//! Invariant: whoever asks for the oldest to end can wait until it is gone, so that what it held is free.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use engine::rt::chan::Sender;
use engine::rt::local::{Answer, Pending, oneshot};

use crate::descriptors::silent::{GiveWay, Given};

/// Those of one port, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    next: Cell<u64>,
    listed: RefCell<BTreeMap<u64, Rc<Notified>>>,
}

/// What the connection and the list know of each other.
#[derive(Debug, Default)]
struct Notified {
    is_to_end: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Who waits for its place, at this port or another one.
    heir: RefCell<Option<Sender<Given>>>,
    /// Dropped with the connection.
    gone: RefCell<Option<Answer<()>>>,
}

/// One connection; to be dropped after what it holds.
#[derive(Debug)]
pub(crate) struct Newcomer {
    all: Rc<Newcomers>,
    number: u64,
    notified: Rc<Notified>,
}

impl Newcomers {
    /// Takes one more in.
    pub(crate) fn enter(self: &Rc<Self>) -> Newcomer {
        let (number, notified) = (self.next.get(), Rc::<Notified>::default());
        self.next.set(number + 1);
        self.listed.borrow_mut().insert(number, notified.clone());
        Newcomer { all: self.clone(), number, notified }
    }

    /// How many have not settled.
    pub(crate) fn count(&self) -> usize {
        self.listed.borrow().len()
    }

    /// Ends one for a newcomer to any port, unless it has settled. Whether it ends.
    pub(crate) fn give_way(&self, GiveWay { number, to }: GiveWay) -> bool {
        let Some(meant) = self.listed.borrow_mut().remove(&number) else { return false };
        *meant.heir.borrow_mut() = Some(to);
        meant.end();
        true
    }

    /// Ends the oldest; none if there is none. What is returned is ready once it is gone.
    pub(crate) fn end_oldest(&self) -> Option<Pending<()>> {
        let (_, oldest) = self.listed.borrow_mut().pop_first()?;
        let (answer, gone) = oneshot();
        *oldest.gone.borrow_mut() = Some(answer);
        oldest.end();
        Some(gone)
    }
}

impl Notified {
    fn end(&self) {
        self.is_to_end.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Newcomer {
    /// What the port calls it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Who waits for its place.
    pub(crate) fn heir(&self) -> Option<Sender<Given>> {
        self.notified.heir.take()
    }

    /// It is kept from now on.
    pub(crate) fn settle(&self) {
        self.all.listed.borrow_mut().remove(&self.number);
    }

    /// Ready once it is to end, which one that has settled never is.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        if self.notified.is_to_end.get() {
            return Poll::Ready(());
        }
        let mut waker = self.notified.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Goes on with `work` unless it is to end; nothing if that comes first.
    pub(crate) async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.poll_ended(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => work.as_mut().poll(cx).map(Some),
        })
        .await
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_to_end(newcomer: &Newcomer) -> bool {
        newcomer.poll_ended(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_that_has_not_settled_gives_way() {
        let all = Rc::<Newcomers>::default();
        let [settled, older, newer, gone] = [(); 4].map(|()| all.enter());
        settled.settle();
        drop(gone);
        assert_eq!(all.count(), 2);
        let mut waits = all.end_oldest().expect("there are two");
        assert_eq!([&settled, &older, &newer].map(is_to_end), [false, true, false]);
        let mut is_gone =
            || pin!(&mut waits).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(None);
        assert!(!is_gone(), "it has heard so, and has not ended");
        drop(older);
        assert!(is_gone());
        assert!(all.end_oldest().is_some() && is_to_end(&newer));
        assert!(all.end_oldest().is_none(), "one that has settled stays");
    }
}
