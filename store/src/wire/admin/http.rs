//! As much HTTP/1.1 as a status page needs: one bounded request head per connection, one answer, close. Pure.

/// Maximum length of a request head, bytes.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// Whether the body is left out of the answer.
    pub(super) head_only: bool,
    /// The path without the query.
    pub(super) path: String,
    /// The query without its question mark; empty if there is none.
    pub(super) query: String,
}

impl Ask {
    /// Whether a supervisor or a load balancer asks how the node is.
    pub(super) fn is_probe(&self) -> bool {
        ["/live", "/ready", "/started"].contains(&self.path.as_str())
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

/// Reads a request head; `None` while it is not whole.
///
/// # Errors
/// The answer for a head that is not acceptable.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Ask>, Answer> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return match bytes.len() {
            length if length >= HEAD_BYTES_MAX => Err(Answer::text(431, "the request head exceeds 8 KiB")),
            _ => Ok(None),
        };
    };
    let head =
        std::str::from_utf8(&bytes[..end]).map_err(|_| Answer::text(400, "the request head is not text"))?;
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Answer::text(400, "the first line is not METHOD TARGET HTTP/1.1"));
    };
    if !version.starts_with("HTTP/1.") {
        return Err(Answer::text(505, "only HTTP/1.0 and HTTP/1.1 are spoken here"));
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Answer::text(405, "only GET and HEAD are allowed")),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Ask { head_only, path: path.to_owned(), query: query.to_owned() }))
}

impl Answer {
    /// One line of plain text.
    pub(super) fn text(status: u16, line: &str) -> Self {
        let body = format!("{line}\n").into_bytes();
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }

    /// A JSON document.
    pub(super) fn json(status: u16, body: String) -> Self {
        Self { status, content_type: "application/json", body: body.into_bytes() }
    }

    /// The bytes to send.
    pub(super) fn encode(&self, head_only: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Error",
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
             X-Content-Type-Options: nosniff\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// A JSON string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if (c as u32) < 0x20 => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_whole_or_not_at_all() {
        let whole = b"GET /ready?verbose HTTP/1.1\r\nHost: x\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Ok(None));
        }
        let ask = parse(whole).expect("a good head").expect("a whole head");
        assert_eq!((ask.path.as_str(), ask.query.as_str(), ask.head_only), ("/ready", "verbose", false));
    }

    #[test]
    fn bad_heads_get_their_own_answer() {
        let status = |bytes: &[u8]| parse(bytes).expect_err("a refusal").status;
        assert_eq!(status(b"POST / HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status(b"GET /\r\n\r\n"), 400);
        assert_eq!(status(b"GET / x HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/2\r\n\r\n"), 505);
        assert_eq!(status(b"\xff\xfe\r\n\r\n"), 400);
        assert_eq!(status(&vec![b'a'; HEAD_BYTES_MAX]), 431);
    }

    #[test]
    fn answers_say_their_length() {
        let bytes = Answer::text(200, "ok").encode(false);
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("Content-Length: 3\r\n"));
        assert!(text.ends_with("\r\n\r\nok\n"));
        assert!(Answer::text(200, "ok").encode(true).ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn strings_are_quoted_for_json() {
        assert_eq!(quote("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
