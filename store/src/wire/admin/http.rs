//! As much HTTP/1.1 as a status page needs: one bounded request head per connection, one answer, close. Pure.

use std::net::IpAddr;

/// Maximum length of a request head, bytes.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;

/// What the console asks for lies below this path.
pub(super) const API: &str = "/api/";

/// What a page may load and who may show it: scripts and styles of this server alone, none of them inline, and no frame of another page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Kinds of pages, each with places of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A supervisor or a load balancer asks how the node is.
    Probe,
    /// Something that the node has at hand.
    Page,
    /// Something that the scheduler may have to be asked for.
    Api,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// Whether the body is left out of the answer.
    pub(super) head_only: bool,
    /// The path without the query.
    pub(super) path: String,
    /// The query without its question mark; empty if there is none.
    pub(super) query: String,
    /// Whom the client takes the server for, if it says so.
    pub(super) host: Option<String>,
}

impl Ask {
    /// What kind of page it is.
    pub(super) fn kind(&self) -> Kind {
        match self.path.as_str() {
            "/live" | "/ready" | "/started" => Kind::Probe,
            path if path.starts_with(API) => Kind::Api,
            _ => Kind::Page,
        }
    }

    /// Whether the client means this server by an address or as the local one, and not by a name that some resolver made lead here.
    pub(super) fn means_an_address(&self) -> bool {
        let Some(host) = &self.host else { return true };
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let name =
            host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(&host[..], |(name, _)| name);
        let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        inside.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
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
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let host = fields.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("host"));
    let host = host.map(|(_, host)| host.trim().to_owned());
    Ok(Some(Ask { head_only, path: path.to_owned(), query: query.to_owned(), host }))
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
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Error",
        };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\
             Cache-Control: no-store\r\nContent-Security-Policy: {POLICY}\r\nCross-Origin-Resource-Policy: same-origin\r\n\
             Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n\r\n",
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
        assert_eq!(ask.host.as_deref(), Some("x"));
    }

    #[test]
    fn a_name_that_was_made_to_lead_here_is_not_an_address() {
        let means = |host: &str| {
            let head = format!("GET / HTTP/1.1\r\nAccept: x\r\nhost:{host}\r\n\r\n");
            parse(head.as_bytes()).expect("a good head").expect("a whole head").means_an_address()
        };
        for own in ["127.0.0.1", "127.0.0.1:20080", " [::1]:20080", "[::1]", "localhost", "LOCALHOST:1"] {
            assert!(means(own), "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:20080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x:127.0.0.1",
        ] {
            assert!(!means(other), "{other}");
        }
        let without = parse(b"GET / HTTP/1.0\r\n\r\n").expect("a good head").expect("a whole head");
        assert!(without.means_an_address(), "no browser leaves it out");
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
    fn every_answer_says_what_a_browser_may_do_with_it() {
        for answer in [Answer::text(200, "ok"), Answer::text(404, "no"), Answer::json(200, "{}".into())] {
            let text = String::from_utf8(answer.encode(false)).expect("text");
            let policy = text.lines().find_map(|line| line.strip_prefix("Content-Security-Policy: "));
            let policy = policy.expect("there is one");
            assert!(
                policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "),
                "{policy}"
            );
            assert!(policy.ends_with("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
            for line in ["Cross-Origin-Resource-Policy: same-origin", "Cache-Control: no-store"] {
                assert!(text.lines().any(|found| found == line), "{text}");
            }
        }
        let refused = parse(b"POST /api/v1/overview HTTP/1.1\r\n\r\n").expect_err("a refusal");
        let text = String::from_utf8(refused.encode(false)).expect("text");
        assert!(text.contains("\r\nAllow: GET, HEAD\r\n"), "{text}");
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
