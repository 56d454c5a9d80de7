//! Clients that know nothing of regions: RESP to whichever node, which finds the leader by itself.
//!
//! A call that is refused has not happened; one whose answer is lost, late or "unknown" may have.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::{Rt, Stream};

use super::{Shared, below, draw};
use crate::sim::judge::{Action, Asked, Heard};

/// How long a client waits for a connection, and for an answer at least and at most.
const CONNECT_MAX: Duration = Duration::from_millis(500);
const ANSWER_MS: (u64, u64) = (200, 9000);

/// What was said to a call.
enum Said {
    Heard(Heard),
    Refused,
    Lost,
}

/// Asks for `keys` at one of `addrs` until the run is done.
pub async fn ask_on(
    rt: Rt,
    number: u64,
    (addrs, keys): (Vec<SocketAddr>, &'static [&'static str]),
    shared: Rc<Shared>,
) {
    let (mut written, mut stream) = (0, None);
    while !shared.done.get() {
        let key = keys[below(&rt, keys.len() as u64) as usize];
        let action = draw(&rt, &format!("r{number}"), &mut written);
        call(&rt, &addrs, &mut stream, key, &action, &shared).await;
        rt.sleep(Duration::from_millis(10 + below(&rt, 60))).await;
    }
}

/// Writes and reads every key at every node. How many calls were answered.
pub async fn ask_everywhere(rt: Rt, addrs: Vec<SocketAddr>, keys: &[&str]) -> usize {
    let mut answered = 0;
    for (n, addr) in addrs.iter().enumerate() {
        for key in keys {
            let mut stream = rt.connect(*addr).await.expect("the node serves");
            let value = format!("{key}{n}");
            let set = say(&mut stream, key, &Action::Set(value.clone())).await;
            answered += usize::from(matches!(set, Ok(Said::Heard(Heard::Done))));
            let mut other = rt.connect(addrs[(n + 1) % addrs.len()]).await.expect("the node serves");
            let got = say(&mut other, key, &Action::Get).await;
            answered +=
                usize::from(matches!(got, Ok(Said::Heard(Heard::Value(Some(read)))) if read == value));
        }
    }
    answered
}

/// One call at the node of the connection, or at any.
async fn call(
    rt: &Rt,
    addrs: &[SocketAddr],
    kept: &mut Option<Stream>,
    key: &'static str,
    action: &Action,
    shared: &Shared,
) {
    let open = match kept.take() {
        Some(stream) if below(rt, 10) > 0 => Some(stream),
        Some(_) | None => {
            let addr = addrs[below(rt, addrs.len() as u64) as usize];
            rt.timeout(CONNECT_MAX, rt.connect(addr)).await.and_then(Result::ok)
        }
    };
    let Some(mut stream) = open else { return };
    let asked: Asked = shared.history.borrow_mut().ask(key, action.clone(), None);
    let most = Duration::from_millis(ANSWER_MS.0 + below(rt, ANSWER_MS.1 - ANSWER_MS.0));
    match rt.timeout(most, say(&mut stream, key, action)).await {
        Some(Ok(Said::Heard(heard))) => {
            shared.history.borrow_mut().hear(&asked, heard);
            shared.answered_anywhere.set(shared.answered_anywhere.get() + 1);
            *kept = Some(stream);
        }
        Some(Ok(Said::Refused)) => {
            shared.history.borrow_mut().refused(&asked);
            shared.refused_anywhere.set(shared.refused_anywhere.get() + 1);
            *kept = Some(stream);
        }
        Some(Ok(Said::Lost)) => *kept = Some(stream),
        // The connection is of no use any more, and what was asked may have happened.
        Some(Err(Broken::Stream)) | None => {}
        Some(Err(Broken::Protocol(said))) => {
            shared.failures.borrow_mut().push(format!("{key} was answered with \"{said}\""));
        }
    }
}

enum Broken {
    Stream,
    Protocol(String),
}

async fn say(stream: &mut Stream, key: &str, action: &Action) -> Result<Said, Broken> {
    let words: Vec<&str> = match action {
        Action::Get => vec!["GET", key],
        Action::Set(value) => vec!["SET", key, value],
        Action::Delete => vec!["DEL", key],
        Action::Increment => unreachable!("these keys are no counters"),
    };
    let mut request = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    stream.write_all(request.as_bytes()).await.map_err(|_| Broken::Stream)?;
    let first = line(stream).await?;
    if let Some(error) = first.strip_prefix('-') {
        return match error {
            _ if error.contains("the outcome is unknown") => Ok(Said::Lost),
            _ if error.starts_with("CLUSTERDOWN") || error.starts_with("TRYAGAIN") => Ok(Said::Refused),
            _ => Err(Broken::Protocol(first)),
        };
    }
    Ok(Said::Heard(match (action, first.as_str()) {
        (Action::Get, "$-1") => Heard::Value(None),
        (Action::Get, length) if length.starts_with('$') => Heard::Value(Some(line(stream).await?)),
        (Action::Set(_), "+OK") => Heard::Done,
        (Action::Delete, ":0" | ":1") => Heard::Existed(first == ":1"),
        (Action::Get | Action::Set(_) | Action::Delete | Action::Increment, _) => {
            return Err(Broken::Protocol(first));
        }
    }))
}

/// Commands on one connection, one after the other, and each reply as text: its lines with a space between them. Fewer if the connection
/// breaks.
pub async fn commands(rt: Rt, addr: SocketAddr, commands: Vec<Vec<String>>) -> Vec<String> {
    let mut replies = Vec::new();
    let Ok(mut stream) = rt.connect(addr).await else { return replies };
    for words in commands {
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        let Ok(()) = stream.write_all(request.as_bytes()).await else { break };
        let Ok(reply) = reply(&mut stream).await else { break };
        replies.push(reply);
    }
    replies
}

async fn reply(stream: &mut Stream) -> Result<String, Broken> {
    let (mut said, mut due) = (Vec::new(), 1);
    while due > 0 {
        let read = line(stream).await?;
        due -= 1;
        let count = read.get(1..).and_then(|count| count.parse::<i64>().ok()).unwrap_or(0);
        match read.as_bytes().first() {
            Some(b'*') => due += count.max(0),
            Some(b'$') if count >= 0 => said.push(line(stream).await?),
            Some(b'$') => said.push("nil".to_owned()),
            Some(_) | None => said.push(read),
        }
    }
    Ok(said.join(" "))
}

/// Reads a line without its end. No value here has one of its own.
async fn line(stream: &mut Stream) -> Result<String, Broken> {
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !read.ends_with(b"\r\n") {
        match stream.read(&mut byte).await {
            Ok(1..) => read.push(byte[0]),
            Ok(0) | Err(_) => return Err(Broken::Stream),
        }
    }
    read.truncate(read.len() - 2);
    String::from_utf8(read).map_err(|error| Broken::Protocol(error.to_string()))
}
