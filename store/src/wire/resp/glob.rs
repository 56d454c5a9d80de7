//! Glob patterns, as `SCAN MATCH` and `CONFIG GET` take them: `*`, `?`, `[a-z]`, `[^a]` and `\` to quote.
//!
//! A pattern is compiled once per command into bits: one per place in the pattern, and for every byte the places that it
//! fits. A text is matched by following all places at once, 64 of them in one step, so its cost is its length times a 64th
//! of the pattern's, whatever both are made of. With both at their bounds that is a third of a millisecond.

use super::request::Error;

/// Maximum length of a pattern, bytes.
pub const PATTERN_BYTES_MAX: usize = 4 << 10;
const BITS: usize = u64::BITS as usize;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Words per set of places. Place `n` means that the first `n` parts have matched, stars not counted.
    words: usize,
    /// By byte, `words` each: the places from which it leads on.
    fits: Box<[u64]>,
    /// The places at which a star eats any byte.
    stars: Box<[u64]>,
    /// The place after the last part.
    end: usize,
}

impl Pattern {
    /// Compiles a pattern that a client sent.
    ///
    /// # Errors
    /// It is longer than [`PATTERN_BYTES_MAX`].
    pub fn new(pattern: &[u8]) -> Result<Self, Error> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(Error::new(format!(
                "ERR pattern of {} bytes, the limit is {PATTERN_BYTES_MAX} bytes",
                pattern.len()
            )));
        }
        Ok(Self::compile(pattern))
    }

    fn compile(pattern: &[u8]) -> Self {
        // There are at most as many parts as bytes.
        let words = pattern.len() / BITS + 1;
        let mut compiled = Self {
            words,
            fits: vec![0; 256 * words].into_boxed_slice(),
            stars: vec![0; words].into_boxed_slice(),
            end: 0,
        };
        let mut rest = pattern;
        while let Some((&first, rest_after)) = rest.split_first() {
            rest = match first {
                b'*' => {
                    compiled.stars[compiled.end / BITS] |= 1 << (compiled.end % BITS);
                    rest_after
                }
                b'?' => compiled.part(rest_after, |_| true),
                b'[' => {
                    let (class, rest_after) = class(rest_after);
                    compiled.part(rest_after, |byte| class[usize::from(byte)])
                }
                b'\\' if !rest_after.is_empty() => {
                    compiled.part(&rest_after[1..], |byte| byte == rest_after[0])
                }
                literal => compiled.part(rest_after, |byte| byte == literal),
            };
        }
        compiled
    }

    /// Adds a part that fits the bytes that `fits` names, and goes on with `rest`.
    fn part<'a>(&mut self, rest: &'a [u8], fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let (word, bit) = (self.end / BITS, 1 << (self.end % BITS));
        for byte in (0..=u8::MAX).filter(|&byte| fits(byte)) {
            self.fits[usize::from(byte) * self.words + word] |= bit;
        }
        self.end += 1;
        rest
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        let mut places = vec![0u64; self.words];
        places[0] = 1;
        for &byte in text {
            let fits = &self.fits[usize::from(byte) * self.words..][..self.words];
            let (mut carry, mut any) = (0, 0);
            for ((places, fits), stars) in places.iter_mut().zip(fits).zip(&self.stars) {
                let on = *places & fits;
                *places = (on << 1) | carry | (*places & stars);
                carry = on >> (BITS - 1);
                any |= *places;
            }
            if any == 0 {
                return false;
            }
        }
        places[self.end / BITS] >> (self.end % BITS) & 1 == 1
    }
}

/// Whether all of `text` matches `pattern`, for one look at a pattern of our own.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    Pattern::compile(pattern).matches(text)
}

/// What every text that matches `pattern` begins with.
pub fn literal_prefix(pattern: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::new();
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        match byte {
            b'*' | b'?' | b'[' => break,
            b'\\' if at + 1 < pattern.len() => at += 1,
            _ => {}
        }
        prefix.push(pattern[at]);
        at += 1;
    }
    prefix
}

