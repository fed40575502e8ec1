//! Merging what many pollers see of a room into one order (upstream.md 4.3).
//!
//! The stored timeline consists of *runs*: events between which, as far as known, nothing is missing. A run begins where
//! `gap_before` says so. Incremental timelines are windows of one true order, so a window that spans two runs tells how
//! they belong together: whole runs are moved, and only if that cannot help, single events. Nothing is ever dropped.

use std::collections::HashMap;
use std::ops::Range;

/// Distance between the ranks of neighbours as first given; about 20 events fit between any two before renumbering.
const SPACING: i64 = 1 << 20;
/// Distance that renumbering aims at, so that it does not have to be repeated for the next event.
const ROOM_TO_GROW: i64 = 1 << 10;

/// One stored timeline event of a room, in the room's order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// Number of the event in the store.
    pub nid: i64,
    /// Place in the room's order; unique in the room.
    pub rank: i64,
    /// Whether something may be missing before this event.
    pub gap_before: bool,
}

/// One event of an arriving timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event that is stored, by its number.
    Known(i64),
    /// An event that is not, by its index in the timeline.
    New(usize),
}

/// A timeline that arrived.
#[derive(Clone, Debug)]
pub struct Arrival<'a> {
    /// The timeline in response order, repeats dropped.
    pub items: &'a [Item],
    /// The last event that this user was known to have before; only for an incremental timeline that is not limited.
    pub cursor: Option<i64>,
    /// v2 `limited`, or first contact of this user with the room.
    pub limited: bool,
    /// False for a first sync or a newly joined room: its order is topological and must not re-rank known events.
    pub stream_order: bool,
    /// Whether the timeline begins with the room's `m.room.create`.
    pub starts_with_create: bool,
}

/// Where the events of an arrival go, and what that changes for those that are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Timeline index, rank and `gap_before` of each new event, in the room's order.
    pub new: Vec<(usize, i64, bool)>,
    /// Number and new rank of known events that move.
    pub moved: Vec<(i64, i64)>,
    /// Number and new value for known events whose `gap_before` changes.
    pub gaps: Vec<(i64, bool)>,
}

/// Places an arrival. `slots` is the room's recent timeline, sorted by rank; a known event that is not in it has been
/// trimmed from memory and lies before all of it.
pub fn place(slots: &[Slot], arrival: &Arrival<'_>) -> Placement {
    let steps = steps(slots, arrival);
    let known: Vec<usize> = steps.iter().filter_map(Step::slot).collect();
    let mut gap: Vec<bool> = slots.iter().map(|slot| slot.gap_before).collect();
    let mut order: Vec<usize> = (0..slots.len()).collect();
    if arrival.stream_order && known.len() > 1 {
        order = arrange(&mut gap, &known);
    }
    close_gaps(&order, &known, &mut gap);
    if let (true, true, Some(&first)) = (arrival.stream_order, arrival.starts_with_create, known.first()) {
        move_to_front(&mut order, &mut gap, first);
    }
    if let (true, Some(Item::Known(_)), Some(Step::Slot(first))) =
        (arrival.starts_with_create, arrival.items.first(), steps.first())
    {
        gap[*first] = false;
    }
    let entries = insert(&order, &steps, arrival, &mut gap);
    let ranks = rank(&entries, slots);
    let mut placement = Placement::default();
    for (entry, rank) in entries.iter().zip(ranks) {
        match *entry {
            Entry::New { index, gap } => placement.new.push((index, rank, gap)),
            Entry::Slot(i) if slots[i].rank != rank => placement.moved.push((slots[i].nid, rank)),
            Entry::Slot(_) => {}
        }
    }
    let changed = slots.iter().zip(&gap).filter(|(slot, gap)| slot.gap_before != **gap);
    placement.gaps = changed.map(|(slot, gap)| (slot.nid, *gap)).collect();
    placement
}

/// One event of the arrival, the cursor included, with its place among the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Known and in memory: index of the slot.
    Slot(usize),
    /// Known, and before all slots.
    Trimmed,
    /// New: index in the timeline.
    New(usize),
}

impl Step {
    fn slot(&self) -> Option<usize> {
        match self {
            Step::Slot(slot) => Some(*slot),
            _ => None,
        }
    }
}

