//! What a command answers, once: as a table for people and as JSON for programs, so that the two never say different things.
//!
//! In JSON a table is a list of objects, in the order of its rows, whose keys are the names of the columns with underscores. Sizes are bytes,
//! times milliseconds, and their keys end with that unit: `used_bytes`, `heard_ms`, `reads_per_s`.

use serde_json::{Map, Value, json};

use super::keys;
use crate::output::Format;

/// What stands in one place of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Text(String),
    Number(u64),
    Bytes(u64),
    /// How long ago, milliseconds; nothing where it has not been.
    Ago(Option<u64>),
    /// When, milliseconds since the Unix epoch.
    Moment(u64),
    List(Vec<String>),
    Key(Vec<u8>),
    /// A value as text, which is a number to programs if it is one.
    Value(String),
    /// How often members and range of a region have changed.
    Epoch(u64, u64),
    /// Stores with a replica, each with what it is there.
    Replicas(Vec<(u64, &'static str)>),
}

/// What most replicas are, which is not said of each.
pub(super) const VOTER: &str = "voter";

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn is_right(&self) -> bool {
        match self {
            Self::Number(_) | Self::Bytes(_) | Self::Ago(_) => true,
            Self::Moment(_)
            | Self::Text(_)
            | Self::List(_)
            | Self::Key(_)
            | Self::Value(_)
            | Self::Epoch(..)
            | Self::Replicas(_) => false,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Bytes(bytes) => size(*bytes),
            Self::Ago(Some(ms)) => format!("{} s ago", ms / 1000),
            Self::Moment(ms) => moment(*ms),
            Self::Ago(None) => "not yet".to_owned(),
            Self::List(all) if all.is_empty() => "-".to_owned(),
            Self::List(all) => all.join(" "),
            Self::Key(key) => keys::show(key),
            Self::Value(value) => value.clone(),
            Self::Epoch(conf_ver, version) => format!("{conf_ver},{version}"),
            Self::Replicas(all) if all.is_empty() => "-".to_owned(),
            Self::Replicas(all) => {
                let shown = |(store, role): &(u64, &str)| match *role {
                    VOTER => store.to_string(),
                    role => format!("{store}({role})"),
                };
                all.iter().map(shown).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// What a program calls it that stands in this column: with its unit last.
    fn name(&self, column: &str) -> String {
        let name = column.replace(" B/s", " bytes per s").replace("/s", " per s").replace(' ', "_");
        match self {
            Self::Bytes(_) if !name.ends_with("_bytes_per_s") => name + "_bytes",
            Self::Ago(_) | Self::Moment(_) => name + "_ms",
            Self::Bytes(_)
            | Self::Number(_)
            | Self::Text(_)
            | Self::List(_)
            | Self::Key(_)
            | Self::Value(_)
            | Self::Epoch(..)
            | Self::Replicas(_) => name,
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) | Self::Bytes(number) | Self::Moment(number) => json!(number),
            Self::Ago(ms) => json!(ms),
            Self::List(all) => json!(all),
            Self::Key(key) => json!(key.escape_ascii().to_string()),
            Self::Value(value) => number_or_text(value),
            Self::Epoch(conf_ver, version) => json!({ "conf_ver": conf_ver, "version": version }),
            Self::Replicas(all) => {
                all.iter().map(|(store, role)| json!({ "store": store, "role": role })).collect()
            }
        }
    }
}

/// A value for programs: numbers are numbers.
pub(super) fn number_or_text(value: &str) -> Value {
    value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number))
}

/// A size with a unit of 1024.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut rest, mut unit) = (bytes, 0);
    while rest >= 10_240 && unit + 1 < units.len() {
        rest /= 1024;
        unit += 1;
    }
    format!("{rest} {}", units[unit])
}

