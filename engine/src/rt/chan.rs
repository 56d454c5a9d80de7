//! Core-to-core and thread-to-core queues.
//!
//! Every queue has a stated bound. On a core only the async and the `try_` forms exist: a blocking send would stall every
//! region that the core owns.

/// The sending side; may be cloned and moved to any core or thread.
#[derive(Debug)]
pub struct Sender<T>(flume::Sender<T>);

/// The receiving side.
#[derive(Debug)]
pub struct Receiver<T>(flume::Receiver<T>);

/// The other side is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// Why a message was not taken.
#[derive(Debug)]
pub enum TrySend<T> {
    /// The queue is at its bound; the message comes back.
    Full(T),
    /// The receiver is gone; the message comes back.
    Closed(T),
}

/// A queue that holds at most `bound` messages.
pub fn queue<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    let (tx, rx) = flume::bounded(bound);
    (Sender(tx), Receiver(rx))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Waits for room. Never call it while not draining this core's own inbox, or two full cores wait for each other.
    pub async fn send(&self, message: T) -> Result<(), Closed> {
        self.0.send_async(message).await.map_err(|_| Closed)
    }

    /// Sends if there is room.
    pub fn try_send(&self, message: T) -> Result<(), TrySend<T>> {
        self.0.try_send(message).map_err(|refused| match refused {
            flume::TrySendError::Full(message) => TrySend::Full(message),
            flume::TrySendError::Disconnected(message) => TrySend::Closed(message),
        })
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Receiver<T> {
    /// Waits for the next message; `None` when every sender is gone.
    pub async fn recv(&self) -> Option<T> {
        self.0.recv_async().await.ok()
    }

    /// The next message, if one waits.
    pub fn try_recv(&self) -> Option<T> {
        self.0.try_recv().ok()
    }

    /// Waits for one message, then takes what else is there, up to `most` in all. `false` when every sender is gone.
    pub async fn recv_batch(&self, into: &mut Vec<T>, most: usize) -> bool {
        let Some(first) = self.recv().await else { return false };
        into.push(first);
        while into.len() < most {
            match self.try_recv() {
                Some(message) => into.push(message),
                None => break,
            }
        }
        true
    }
}
