//! Commands that say when a key goes, and options of `SET` and `GETEX` that do, read as Redis 7 reads them.
//!
//! Pure: a time that counts from now is turned into a moment by the leader that takes the write. What is refused for being beyond all time
//! is judged by a moment in the past, so within the last years that a number can say it is taken here and refused by Redis.

use super::data::{ReplyShape, Work};
use super::request::{CommandLine, Error};
use crate::request::{Change, ExpireWhen, Expiry, KeyExpiry, Op, When};

/// Options may repeat themselves; this many are enough to say everything.
const OPTIONS_MAX: usize = 32;
/// 2024-01-01 in milliseconds since the Unix epoch: what a time that counts from now is added to, at least.
const NOW_MIN_MS: i64 = 1_704_067_200_000;

/// How a time is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeForm {
    in_seconds: bool,
    /// Since the Unix epoch; else from now on.
    is_absolute: bool,
}

/// From now on, in seconds.
pub const SECONDS: TimeForm = TimeForm { in_seconds: true, is_absolute: false };
/// From now on, in milliseconds.
pub const MILLISECONDS: TimeForm = TimeForm { in_seconds: false, is_absolute: false };
/// Since the Unix epoch, in seconds.
pub const AT_SECOND: TimeForm = TimeForm { in_seconds: true, is_absolute: true };
/// Since the Unix epoch, in milliseconds.
pub const AT_MILLISECOND: TimeForm = TimeForm { in_seconds: false, is_absolute: true };

const OPTIONS: [(&str, TimeForm); 4] =
    [("EX", SECONDS), ("PX", MILLISECONDS), ("EXAT", AT_SECOND), ("PXAT", AT_MILLISECOND)];

impl TimeForm {
    /// In milliseconds, if there is a moment that is so far away.
    fn millis(self, time: i64) -> Option<i64> {
        let ms = if self.in_seconds { time.checked_mul(1000)? } else { time };
        self.is_absolute.then_some(ms).or_else(|| ms.checked_add(NOW_MIN_MS).map(|_| ms))
    }

    /// Of a time that may have passed.
    fn expiry(self, time: i64) -> Option<Expiry> {
        let ms = self.millis(time)?;
        Some(match u64::try_from(ms) {
            Ok(ms) if self.is_absolute => Expiry::At(ms),
            Ok(ms) => Expiry::After(ms),
            Err(_negative) => Expiry::At(0),
        })
    }
}

fn invalid_time(name: &'static str) -> Error {
    Error::new(format!("ERR invalid expire time in '{name}' command"))
}

/// `SETEX key time value` and `PSETEX`.
pub(super) fn setex(request: &CommandLine<'_>, form: TimeForm) -> Result<(Work, ReplyShape), Error> {
    let name = if form.in_seconds { "setex" } else { "psetex" };
    let expiry = positive(request, 2, form, name)?;
    let puts = vec![(request.key(1)?, request.value(3)?, expiry)];
    Ok((Work::One(Op::PutTimed { puts }), ReplyShape::Ok))
}

/// `EXPIRE key time [NX|XX|GT|LT]` and its relatives.
pub(super) fn expire(
    request: &CommandLine<'_>,
    form: TimeForm,
    name: &'static str,
) -> Result<(Op, ReplyShape), Error> {
    let when = expire_when(request)?;
    let expiry = form.expiry(request.integer(2)?).ok_or_else(|| invalid_time(name))?;
    let change = Change::Expire { expiry, when };
    Ok((Op::Modify { key: request.key(1)?, change }, ReplyShape::Integer))
}

/// `PERSIST key`.
pub(super) fn persist(request: &CommandLine<'_>) -> Result<(Op, ReplyShape), Error> {
    let change = Change::Expire { expiry: Expiry::Never, when: ExpireWhen::Expires };
    Ok((Op::Modify { key: request.key(1)?, change }, ReplyShape::Integer))
}