/// A moment in UTC, to the second.
fn moment(unix_ms: u64) -> String {
    let (days, second) = (unix_ms / 86_400_000, unix_ms / 1000 % 86_400);
    // Counted from 1 March of the year 0, so that a leap day is the last of its year; eras are of 400 years.
    let from_march = days + 719_468;
    let (era, of_era) = (from_march / 146_097, from_march % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

/// Rows under named columns, and what is to be said below them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: &'static [&'static str],
    pub(super) rows: Vec<Vec<Cell>>,
    pub(super) remarks: Vec<String>,
}

impl Table {
    pub(super) fn new(columns: &'static [&'static str], rows: Vec<Vec<Cell>>) -> Self {
        Self { columns, rows, remarks: Vec::new() }
    }

    pub(super) fn text(&self) -> String {
        let shown: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let width = |at: usize| {
            let cells = shown.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([self.columns[at].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let is_right = |at: usize| self.rows.first().and_then(|row| row.get(at)).is_some_and(Cell::is_right);
        let line = |cells: Vec<&str>| -> String {
            let padded = cells.iter().enumerate().map(|(at, cell)| match (is_right(at), widths[at]) {
                (true, width) => format!("{cell:>width$}"),
                (false, width) => format!("{cell:width$}"),
            });
            format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
        };
        let mut text = line(self.columns.to_vec());
        shown.iter().for_each(|row| text.push_str(&line(row.iter().map(String::as_str).collect())));
        self.remarks.iter().for_each(|remark| text.push_str(&format!("{remark}\n")));
        text
    }

    pub(super) fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| -> Value {
            let fields = self.columns.iter().zip(row).map(|(column, cell)| (cell.name(column), cell.json()));
            Value::Object(fields.collect::<Map<String, Value>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Table(Table),
    /// A sentence, and the same for programs.
    Said(String, Value),
    /// Nothing more: it was shown while the command ran.
    Shown,
}

impl Answer {
    /// A sentence that has no numbers.
    pub(super) fn said(text: impl Into<String>) -> Self {
        let text = text.into();
        let json = json!({ "message": text });
        Self::Said(text, json)
    }

    /// As it is printed; nothing where there is nothing to print.
    pub(super) fn printed(&self, format: Format) -> Option<String> {
        let json = |value: &Value| format!("{value:#}");
        Some(match (self, format) {
            (Self::Shown, _) => return None,
            (Self::Table(table), Format::Table) => table.text(),
            (Self::Table(table), Format::Json) => json(&table.json()),
            (Self::Said(text, _), Format::Table) => text.clone(),
            (Self::Said(_, value), Format::Json) => json(value),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |id, name: &str, bytes, heard| {
            vec![Cell::Number(id), Cell::text(name), Cell::Bytes(bytes), Cell::Ago(heard)]
        };
        let rows = vec![row(1, "a", 512, Some(2500)), row(20, "longer", 3 << 30, None)];
        let mut table = Table::new(&["store", "state", "used", "heard"], rows);
        table.remarks.push("and this".to_owned());
        table
    }

    #[test]
    fn a_table_is_aligned_and_says_its_remarks_below() {
        let expected = "store  state       used    heard\n    1  a          512 B  2 s ago\n   20  longer  3072 MiB  not yet\nand this\n";
        assert_eq!(table().text(), expected);
    }

    #[test]
    fn a_moment_is_shown_in_utc() {
        for (ms, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_700_000_005_000, "2023-11-14 22:13:25 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(ms), shown);
        }
        let table = Table::new(&["at"], vec![vec![Cell::Moment(7)]]);
        assert_eq!(table.json(), json!([{ "at_ms": 7 }]));
    }

    #[test]
    fn numbers_are_numbers_in_json_also_where_a_table_has_more_beside_them() {
        let columns = &["value", "other", "epoch", "replicas", "none"];
        let cells = vec![
            Cell::Value("17".to_owned()),
            Cell::Value("learner".to_owned()),
            Cell::Epoch(3, 40),
            Cell::Replicas(vec![(1, VOTER), (4, "learner")]),
            Cell::Replicas(Vec::new()),
        ];
        let table = Table::new(columns, vec![cells]);
        let replicas = json!([{ "store": 1, "role": "voter" }, { "store": 4, "role": "learner" }]);
        let epoch = json!({ "conf_ver": 3, "version": 40 });
        let expected = json!([
            { "value": 17, "other": "learner", "epoch": epoch, "replicas": replicas, "none": [] }
        ]);
        assert_eq!(table.json(), expected);
        assert!(table.text().contains("17     learner  3,40   1 4(learner)  -"), "{}", table.text());
    }

    #[test]
    fn the_same_rows_are_objects_in_json_with_plain_numbers() {
        let expected = json!([
            { "store": 1, "state": "a", "used_bytes": 512, "heard_ms": 2500 },
            { "store": 20, "state": "longer", "used_bytes": 3_221_225_472_u64, "heard_ms": null },
        ]);
        assert_eq!(table().json(), expected);
        let keyed = Table::new(
            &["up to", "replicas", "reads/s", "read B/s"],
            vec![vec![Cell::Key(b"a\xff".to_vec()), Cell::List(Vec::new()), Cell::Number(3), Cell::Bytes(7)]],
        );
        let expected =
            json!([{ "up_to": "a\\xff", "replicas": [], "reads_per_s": 3, "read_bytes_per_s": 7 }]);
        assert_eq!(keyed.json(), expected);
        assert!(keyed.text().contains("\"a\\xff\"  -"), "{}", keyed.text());
    }
}
