//! The parser against a packer, byte by byte and with damage.

use store::wire::resp::frame::{FrameLimits, Malformed, Parsed, Parser, integer};

use crate::resp_server::{Random, packed};

type Commands = Vec<Vec<Vec<u8>>>;

/// Feeds `input` in pieces that end at `cuts`; the commands and what stopped it.
fn parse_all(input: &[u8], cuts: &[usize]) -> (Commands, Option<Malformed>) {
    let (mut parser, mut commands, mut start) = (Parser::default(), Commands::new(), 0);
    for &end in cuts.iter().chain([&input.len()]) {
        loop {
            let rest = &input[start..end];
            if rest.is_empty() {
                break;
            }
            match parser.parse(rest, &FrameLimits::OPEN) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Nothing { bytes }) => {
                    assert!(bytes > 0 && bytes <= rest.len());
                    start += bytes;
                }
                Ok(Parsed::Command { bytes }) => {
                    assert!(bytes > 0 && bytes <= rest.len() && !parser.is_empty());
                    let text = parser.text(rest);
                    commands
                        .push((0..parser.len()).map(|index| text[parser.range(index)].to_vec()).collect());
                    start += bytes;
                }
                Err(malformed) => return (commands, Some(malformed)),
            }
            parser.restart();
        }
    }
    (commands, None)
}

/// What any input must satisfy: however it is cut, it means the same.
fn check_bytes(input: &[u8], random: &mut Random) {
    let whole = parse_all(input, &[]);
    let every_byte: Vec<usize> = (1..input.len()).collect();
    assert_eq!(whole, parse_all(input, &every_byte), "{}", input.escape_ascii());
    let mut cuts: Vec<usize> = (0..random.below(5)).map(|_| random.below(input.len() + 1)).collect();
    cuts.sort_unstable();
    assert_eq!(whole, parse_all(input, &cuts), "{} cut at {cuts:?}", input.escape_ascii());
}

fn random_commands(random: &mut Random) -> Commands {
    let word = |random: &mut Random| {
        let len = [0, 1, 3, 20, 300][random.below(5)];
        (0..len).map(|_| b"\r\n$*0aG \"'\\x\xff\0"[random.below(14)]).collect()
    };
    (0..1 + random.below(4)).map(|_| (0..1 + random.below(5)).map(|_| word(random)).collect()).collect()
}

#[test]
fn what_another_packer_packs_is_parsed_however_it_is_cut() {
    for seed in 0..300 {
        let mut random = Random(engine::rt::rng::Rng::new(seed));
        let commands = random_commands(&mut random);
        let mut input = Vec::new();
        for command in &commands {
            let mut packer = redis::Cmd::new();
            command.iter().for_each(|word| {
                packer.arg(&word[..]);
            });
            input.extend(packer.get_packed_command());
        }
        assert_eq!(parse_all(&input, &[]), (commands, None), "seed {seed}");
        check_bytes(&input, &mut random);
    }
}

#[test]
fn damaged_input_means_the_same_however_it_is_cut() {
    for seed in 0..3000 {
        let mut random = Random(engine::rt::rng::Rng::new(seed));
        let mut input: Vec<u8> = random_commands(&mut random)
            .iter()
            .flat_map(|words| packed(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()))
            .collect();
        for _ in 0..=random.below(3) {
            if input.is_empty() {
                break;
            }
            let place = random.below(input.len());
            match random.below(4) {
                0 => input[place] = random.next() as u8,
                1 => input.insert(place, b"*$\r\n-19 \"'"[random.below(10)]),
                2 => drop(input.remove(place)),
                _ => input.truncate(place + 1),
            }
        }
        check_bytes(&input, &mut random);
    }
}

#[test]
fn noise_never_panics() {
    for seed in 0..2000 {
        let mut random = Random(engine::rt::rng::Rng::new(seed));
        let input: Vec<u8> =
            (0..random.below(60)).map(|_| b"*$\r\n0123-+ab \"'\\x\0\xff"[random.below(19)]).collect();
        check_bytes(&input, &mut random);
    }
}

#[test]
fn lengths_are_bounded_before_anything_is_allocated() {
    let fails = |input: &[u8], limits: &FrameLimits| Parser::default().parse(input, limits).unwrap_err();
    let small = FrameLimits { args_max: 3, bulk_bytes_max: 10, frame_bytes_max: 30 };
    assert_eq!(fails(b"*4\r\n", &small), Malformed::TooManyArguments { most: 3 });
    assert_eq!(fails(b"*9223372036854775807\r\n", &small), Malformed::TooManyArguments { most: 3 });
    assert_eq!(fails(b"*9223372036854775808\r\n", &small), Malformed::ArgumentCount);
    assert_eq!(fails(b"*1\r\n$11\r\n", &small), Malformed::BulkTooLong { bytes: 11, most: 10 });
    assert_eq!(
        fails(b"*1\r\n$9223372036854775807\r\n", &small),
        Malformed::BulkTooLong { bytes: i64::MAX as u64, most: 10 }
    );
    assert_eq!(fails(b"*3\r\n$10\r\n0123456789\r\n$10\r\n", &small), Malformed::FrameTooLong { most: 30 });
    assert_eq!(fails(&[b'a'; 70_000], &FrameLimits::OPEN), Malformed::LineTooLong);
    assert_eq!(fails(&[b'*'; 100], &FrameLimits::OPEN), Malformed::LineTooLong);
    assert_eq!(fails(b"*1\r\n$1\r\nabc", &FrameLimits::OPEN), Malformed::Unterminated);
}

#[test]
fn a_command_has_so_many_arguments_and_no_more() {
    let most = FrameLimits::OPEN.args_max;
    let parse = |input: String| Parser::default().parse(input.as_bytes(), &FrameLimits::OPEN);
    assert_eq!(parse(format!("*{most}\r\n")), Ok(Parsed::Incomplete));
    assert_eq!(parse(format!("*{}\r\n", most + 1)), Err(Malformed::TooManyArguments { most: 128 << 10 }));
}

#[test]
fn integers_are_strict() {
    for value in [0, 1, -1, 10, i64::MAX, i64::MIN] {
        assert_eq!(integer(value.to_string().as_bytes()), Some(value));
    }
    for text in
        ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809", "x"]
    {
        assert_eq!(integer(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn inline_commands_know_quotes() {
    for (line, expected) in [
        ("PING\r\n", &["PING"][..]),
        ("  set  a\tb \n", &["set", "a", "b"]),
        (r#"set a "b c""#, &["set", "a", "b c"]),
        (r#"set a "\x41\n\"""#, &["set", "a", "A\n\""]),
        (r"set a 'b \' c'", &["set", "a", "b ' c"]),
        (r#"set a """#, &["set", "a", ""]),
    ] {
        let input = format!("{}\r\n", line.trim_end_matches(['\r', '\n']));
        let words = expected.iter().map(|word| word.as_bytes().to_vec()).collect();
        assert_eq!(parse_all(input.as_bytes(), &[]), (vec![words], None), "{line}");
    }
    for line in ["a \"b\n", "a 'b\n", "a \"b\"c\n"] {
        assert_eq!(parse_all(line.as_bytes(), &[]), (vec![], Some(Malformed::Quotes)), "{line}");
    }
}