fn steps(slots: &[Slot], arrival: &Arrival<'_>) -> Vec<Step> {
    let wanted: HashMap<i64, ()> = arrival
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Known(nid) => Some((*nid, ())),
            Item::New(_) => None,
        })
        .chain(arrival.cursor.map(|nid| (nid, ())))
        .collect();
    let mut found: HashMap<i64, usize> = HashMap::with_capacity(wanted.len());
    for (i, slot) in slots.iter().enumerate() {
        if wanted.contains_key(&slot.nid) {
            found.insert(slot.nid, i);
        }
    }
    let cursor = arrival
        .cursor
        .filter(|nid| !arrival.limited && !arrival.items.contains(&Item::Known(*nid)));
    let items = cursor.map(Item::Known).into_iter().chain(arrival.items.iter().copied());
    // Should a known event be repeated after all, then its first place counts.
    let mut steps = Vec::with_capacity(arrival.items.len() + 1);
    for item in items {
        steps.push(match item {
            Item::New(index) => Step::New(index),
            Item::Known(nid) => match found.get(&nid) {
                Some(&slot) if steps.contains(&Step::Slot(slot)) => continue,
                Some(&slot) => Step::Slot(slot),
                None => Step::Trimmed,
            },
        });
    }
    steps
}

/// Splits the slots into runs.
fn runs(gap: &[bool]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, gap) in gap.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if !gap => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

/// Orders the slots such that `known` are in that order, moving as few runs as possible.
fn arrange(gap: &mut [bool], known: &[usize]) -> Vec<usize> {
    let runs = runs(gap);
    let mut run_of = vec![0; gap.len()];
    for (r, run) in runs.iter().enumerate() {
        run_of[run.clone()].fill(r);
    }
    let groups = if known.is_sorted() {
        joined_runs(&runs, &run_of, known)
    } else {
        vec![Merge::new(&runs, &run_of, gap, known).finish()]
    };
    let mut stand_in: Vec<Option<usize>> = vec![None; runs.len()];
    for (g, (members, _)) in groups.iter().enumerate() {
        for &r in members {
            stand_in[r] = Some(g);
        }
    }
    let mut order = Vec::with_capacity(gap.len());
    for (r, run) in runs.iter().enumerate() {
        match stand_in[r] {
            None => order.extend(run.clone()),
            Some(g) if anchor(&groups[g].0, &runs, gap) == r => order.extend(&groups[g].1),
            Some(_) => {}
        }
    }
    order
}

/// The run whose place a group takes: the room's beginning stays where it is, else the longest run, so that few move.
fn anchor(members: &[usize], runs: &[Range<usize>], gap: &[bool]) -> usize {
    if members.contains(&0) && !gap[0] {
        return 0;
    }
    members.iter().copied().max_by_key(|&r| (runs[r].len(), r)).unwrap_or(0)
}

/// Runs that become one (their numbers), and the slots of all of them in their new order.
type Group = (Vec<usize>, Vec<usize>);

/// The arrival contradicts nothing, but may say that the end of one run is followed by the beginning of another.
fn joined_runs(runs: &[Range<usize>], run_of: &[usize], known: &[usize]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for pair in known.windows(2) {
        let (left, right) = (run_of[pair[0]], run_of[pair[1]]);
        if left == right || pair[0] + 1 != runs[left].end || pair[1] != runs[right].start {
            continue;
        }
        match groups.last_mut() {
            Some((members, slots)) if members.last() == Some(&left) => {
                members.push(right);
                slots.extend(runs[right].clone());
            }
            _ => groups.push((
                vec![left, right],
                runs[left].clone().chain(runs[right].clone()).collect(),
            )),
        }
    }
    groups
}

/// Brings the runs that an arrival touches into an order that agrees with it.
struct Merge<'a> {
    runs: &'a [Range<usize>],
    run_of: &'a [usize],
    gap: &'a mut [bool],
    known: &'a [usize],
    /// By position in `known`: whether the event leaves its run because it stands in the wrong order inside it.
    single: Vec<bool>,
    /// By slot: the same.
    taken_out: Vec<bool>,
    /// Runs touched, in the stored order.
    touched: Vec<usize>,
    /// By run: events of `known` that stay in it and are not yet in `out`, next one last.
    ahead: HashMap<usize, Vec<usize>>,
    /// By run: how far it is in `out`.
    done: HashMap<usize, usize>,
    out: Vec<usize>,
}

impl<'a> Merge<'a> {
    fn new(runs: &'a [Range<usize>], run_of: &'a [usize], gap: &'a mut [bool], known: &'a [usize]) -> Self {
        let mut by_run: HashMap<usize, Vec<usize>> = HashMap::new();
        for (at, &slot) in known.iter().enumerate() {
            by_run.entry(run_of[slot]).or_default().push(at);
        }
        let mut single = vec![false; known.len()];
        let mut taken_out = vec![false; gap.len()];
        let mut ahead = HashMap::new();
        for (&run, positions) in &by_run {
            let slots: Vec<usize> = positions.iter().map(|&at| known[at]).collect();
            let stays = longest_increasing(&slots);
            for (&at, &stays) in positions.iter().zip(&stays) {
                single[at] = !stays;
                taken_out[known[at]] = !stays;
            }
            let mut next: Vec<usize> = positions
                .iter()
                .filter(|&&at| !single[at])
                .map(|&at| known[at])
                .collect();
            next.reverse();
            ahead.insert(run, next);
        }
        let mut touched: Vec<usize> = by_run.into_keys().collect();
        touched.sort_unstable();
        for &run in &touched {
            // What was missing before the run is still missing when its first event leaves it.
            let start = runs[run].start;
            if gap[start] && taken_out[start] {
                gap[start] = false;
                if let Some(first) = runs[run].clone().find(|&slot| !taken_out[slot]) {
                    gap[first] = true;
                }
            }
        }
        Self {
            runs,
            run_of,
            gap,
            known,
            single,
            taken_out,
            touched,
            ahead,
            done: HashMap::new(),
            out: Vec::new(),
        }
    }