fn expire_when(request: &CommandLine<'_>) -> Result<ExpireWhen, Error> {
    if request.count() > OPTIONS_MAX {
        return Err(Error::SYNTAX);
    }
    let [mut stays, mut expires, mut later, mut earlier] = [false; 4];
    for index in 3..request.count() {
        match () {
            () if request.is(index, "NX") => stays = true,
            () if request.is(index, "XX") => expires = true,
            () if request.is(index, "GT") => later = true,
            () if request.is(index, "LT") => earlier = true,
            () => {
                let option =
                    String::from_utf8_lossy(&request.arg(index)[..request.arg(index).len().min(128)]);
                return Err(Error::new(format!("ERR Unsupported option {option}")));
            }
        }
    }
    match (stays, expires, later, earlier) {
        (true, true, _, _) | (true, _, true, _) | (true, _, _, true) => {
            Err(Error::constant("ERR NX and XX, GT or LT options at the same time are not compatible"))
        }
        (_, _, true, true) => {
            Err(Error::constant("ERR GT and LT options at the same time are not compatible"))
        }
        (true, false, false, false) => Ok(ExpireWhen::Stays),
        // What does not expire never goes later, so that it has to expire says nothing more.
        (false, _, true, false) => Ok(ExpireWhen::Later),
        (false, true, false, true) => Ok(ExpireWhen::ExpiresEarlier),
        (false, false, false, true) => Ok(ExpireWhen::Earlier),
        (false, true, false, false) => Ok(ExpireWhen::Expires),
        (false, false, false, false) => Ok(ExpireWhen::Always),
    }
}

/// The time at `index`, which has to be above zero.
fn positive(
    request: &CommandLine<'_>,
    index: usize,
    form: TimeForm,
    name: &'static str,
) -> Result<Expiry, Error> {
    let time = Some(request.integer(index)?).filter(|time| *time > 0);
    time.and_then(|time| form.expiry(time)).ok_or_else(|| invalid_time(name))
}

/// The options of `SET` and `GETEX`.
#[derive(Debug, Default)]
struct Options {
    when: Option<When>,
    get: bool,
    keeps: bool,
    persists: bool,
    /// How the time is said, and where it stands.
    time: Option<(TimeForm, usize)>,
}

impl Options {
    /// Reads those from argument `from` on; `sets` says whether they are of `SET`.
    fn read(request: &CommandLine<'_>, from: usize, sets: bool) -> Result<Self, Error> {
        if request.count() > OPTIONS_MAX {
            return Err(Error::SYNTAX);
        }
        let (mut options, mut index) = (Self::default(), from);
        while index < request.count() {
            let Options { when, get, keeps, persists, time } = &mut options;
            match () {
                () if sets && request.is(index, "NX") && !matches!(when, Some(When::Present)) => {
                    *when = Some(When::Absent);
                }
                () if sets && request.is(index, "XX") && !matches!(when, Some(When::Absent)) => {
                    *when = Some(When::Present);
                }
                () if sets && request.is(index, "GET") => *get = true,
                () if sets && request.is(index, "KEEPTTL") && time.is_none() => *keeps = true,
                () if !sets && request.is(index, "PERSIST") && time.is_none() => *persists = true,
                () => {
                    let named = OPTIONS.into_iter().find(|(name, _)| request.is(index, name));
                    let alone =
                        |form: &TimeForm| !*keeps && !*persists && time.is_none_or(|(it, _)| it == *form);
                    let form = named.map(|(_, form)| form).filter(alone);
                    index += 1;
                    *time = Some((form.filter(|_| index < request.count()).ok_or(Error::SYNTAX)?, index));
                }
            }
            index += 1;
        }
        Ok(options)
    }
}

