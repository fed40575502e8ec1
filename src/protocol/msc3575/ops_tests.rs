//! The tables of msc3575.md 8.3, and every single move on small lists replayed by a client.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A client as deployed ones are (msc3575.md 8.6).
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub(crate) entries: BTreeMap<usize, String>,
    hole: Option<usize>,
}

impl Client {
    fn close_hole(&mut self) {
        let Some(hole) = self.hole.take() else { return };
        let mut index = hole;
        while let Some(room) = self.entries.remove(&(index + 1)) {
            self.entries.insert(index, room);
            index += 1;
        }
    }

    pub(crate) fn delete(&mut self, index: usize) {
        self.close_hole();
        self.entries.remove(&index);
        self.hole = Some(index);
    }

    pub(crate) fn insert(&mut self, index: usize, room: &str) {
        if self.entries.contains_key(&index) {
            let hole = self.hole.unwrap_or_else(|| {
                let mut free = index;
                while self.entries.contains_key(&free) {
                    free += 1;
                }
                free
            });
            if hole >= index {
                for i in (index..hole).rev() {
                    if let Some(room) = self.entries.remove(&i) {
                        self.entries.insert(i + 1, room);
                    }
                }
            } else {
                for i in hole + 1..=index {
                    if let Some(room) = self.entries.remove(&i) {
                        self.entries.insert(i - 1, room);
                    }
                }
            }
        }
        self.entries.insert(index, room.to_owned());
        self.hole = None;
    }

    pub(crate) fn sync(&mut self, range: [usize; 2], rooms: &[String]) {
        for (index, room) in (range[0]..=range[1]).zip(rooms) {
            self.entries.insert(index, room.clone());
        }
    }

    pub(crate) fn invalidate(&mut self, range: [usize; 2]) {
        self.entries.retain(|index, _| *index < range[0] || *index > range[1]);
    }

    pub(crate) fn finish(&mut self, count: usize) {
        self.close_hole();
        self.entries.retain(|index, _| *index < count);
    }
}

fn windows(text: &str) -> Vec<Range> {
    let pairs: Vec<[usize; 2]> = serde_json::from_str(&format!("[{text}]")).unwrap();
    pairs.into_iter().map(|[start, end]| Range { start, end }).collect()
}

/// Carries out "b 1 2" (b moves), "+x 2" or "-a".
fn update(list: &mut Vec<char>, text: &str) -> Move {
    let words: Vec<&str> = text.split_whitespace().collect();
    let name: Vec<char> = words[0].chars().collect();
    match name[..] {
        ['+', room] => {
            let to = words[1].parse().unwrap();
            list.insert(to, room);
            Move {
                from: None,
                to: Some(to),
            }
        }
        ['-', room] => {
            let from = list.iter().position(|other| *other == room).unwrap();
            list.remove(from);
            Move {
                from: Some(from),
                to: None,
            }
        }
        [room] => {
            let (from, to) = (words[1].parse().unwrap(), words[2].parse().unwrap());
            assert_eq!(list.remove(from), room);
            list.insert(to, room);
            Move {
                from: Some(from),
                to: Some(to),
            }
        }
        _ => panic!("bad update {text}"),
    }
}

/// windows; before; update; operations; initial
const TABLE: &str = "
[0,20]; ; +a 0; D0 I0=a; a
[0,20]; abc; +x 0; D3 I0=x; x
[0,20]; abc; +x 3; D3 I3=x; x
[0,20]; abcd; +x 2; D4 I2=x; x
[0,20]; abcd; d 3 0; D3 I0=d;
[0,20]; abcd; a 0 3; D0 I3=a;
[0,20]; abcd; b 1 2; D1 I2=b;
[0,20]; abcd; b 1 1; ;
[0,20]; abcde; -b; D1;
[0,20]; abcd; -d; D3;
[0,20]; a; -a; D0;
[0,2]; abcdef; f 5 0; D2 I0=f; f
[0,2]; abcdef; d 3 2; D2 I2=d; d
[0,2]; abcdef; a 0 4; D0 I2=d; d
[0,2]; abcdef; c 2 3; D2 I2=d; d
[0,2]; abcdef; d 3 4; ;
[0,2]; abcdef; +x 1; D2 I1=x; x
[0,2]; abcdef; +x 5; ;
[0,2]; ab; +x 2; D2 I2=x; x
[0,2]; abcde; -a; D0 I2=d; d
[0,2]; abcd; -a; D0 I2=d; d
[0,2]; abcd; -d; ;
[0,2]; abc; -c; D2;
[0,2]; abcde; -e; ;
[1,3]; abcdef; e 4 0; D3 I1=a; a
[1,3]; abcdef; a 0 5; D1 I3=e; e
[1,3]; abcdef; a 0 2; D1 I2=a; a
[1,3]; abcdef; -a; D1 I3=e; e
[1,3]; abcdef; -d; D3 I3=e; e
[1,3]; abcdef; -e; ;
[1,3]; abcd; -a; D1;
[1,3]; ab; -a; D1;
[1,3]; ab; -b; D1;
[1,3]; a; -a; ;
[2,4]; abcdef; +x 1; D4 I2=b; b
[2,4]; abcdef; +x 6; ;
[2,4]; ab; +x 0; D2 I2=b; b
[0,0]; abc; b 1 0; D0 I0=b; b
[0,0]; abc; a 0 2; D0 I0=b; b
[0,2],[5,7]; abcdefghi; c 2 1; D2 I1=c;
[0,2],[5,7]; abcdefghi; h 7 6; D7 I6=h;
[0,2],[5,7]; abcdefghi; e 4 3; ;
[0,2],[5,7]; abcdefghi; g 6 1; D6 I5=e D2 I1=g; e
[0,2],[5,7]; abcdefghi; b 1 6; D1 I2=d D5 I6=b; d
[0,2],[5,7]; abcdefghi; i 8 0; D2 I0=i D7 I5=e; ie
[0,2],[5,7]; abcdefghi; a 0 8; D0 I2=d D5 I7=i; di
[0,2],[5,7]; abcdefghi; i 8 3; D7 I5=e; e
[0,2],[5,7]; abcdefghi; e 4 8; D5 I7=i; i
[0,2],[5,7]; abcdefghi; -a; D0 I2=d D5 I7=i; di
[0,2],[5,7]; abcdefgh; -a; D0 I2=d D5; d
[0,2],[5,7]; abcdef; -a; D0 I2=d D5; d
[0,2],[5,7]; abcdef; -f; D5;
[0,2],[5,7]; abcdefghi; +x 0; D2 I0=x D7 I5=e; xe
[0,2],[5,7]; abcde; +x 0; D5 I5=e D2 I0=x; ex
[1,3],[5,7]; abcdefghi; i 8 0; D3 I1=a D7 I5=e; ae
[1,3],[5,7]; abcdefghi; a 0 8; D1 I3=e D5 I7=i; ei
[1,3],[5,7]; abcdefghi; g 6 0; D6 I5=e D3 I1=a; ea
[1,3],[5,7]; abcdefghi; f 5 1; D5 I5=e D3 I1=f; e
[0,0],[2,2],[4,4]; abcdef; f 5 0; D0 I0=f D2 I2=b D4 I4=d; fbd
[1,2],[3,4]; abcd; -a; D1 I2=d D3;
[0,0],[1,1]; ab; b 1 0; D1 I1=a D0 I0=b;
[0,2],[10,12],[17,19]; abcdefghijklmnopqrst; s 18 0; D18 I17=q D2 I0=s D12 I10=j; qj
";