    fn finish(mut self) -> Group {
        let mut at = 0;
        let mut leading = Vec::new();
        while at < self.known.len() {
            let slot = self.known[at];
            at += 1;
            if self.single[at - 1] {
                leading.push(slot);
                continue;
            }
            let run = self.run_of[slot];
            self.start(run);
            self.emit(run, slot);
            self.out.append(&mut leading);
            self.emit(run, slot + 1);
            while at < self.known.len() && self.single[at] {
                self.out.push(self.known[at]);
                at += 1;
            }
            let same_run_next = self.known.get(at).is_some_and(|&next| self.run_of[next] == run);
            if !same_run_next {
                let end = self.until_next(run);
                self.emit(run, end);
            }
        }
        // Each touched run keeps at least one event, so that nothing can be left here; if it were, it must not be lost.
        self.out.append(&mut leading);
        (self.touched, self.out)
    }

    /// Where the next event of the arrival stands in the run, or the run's end.
    fn until_next(&self, run: usize) -> usize {
        let next = self.ahead.get(&run).and_then(|ahead| ahead.last());
        next.copied().unwrap_or(self.runs[run].end)
    }

    /// Begins a run, after what stands before it and is not concerned by the arrival.
    fn start(&mut self, run: usize) {
        if self.done.contains_key(&run) {
            return;
        }
        let earlier: Vec<usize> = self.touched.iter().copied().take_while(|&other| other < run).collect();
        for other in earlier {
            if !self.done.contains_key(&other) {
                let end = self.until_next(other);
                self.emit(other, end);
            }
        }
    }

    /// Puts the run's events up to `end` (exclusive) out.
    fn emit(&mut self, run: usize, end: usize) {
        let from = self.done.get(&run).copied().unwrap_or(self.runs[run].start);
        for slot in from..end {
            if self.taken_out[slot] {
                continue;
            }
            // Inside a run nothing is missing, also when the beginning of another run comes to stand there.
            if self.gap[slot] && self.inside_another(run) {
                self.gap[slot] = false;
            }
            self.out.push(slot);
            if let Some(ahead) = self.ahead.get_mut(&run)
                && ahead.last() == Some(&slot)
            {
                ahead.pop();
            }
        }
        if end > from {
            self.done.insert(run, end);
        }
    }

    fn inside_another(&self, run: usize) -> bool {
        let open = |(other, &until): (&usize, &usize)| *other != run && until < self.runs[*other].end;
        self.done.iter().any(open)
    }
}

/// Moves the run around a slot to the beginning of the room, because it begins with the room's creation.
fn move_to_front(order: &mut [usize], gap: &mut [bool], slot: usize) {
    let Some(at) = order.iter().position(|&other| other == slot) else {
        return;
    };
    let start = (0..=at).rev().find(|&i| gap[order[i]]).unwrap_or(0);
    let end = (at + 1..order.len()).find(|&i| gap[order[i]]).unwrap_or(order.len());
    if start > 0 {
        gap[order[0]] = true;
        order[..end].rotate_right(end - start);
    }
}

/// Where two neighbors of the arrival are neighbors in the room, nothing is missing between them.
fn close_gaps(order: &[usize], known: &[usize], gap: &mut [bool]) {
    if !known.iter().any(|&slot| gap[slot]) {
        return;
    }
    let mut place = vec![0; order.len()];
    for (at, &slot) in order.iter().enumerate() {
        place[slot] = at;
    }
    for pair in known.windows(2) {
        if place[pair[0]] + 1 == place[pair[1]] {
            gap[pair[1]] = false;
        }
    }
}

/// One event of the room's order after the arrival.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Slot(usize),
    New { index: usize, gap: bool },
}

