//! The load generator's client of TiKV's API follows regions: it is refused nothing while they are split and moved.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bench::client::{AnswerResult, Connection, Protocol, Request};
use bench::sim::callers::Shared;
use engine::rt::Rt;

/// Requests of such a client in flight.
const AT_ONCE: u64 = 4;

/// What these clients heard.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) answered: Cell<u64>,
    pub(super) refused: RefCell<Vec<String>>,
}

/// Writes and reads the keys that `key` makes of random numbers, until `shared` is done.
pub(super) async fn follow(
    rt: Rt,
    pd: SocketAddr,
    key: impl Fn(u64) -> String,
    shared: Rc<Shared>,
    followed: Rc<Followed>,
) {
    while !shared.done.get() {
        // In rough weather a connection may break, or not come about.
        let Ok(mut connection) = Connection::open(&rt, Protocol::Tikv, pd, None).await else {
            rt.sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !shared.done.get() && ask(&rt, &mut connection, &key, &followed).await {
            rt.sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Some requests at once. Whether the connection is still there.
async fn ask(
    rt: &Rt,
    connection: &mut Connection,
    key: &impl Fn(u64) -> String,
    followed: &Followed,
) -> bool {
    for tag in 0..AT_ONCE {
        let key = key(rt.random() >> 1);
        let key = key.as_bytes();
        let request =
            if tag == 0 { Request::Put { key, value: &[b'f'; 1000] } } else { Request::Get { key } };
        connection.push(tag, request);
    }
    let (mut waiting, mut answers) = (AT_ONCE, Vec::new());
    while waiting > 0 {
        if connection.flush().await.is_err() || connection.answers(&mut answers).await.is_err() {
            return false;
        }
        for answer in answers.drain(..) {
            waiting -= 1;
            followed.answered.set(followed.answered.get() + 1);
            if let AnswerResult::Refused(why) = answer.result {
                followed.refused.borrow_mut().push(why);
            }
        }
    }
    true
}