#[test]
fn every_row_of_the_table_gives_its_operations() {
    for row in TABLE.lines().filter(|row| !row.is_empty()) {
        let parts: Vec<&str> = row.split(';').map(str::trim).collect();
        let [layout, before, change, ops, initial] = parts[..] else {
            panic!("bad row {row}")
        };
        let mut list: Vec<char> = before.chars().collect();
        let moved = update(&mut list, change);
        let mut words = Vec::new();
        let mut news = String::new();
        for step in steps(&windows(layout), moved, list.len()) {
            words.push(format!("D{}", step.delete));
            if let Some(index) = step.insert {
                words.push(format!("I{index}={}", list[index]));
                if step.is_new {
                    news.push(list[index]);
                }
            }
        }
        assert_eq!((words.join(" ").as_str(), news.as_str()), (ops, initial), "{row}");
    }
}

#[test]
fn every_single_move_leaves_the_client_with_the_servers_windows() {
    let layouts = [
        "[0,20]",
        "[0,2]",
        "[1,3]",
        "[2,4]",
        "[0,0]",
        "[0,0],[1,1]",
        "[1,2],[3,4]",
        "[0,1],[4,5]",
        "[4,5],[0,1]",
        "[0,0],[2,2],[4,4]",
        "[3,6],[0,0]",
        "[6,6],[1,2]",
        "[8,9]",
        "",
    ];
    let mut cases = 0;
    for layout in layouts.map(windows) {
        for length in 0..=7_usize {
            let before: Vec<char> = ('a'..).take(length).collect();
            let mut moves: Vec<Move> = (0..=length)
                .map(|to| Move {
                    from: None,
                    to: Some(to),
                })
                .collect();
            for from in 0..length {
                moves.push(Move {
                    from: Some(from),
                    to: None,
                });
                moves.extend((0..length).map(|to| Move {
                    from: Some(from),
                    to: Some(to),
                }));
            }
            for moved in moves {
                replay(&layout, &before, moved);
                cases += 1;
            }
        }
    }
    assert!(cases > 2000);
}

fn replay(layout: &[Range], before: &[char], moved: Move) {
    let visible = |list: &[char]| -> BTreeMap<usize, String> {
        let inside = list
            .iter()
            .enumerate()
            .filter(|(index, _)| any_contains(layout, *index));
        inside.map(|(index, room)| (index, room.to_string())).collect()
    };
    let mut after = before.to_vec();
    let room = moved.from.map_or('x', |from| after.remove(from));
    if let Some(to) = moved.to {
        after.insert(to, room);
    }
    let mut client = Client {
        entries: visible(before),
        hole: None,
    };
    let mut initial = BTreeSet::new();
    for step in steps(layout, moved, after.len()) {
        client.delete(step.delete);
        if let Some(index) = step.insert {
            client.insert(index, &after[index].to_string());
            if step.is_new {
                initial.insert(after[index].to_string());
            }
        }
    }
    client.finish(after.len());
    let what = format!("{layout:?} {before:?} {moved:?}");
    assert_eq!(client.entries, visible(&after), "{what}");
    let known: BTreeSet<String> = visible(before).into_values().collect();
    let now: BTreeSet<String> = visible(&after).into_values().collect();
    assert_eq!(initial, now.difference(&known).cloned().collect(), "{what}");
}