/// Puts the new events between the known ones.
fn insert(order: &[usize], steps: &[Step], arrival: &Arrival<'_>, gap: &mut [bool]) -> Vec<Entry> {
    let mut place = vec![0; order.len()];
    for (at, &slot) in order.iter().enumerate() {
        place[slot] = at;
    }
    // New events that go in front of the n-th event of the order, in their own order; the last is the end of the room.
    let mut before: HashMap<usize, Vec<Entry>> = HashMap::new();
    let is_create = |index: usize| arrival.starts_with_create && arrival.items.first() == Some(&Item::New(index));
    let mut at = 0;
    while at < steps.len() {
        let end = (at..steps.len())
            .find(|&i| !matches!(steps[i], Step::New(_)))
            .unwrap_or(steps.len());
        let new: Vec<usize> = steps[at..end]
            .iter()
            .filter_map(|step| match step {
                Step::New(index) => Some(*index),
                _ => None,
            })
            .collect();
        if let Some(&first) = new.first() {
            let previous = steps[..at].iter().rev().find_map(Step::slot).map(|slot| place[slot]);
            let next = steps.get(end).map(|step| step.slot().map(|slot| place[slot]));
            let (position, first_gap) = match (previous, next) {
                // Before a trimmed event, so before everything in memory.
                (_, Some(None)) => (0, true),
                (previous, Some(Some(next))) if previous.is_none_or(|previous| previous < next) => {
                    // The mark moves to the new first event.
                    (next, std::mem::take(&mut gap[order[next]]))
                }
                // A topological timeline that disagrees with the room's order.
                (Some(previous), Some(Some(_))) => (previous + 1, false),
                // Later than all known events: behind what follows them without a gap, which this user cannot see or
                // will see later.
                (Some(previous), None) => {
                    let next_gap = (previous + 1..order.len()).find(|&i| gap[order[i]]);
                    (next_gap.unwrap_or(order.len()), false)
                }
                (None, None) if is_create(first) => {
                    if let Some(&slot) = order.first() {
                        gap[slot] = true;
                    }
                    (0, true)
                }
                (None, _) => (order.len(), true),
            };
            let entries = new.iter().map(|&index| Entry::New {
                index,
                gap: index == first && first_gap && !(position == 0 && is_create(index)),
            });
            before.entry(position).or_default().extend(entries);
        }
        at = end + 1;
    }
    let mut entries = Vec::with_capacity(order.len() + arrival.items.len());
    for (at, &slot) in order.iter().enumerate() {
        entries.extend(before.remove(&at).unwrap_or_default());
        entries.push(Entry::Slot(slot));
    }
    entries.extend(before.remove(&order.len()).unwrap_or_default());
    entries
}

/// Ranks for the whole order: known events keep theirs where possible.
fn rank(entries: &[Entry], slots: &[Slot]) -> Vec<i64> {
    let present: Vec<Option<i64>> = entries
        .iter()
        .map(|entry| match entry {
            Entry::Slot(slot) => Some(slots[*slot].rank),
            Entry::New { .. } => None,
        })
        .collect();
    let old: Vec<i64> = present.iter().flatten().copied().collect();
    let mut stays = longest_increasing(&old).into_iter();
    let mut ranks: Vec<Option<i64>> = present
        .into_iter()
        .map(|rank| rank.filter(|_| stays.next().unwrap_or(false)))
        .collect();
    let mut out = Vec::with_capacity(ranks.len());
    while out.len() < ranks.len() {
        let from = out.len();
        if let Some(rank) = ranks[from] {
            out.push(rank);
            continue;
        }
        let low = out.last().copied();
        let mut until = from;
        let mut least = 1;
        let (mut start, mut step);
        loop {
            while until < ranks.len() && ranks[until].is_none() {
                until += 1;
            }
            let count = i64::try_from(until - from).unwrap_or(i64::MAX);
            let high = ranks.get(until).copied().flatten();
            (start, step) = match (low, high) {
                (low, None) => (low.unwrap_or(0), SPACING),
                // Close to what follows, so as not to reach what may have been trimmed before it.
                (None, Some(high)) => {
                    let step = (SPACING / (count + 1)).max(1);
                    (high - step * (count + 1), step)
                }
                (Some(low), Some(high)) => (low, (high - low) / (count + 1)),
            };
            if step >= least {
                break;
            }
            // No space: renumber what follows as well, so far that there is space again.
            ranks[until] = None;
            least = ROOM_TO_GROW;
        }
        for n in 1..=until - from {
            out.push(start + step * i64::try_from(n).unwrap_or(i64::MAX));
        }
    }
    out
}

/// Marks a longest increasing subsequence.
fn longest_increasing<T: Ord>(values: &[T]) -> Vec<bool> {
    if values.is_sorted_by(|a, b| a < b) {
        return vec![true; values.len()];
    }
    // `ends[k]`: index of the smallest value that ends an increasing subsequence of length k + 1.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(values.len());
    for (i, value) in values.iter().enumerate() {
        let length = ends.partition_point(|&end| values[end] < *value);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = i,
            None => ends.push(i),
        }
    }
    let mut marks = vec![false; values.len()];
    let mut next = ends.last().copied();
    while let Some(i) = next {
        marks[i] = true;
        next = before[i];
    }
    marks
}

#[cfg(test)]
mod tests;
