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
    Refused(String),
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
        call(&rt, &addrs, &mut stream, &[(key, action)], &shared).await;
        shared.pause(&rt).await;
    }
}

/// As [`ask_on`], with numbers that are added to, several keys at once in whichever regions, and writes of keys that are absent.
pub async fn ask_more_on(
    rt: Rt,
    number: u64,
    (addrs, keys, counters): (Vec<SocketAddr>, &'static [&'static str], &'static [&'static str]),
    shared: Rc<Shared>,
) {
    let (mut written, mut stream) = (0, None);
    let name = format!("r{number}");
    while !shared.done.get() {
        let one_of = |keys: &'static [&'static str]| keys[below(&rt, keys.len() as u64) as usize];
        let mut value = || {
            written += 1;
            format!("{name}-m{written}")
        };
        let asks: Vec<_> = match below(&rt, 10) {
            0 | 1 => vec![(one_of(counters), Action::Increment)],
            2 => vec![(one_of(keys), Action::Swap(None, value()))],
            3 => keys.iter().map(|key| (*key, Action::Set(value()))).collect(),
            4 => keys.iter().chain(counters).map(|key| (*key, Action::Get)).collect(),
            _ => vec![(one_of(keys), draw(&rt, &name, &mut written))],
        };
        call(&rt, &addrs, &mut stream, &asks, &shared).await;
        shared.pause(&rt).await;
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
    asks: &[(&'static str, Action)],
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
    let ask = |(key, action): &(&'static str, Action)| -> Asked {
        shared.history.borrow_mut().ask(key, action.clone(), None)
    };
    let asked: Vec<Asked> = asks.iter().map(ask).collect();
    let most = Duration::from_millis(ANSWER_MS.0 + below(rt, ANSWER_MS.1 - ANSWER_MS.0));
    match rt.timeout(most, say_all(&mut stream, asks)).await {
        Some(Ok(SaidToAll::Heard(heard))) => {
            let all = asked.iter().zip(heard);
            all.for_each(|(asked, heard)| shared.history.borrow_mut().hear(asked, heard));
            shared.answered_anywhere.set(shared.answered_anywhere.get() + 1);
            *kept = Some(stream);
        }
        Some(Ok(SaidToAll::Refused(why))) => {
            shared.refusal_anywhere.borrow_mut().get_or_insert(why);
            asked.iter().for_each(|asked| shared.history.borrow_mut().refused(asked));
            shared.refused_anywhere.set(shared.refused_anywhere.get() + 1);
            *kept = Some(stream);
        }
        Some(Ok(SaidToAll::Lost)) => *kept = Some(stream),
        // The connection is of no use any more, and what was asked may have happened.
        Some(Err(Broken::Stream)) | None => {}
        // A node with a bad disk may say anything but something wrong.
        Some(Err(Broken::Protocol(said))) if said.starts_with('-') && shared.faulty.get() => {
            *kept = Some(stream)
        }
        Some(Err(Broken::Protocol(said))) => {
            shared.failures.borrow_mut().push(format!("{asks:?} was answered with \"{said}\""));
        }
    }
}

enum Broken {
    Stream,
    Protocol(String),
}

/// What was said to a call over one or more keys.
enum SaidToAll {
    Heard(Vec<Heard>),
    Refused(String),
    Lost,
}

/// Asks for one key, or for several that are all read or all written.
async fn say_all(stream: &mut Stream, asks: &[(&'static str, Action)]) -> Result<SaidToAll, Broken> {
    if let [(key, action)] = asks {
        return Ok(match say(stream, key, action).await? {
            Said::Heard(heard) => SaidToAll::Heard(vec![heard]),
            Said::Refused(why) => SaidToAll::Refused(why),
            Said::Lost => SaidToAll::Lost,
        });
    }
    let reads = asks.iter().all(|(_, action)| *action == Action::Get);
    let mut words = vec![if reads { "MGET" } else { "MSET" }];
    for (key, action) in asks {
        words.push(key);
        match action {
            Action::Get => {}
            Action::Set(value) => words.push(value),
            Action::Delete | Action::Increment | Action::Swap(..) => unreachable!("they do not go together"),
        }
    }
    stream.write_all(&request(&words)).await.map_err(|_| Broken::Stream)?;
    let first = line(stream).await?;
    if let Some(error) = first.strip_prefix('-') {
        return match of_error(error) {
            Some(Said::Lost) => Ok(SaidToAll::Lost),
            Some(Said::Refused(why)) => Ok(SaidToAll::Refused(why)),
            Some(Said::Heard(_)) | None => Err(Broken::Protocol(first)),
        };
    }
    let mut heard = Vec::new();
    for _ in asks {
        heard.push(match reads {
            false => Heard::Done,
            true => match line(stream).await? {
                absent if absent == "$-1" => Heard::Value(None),
                length if length.starts_with('$') => Heard::Value(Some(line(stream).await?)),
                other => return Err(Broken::Protocol(other)),
            },
        });
    }
    let expected = if reads { format!("*{}", asks.len()) } else { "+OK".to_owned() };
    if first == expected { Ok(SaidToAll::Heard(heard)) } else { Err(Broken::Protocol(first)) }
}

fn request(words: &[&str]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    request.into_bytes()
}

/// What an error means for the call, if it has a place here.
fn of_error(error: &str) -> Option<Said> {
    match error {
        _ if error.contains("the outcome is unknown") => Some(Said::Lost),
        _ if error.starts_with("CLUSTERDOWN") || error.starts_with("TRYAGAIN") => {
            Some(Said::Refused(error.to_owned()))
        }
        // There is no space for writes.
        _ if error.starts_with("MISCONF writes are refused") => Some(Said::Refused(error.to_owned())),
        _ => None,
    }
}

async fn say(stream: &mut Stream, key: &str, action: &Action) -> Result<Said, Broken> {
    let words: Vec<&str> = match action {
        Action::Get => vec!["GET", key],
        Action::Set(value) => vec!["SET", key, value],
        Action::Delete => vec!["DEL", key],
        Action::Increment => vec!["INCR", key],
        Action::Swap(None, value) => vec!["SET", key, value, "NX"],
        Action::Swap(Some(_), _) => unreachable!("RESP does not compare values"),
    };
    stream.write_all(&request(&words)).await.map_err(|_| Broken::Stream)?;
    let first = line(stream).await?;
    if let Some(error) = first.strip_prefix('-') {
        return of_error(error).ok_or_else(|| Broken::Protocol(first.clone()));
    }
    Ok(Said::Heard(match (action, first.as_str()) {
        (Action::Get, "$-1") => Heard::Value(None),
        (Action::Get, length) if length.starts_with('$') => Heard::Value(Some(line(stream).await?)),
        (Action::Set(_), "+OK") => Heard::Done,
        (Action::Delete, ":0" | ":1") => Heard::Existed(first == ":1"),
        (Action::Swap(..), "+OK") => Heard::Done,
        (Action::Swap(..), "$-1") => Heard::Existed(true),
        (Action::Increment, number) if number.starts_with(':') => match number[1..].parse() {
            Ok(number) => Heard::Integer(number),
            Err(_) => return Err(Broken::Protocol(first)),
        },
        (Action::Get | Action::Set(_) | Action::Delete | Action::Increment | Action::Swap(..), _) => {
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
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Ok(()) = stream.write_all(&request(&words)).await else { break };
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