/// `SET key value [NX|XX] [GET] [EX|PX|EXAT|PXAT time|KEEPTTL]` with options.
pub(super) fn set(request: &CommandLine<'_>) -> Result<(Work, ReplyShape), Error> {
    let Options { when, get, keeps, persists: _, time } = Options::read(request, 3, true)?;
    let expiry = match time {
        Some((form, index)) => positive(request, index, form, "set")?,
        None if keeps => Expiry::Keep,
        None => Expiry::Never,
    };
    let shape = match (get, &when) {
        (true, _) => ReplyShape::Previous,
        (false, Some(_)) => ReplyShape::SetOrNull,
        (false, None) => ReplyShape::Ok,
    };
    let (key, value) = (request.key(1)?, request.value(2)?);
    if when.is_none() && !get && !keeps {
        return Ok((Work::One(Op::PutTimed { puts: vec![(key, value, expiry)] }), shape));
    }
    let when = when.unwrap_or(When::Always);
    let change = match expiry {
        Expiry::Never => Change::SetIf { value, when },
        expiry @ (Expiry::Keep | Expiry::After(_) | Expiry::At(_)) => {
            Change::SetTimed { value, when, expiry }
        }
    };
    Ok((Work::One(Op::Modify { key, change }), shape))
}

/// `GETEX key [PERSIST|EX|PX|EXAT|PXAT time]`. Of a key that is not there Redis finds no fault, whatever the time is.
pub(super) fn getex(request: &CommandLine<'_>) -> Result<(Op, ReplyShape), Error> {
    let Options { persists, time, when: _, get: _, keeps: _ } = Options::read(request, 2, false)?;
    let key = request.key(1)?;
    let expiry = match time.map(|(form, index)| positive(request, index, form, "getex")) {
        Some(Ok(expiry)) => expiry,
        Some(Err(error)) if error == Error::NOT_AN_INTEGER => {
            return Ok((Op::Get { key }, ReplyShape::ValueRefused(NOT_AN_INTEGER)));
        }
        Some(Err(_out_of_range)) => return Ok((Op::Get { key }, ReplyShape::ValueRefused(INVALID_GETEX))),
        None if persists => Expiry::Never,
        None => return Ok((Op::Get { key }, ReplyShape::Value)),
    };
    Ok((Op::Modify { key, change: Change::GetTimed { expiry } }, ReplyShape::Value))
}

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const INVALID_GETEX: &str = "ERR invalid expire time in 'getex' command";

/// `TTL`, `PTTL`, `EXPIRETIME` and `PEXPIRETIME`: of which form the answer is.
pub(super) fn told(request: &CommandLine<'_>, form: TimeForm) -> Result<(Op, ReplyShape), Error> {
    Ok((Op::Expiry { key: request.key(1)? }, ReplyShape::Expiry(form)))
}

/// As Redis says it: -2 for no key, -1 for one that stays.
pub(super) fn say(expiry: KeyExpiry, form: TimeForm) -> i64 {
    let ms = match expiry {
        KeyExpiry::Absent => return -2,
        KeyExpiry::Never => return -1,
        KeyExpiry::At { until_ms, left_ms: _ } if form.is_absolute => until_ms,
        KeyExpiry::At { until_ms: _, left_ms } => left_ms,
    };
    let said = if form.in_seconds { ms.saturating_add(500) / 1000 } else { ms };
    i64::try_from(said).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_up_to_the_last_that_there_is() {
        assert_eq!(SECONDS.expiry(7), Some(Expiry::After(7000)));
        assert_eq!(MILLISECONDS.expiry(-7), Some(Expiry::At(0)));
        assert_eq!(AT_SECOND.expiry(7), Some(Expiry::At(7000)));
        assert_eq!(AT_MILLISECOND.expiry(i64::MAX), Some(Expiry::At(i64::MAX as u64)));
        assert_eq!((MILLISECONDS.expiry(i64::MAX), SECONDS.expiry(i64::MAX / 1000)), (None, None));
        assert_eq!((SECONDS.expiry(i64::MAX), SECONDS.expiry(i64::MIN)), (None, None));
    }

    #[test]
    fn what_is_left_is_said_in_the_form_that_was_asked_for() {
        let at = KeyExpiry::At { until_ms: 1_499, left_ms: 1_500 };
        let said = |form| say(at, form);
        assert_eq!([SECONDS, MILLISECONDS, AT_SECOND, AT_MILLISECOND].map(said), [2, 1500, 1, 1499]);
        assert_eq!((say(KeyExpiry::Absent, SECONDS), say(KeyExpiry::Never, AT_SECOND)), (-2, -1));
    }
}
