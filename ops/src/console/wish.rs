//! What the console can be asked, read from a path and a query. Nothing else is taken, so whatever is asked has a bounded answer.

use store::control::overview::RegionCondition;
use store::wire::proto::ringkeep::HeatOf;

/// Regions of one page, at most, and where nothing is said.
const REGIONS_MAX: u32 = 256;
const REGIONS_USUAL: u32 = 50;

/// What is counted per range of keys, by the name that it has in a query, with its unit.
pub(super) const HEATS: [(&str, HeatOf, &str); 5] = [
    ("operations", HeatOf::Ops, "operations/s"),
    ("reads", HeatOf::Reads, "reads/s"),
    ("writes", HeatOf::Writes, "writes/s"),
    ("read-bytes", HeatOf::ReadBytes, "bytes/s"),
    ("written-bytes", HeatOf::WriteBytes, "bytes/s"),
];

/// Something that the console shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// The cluster in numbers, its stores and operators, and this node.
    Overview,
    /// The key space in a bounded number of cells.
    Map,
    /// Regions page by page.
    Regions(Page),
    /// The last hour, by an index into [`HEATS`].
    Heat(usize),
}

/// Which regions are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// Those behind this one; 0 for the first ones.
    pub(super) after: u64,
    pub(super) limit: u32,
    /// Those with a replica on this store; 0 for all.
    pub(super) store: u64,
    /// Those of which this holds; empty for all.
    pub(super) state: String,
    /// Those with the most operations.
    pub(super) hottest: bool,
}

/// Why nothing is shown: a status, and a sentence.
pub(super) type Refusal = (u16, String);

impl Wish {
    /// What a path and a query mean.
    ///
    /// # Errors
    /// Why they mean nothing.
    pub(super) fn read(path: &str, query: &str) -> Result<Self, Refusal> {
        let name = path.strip_prefix("/api/v1/").unwrap_or_default();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<(&str, &str)> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        match name {
            "overview" => only(&pairs, &[]).map(|()| Self::Overview),
            "map" => only(&pairs, &[]).map(|()| Self::Map),
            "regions" => page(&pairs).map(Self::Regions),
            "heat" => heat(&pairs).map(Self::Heat),
            _ => Err((
                404,
                "there is nothing here; there are /api/v1/overview, map, regions and heat".to_owned(),
            )),
        }
    }
}

fn only(pairs: &[(&str, &str)], known: &[&str]) -> Result<(), Refusal> {
    match pairs.iter().find(|(name, _)| !known.contains(name)) {
        None => Ok(()),
        Some((name, _)) if known.is_empty() => {
            Err((400, format!("\"{}\" is not known: nothing can be said here", short(name))))
        }
        Some((name, _)) => Err((400, format!("\"{}\" is not known: say {}", short(name), known.join(", ")))),
    }
}

fn page(pairs: &[(&str, &str)]) -> Result<Page, Refusal> {
    only(pairs, &["after", "limit", "store", "state", "hottest"])?;
    let mut page = Page { limit: REGIONS_USUAL, ..Page::default() };
    let number = |name: &str, value: &str| {
        value.parse::<u64>().map_err(|_| (400, format!("{name}=\"{}\" is not a number", short(value))))
    };
    for (name, value) in pairs {
        match *name {
            "after" => page.after = number(name, value)?,
            "store" => page.store = number(name, value)?,
            "limit" => {
                page.limit = u32::try_from(number(name, value)?).unwrap_or(u32::MAX);
                if !(1..=REGIONS_MAX).contains(&page.limit) {
                    return Err((400, format!("limit has to be 1 to {REGIONS_MAX}")));
                }
            }
            "state" if value.is_empty() || RegionCondition::of(value).is_some() => {
                page.state = (*value).to_owned()
            }
            "state" => {
                let known = RegionCondition::ALL.map(RegionCondition::name).join(", ");
                return Err((400, format!("state=\"{}\" is not known: there are {known}", short(value))));
            }
            "hottest" => {
                page.hottest = match *value {
                    "true" => true,
                    "false" | "" => false,
                    other => {
                        return Err((400, format!("hottest=\"{}\" is neither true nor false", short(other))));
                    }
                }
            }
            other => unreachable!("{other} is none of the names that were looked for"),
        }
    }
    if page.hottest && page.after != 0 {
        return Err((400, "the hottest regions are one page, so none come after another".to_owned()));
    }
    Ok(page)
}

fn heat(pairs: &[(&str, &str)]) -> Result<usize, Refusal> {
    only(pairs, &["of"])?;
    let Some((_, value)) = pairs.last() else { return Ok(0) };
    HEATS.iter().position(|(name, ..)| name == value).ok_or_else(|| {
        let known: Vec<&str> = HEATS.iter().map(|(name, ..)| *name).collect();
        (400, format!("of=\"{}\" is not counted: there are {}", short(value), known.join(", ")))
    })
}

/// As much of what a client has said as an answer repeats.
fn short(said: &str) -> String {
    said.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str) -> Result<Wish, Refusal> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Wish::read(path, query)
    }

    #[test]
    fn a_path_and_a_query_mean_one_thing() {
        assert_eq!(read("/api/v1/overview"), Ok(Wish::Overview));
        assert_eq!(read("/api/v1/map"), Ok(Wish::Map));
        assert_eq!(read("/api/v1/heat"), Ok(Wish::Heat(0)));
        assert_eq!(read("/api/v1/heat?of=written-bytes"), Ok(Wish::Heat(4)));
        let page = Page { limit: REGIONS_USUAL, ..Page::default() };
        assert_eq!(read("/api/v1/regions"), Ok(Wish::Regions(page.clone())));
        assert_eq!(read("/api/v1/regions?state="), Ok(Wish::Regions(page)));
        let page = Page { after: 7, limit: 256, store: 3, state: "short".to_owned(), hottest: false };
        assert_eq!(read("/api/v1/regions?after=7&limit=256&store=3&state=short"), Ok(Wish::Regions(page)));
    }

    #[test]
    fn what_is_refused_is_named_with_what_there_is() {
        let long = format!("/api/v1/map?{}", "x".repeat(5000));
        for (target, status, why) in [
            ("/api/v1/", 404, "overview"),
            ("/api/v2/overview", 404, "overview"),
            ("/api/v1/overview/x", 404, "overview"),
            ("/api/v1/overview?x=1", 400, "\"x\""),
            (&long, 400, "is not known"),
            ("/api/v1/regions?limit=0", 400, "1 to 256"),
            ("/api/v1/regions?limit=257", 400, "1 to 256"),
            ("/api/v1/regions?limit=99999999999999999999", 400, "not a number"),
            ("/api/v1/regions?after=-1", 400, "after=\"-1\""),
            ("/api/v1/regions?state=sad", 400, "leaderless, short"),
            ("/api/v1/regions?hottest=true&after=1", 400, "one page"),
            ("/api/v1/regions?hottest=maybe", 400, "neither true nor false"),
            ("/api/v1/heat?of=%00", 400, "operations, reads"),
        ] {
            let (found, said) = read(target).expect_err(target);
            assert!(found == status && said.contains(why) && said.len() < 300, "{target}: {found} {said}");
        }
    }
}
