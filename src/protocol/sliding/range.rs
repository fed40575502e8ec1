//! Windows of a list: inclusive index intervals that do not overlap.

use std::fmt;

/// An inclusive interval of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First index.
    pub start: usize,
    /// Last index, not less than `start`.
    pub end: usize,
}

impl Range {
    /// Everything.
    pub const ALL: Range = Range {
        start: 0,
        end: usize::MAX,
    };

    /// Returns whether the index is inside.
    pub fn contains(self, index: usize) -> bool {
        self.start <= index && index <= self.end
    }

    /// Returns the part that exists in a list of `length`, if any.
    pub fn cut_to(self, length: usize) -> Option<Range> {
        (self.start < length).then(|| Range {
            start: self.start,
            end: self.end.min(length - 1),
        })
    }
}

/// Returns whether the index is inside one of the windows.
pub fn any_contains(windows: &[Range], index: usize) -> bool {
    windows.iter().any(|window| window.contains(index))
}

/// Why ranges are refused; displays the ranges in the way MSC3575 clients know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRanges(Vec<Vec<i64>>);

impl fmt::Display for InvalidRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid ranges [")?;
        for (i, pair) in self.0.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            let numbers: Vec<String> = pair.iter().map(i64::to_string).collect();
            write!(f, "{space}[{}]", numbers.join(" "))?;
        }
        f.write_str("]")
    }
}

/// Checks ranges as received: pairs, in ascending order inside, none sharing an index; at most `limit` of them.
pub fn validate(pairs: &[Vec<i64>], limit: usize) -> Result<Vec<Range>, InvalidRanges> {
    let refuse = || InvalidRanges(pairs.iter().take(limit).cloned().collect());
    if pairs.len() > limit {
        return Err(refuse());
    }
    let mut ranges = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let [start, end] = pair[..] else { return Err(refuse()) };
        let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
            return Err(refuse());
        };
        if end < start {
            return Err(refuse());
        }
        ranges.push(Range { start, end });
    }
    let mut sorted = ranges.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|two| two[1].start <= two[0].end) {
        return Err(refuse());
    }
    Ok(ranges)
}

/// Returns what is in `old` and not in `new`, and the other way round; both ascending and cut at every boundary of an
/// old or new range (msc3575.md 7).
pub fn difference(old: &[Range], new: &[Range]) -> (Vec<Range>, Vec<Range>) {
    // usize::MAX + 1 stands past everything; saturating loses nothing because no list is that long.
    let mut cuts: Vec<usize> = old
        .iter()
        .chain(new)
        .flat_map(|range| [range.start, range.end.saturating_add(1)])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for two in cuts.windows(2) {
        let piece = Range {
            start: two[0],
            end: two[1] - 1,
        };
        match (any_contains(old, piece.start), any_contains(new, piece.start)) {
            (true, false) => removed.push(piece),
            (false, true) => added.push(piece),
            (true, true) | (false, false) => {}
        }
    }
    (removed, added)
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