/// The bytes of the class that `rest` begins with, and what follows it. A class that is never closed ends with the pattern.
fn class(rest: &[u8]) -> ([bool; 256], &[u8]) {
    let (negated, mut rest) = match rest {
        [b'^', rest_after @ ..] => (true, rest_after),
        rest => (false, rest),
    };
    let mut members = [false; 256];
    loop {
        rest = match rest {
            [b'\\', quoted, rest_after @ ..] => {
                members[usize::from(*quoted)] = true;
                rest_after
            }
            [b']', rest_after @ ..] => {
                rest = rest_after;
                break;
            }
            [] => break,
            [from, b'-', to, rest_after @ ..] => {
                (*from.min(to)..=*from.max(to)).for_each(|byte| members[usize::from(byte)] = true);
                rest_after
            }
            [member, rest_after @ ..] => {
                members[usize::from(*member)] = true;
                rest_after
            }
        };
    }
    (members.map(|member| member != negated), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_texts() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hxllo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h[a-b]llo", "hcllo", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[\\]]", "]", true),
            ("[abc", "b", true),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} on {text}");
        }
    }

    /// What a pattern means, by trying everything. Exponential.
    fn means(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', rest @ ..], text) => (0..=text.len()).any(|eaten| means(rest, &text[eaten..])),
            ([b'?', rest @ ..], [_, text @ ..]) => means(rest, text),
            ([b'[', rest @ ..], [byte, text @ ..]) => {
                let (members, rest) = class(rest);
                members[usize::from(*byte)] && means(rest, text)
            }
            ([b'\\', quoted, rest @ ..], [byte, text @ ..]) => quoted == byte && means(rest, text),
            ([literal, rest @ ..], [byte, text @ ..]) => literal == byte && means(rest, text),
            (_, []) => false,
        }
    }

    #[test]
    fn random_patterns_mean_what_trying_everything_says() {
        let rng = engine::rt::rng::Rng::new(7);
        let below = |bound: usize| rng.below(bound as u64) as usize;
        let mut found = 0;
        for _ in 0..20_000 {
            let pattern: Vec<u8> = (0..below(9)).map(|_| b"ab*?[]^-\\"[below(9)]).collect();
            let text: Vec<u8> = (0..below(7)).map(|_| b"ab-]"[below(4)]).collect();
            let expected = means(&pattern, &text);
            found += usize::from(expected);
            let shown = (pattern.escape_ascii(), text.escape_ascii());
            assert_eq!(matches(&pattern, &text), expected, "{} on {}", shown.0, shown.1);
        }
        assert!(found > 500, "{found} matches are too few to mean anything");
    }

    #[test]
    fn parts_beyond_one_word_are_distinguished() {
        for length in [62, 63, 64, 65, 127, 128, 129, 500] {
            let text = "ab".repeat(length);
            let patterns = [
                text.clone(),
                format!("*{}", &text[1..]),
                format!("{}*", &text[..length]),
                "?".repeat(2 * length),
            ];
            for pattern in patterns {
                assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern}");
                assert!(!matches(format!("{pattern}a").as_bytes(), text.as_bytes()), "{pattern}");
            }
        }
    }

    /// The steps are counted in the type: a text byte costs one pass over `words`, and nothing is tried again.
    #[test]
    fn the_cost_of_a_pattern_is_a_64th_of_its_length() {
        let pattern = Pattern::new("*a".repeat(PATTERN_BYTES_MAX / 2).as_bytes()).unwrap();
        assert_eq!(pattern.words, PATTERN_BYTES_MAX / 64 + 1);
        assert!(!pattern.matches("ab".repeat(1000).as_bytes()));
        assert!(pattern.matches(
            "ab".repeat(2047).as_bytes().iter().chain(b"a").copied().collect::<Vec<_>>().as_slice()
        ));
        let long = vec![b'*'; PATTERN_BYTES_MAX + 1];
        assert_eq!(
            Pattern::new(&long).unwrap_err().text(),
            "ERR pattern of 4097 bytes, the limit is 4096 bytes"
        );
    }

    #[test]
    fn prefixes_end_where_a_wildcard_begins() {
        assert_eq!(literal_prefix(b"user:*:x"), b"user:");
        assert_eq!(literal_prefix(b"a\\*b?"), b"a*b");
        assert_eq!(literal_prefix(b"[ab]"), b"");
        assert_eq!(literal_prefix(b"plain"), b"plain");
    }
}
