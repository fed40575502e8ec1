use super::*;

fn ranges(text: &str) -> Vec<Range> {
    let pairs: Vec<Vec<i64>> = serde_json::from_str(&format!("[{text}]")).unwrap();
    validate(&pairs, 100).unwrap()
}

#[test]
fn every_row_of_the_range_table_gives_its_operations() {
    // old; new; length; invalidated; synced (msc3575.md section 7, and the two faults named there)
    let table = "
[0,9]; [5,15]; 30; [0,4]; [10,15]
[0,9]; [0,19]; 30; ; [10,19]
[0,19]; [0,9]; 30; [10,19];
[10,20]; [20,30]; 40; [10,19]; [21,30]
[0,9]; [20,29]; 40; [0,9]; [20,29]
[0,20]; [0,20],[30,40]; 50; ; [30,40]
[0,20]; [0,5],[15,20]; 30; [6,14];
[0,20]; [2,6]; 10; [0,1],[7,9];
[0,10]; [0,20]; 10; ;
[0,20]; [2,15]; 16; [0,1];
[0,9]; ; 30; [0,9];
; [0,4]; 30; ; [0,4]
[10,20],[40,50],[70,80],[100,110]; [0,15],[40,50],[80,90],[111,120]; 200; [16,20],[70,79],[100,110]; [0,9],[81,90],[111,120]
[0,0]; [1,1]; 5; [0,0]; [1,1]
[0,5]; [0,5],[7,7]; 20; ; [7,7]
[0,9]; [0,5],[6,9]; 20; ;
[0,5],[6,9]; [0,9]; 20; ;
[0,2],[5,7]; [5,7],[0,2]; 20; ;";
    for row in table.lines().filter(|row| !row.is_empty()) {
        let parts: Vec<&str> = row.split(';').map(str::trim).collect();
        let length: usize = parts[2].parse().unwrap();
        let (removed, added) = difference(&ranges(parts[0]), &ranges(parts[1]));
        let cut =
            |pieces: Vec<Range>| -> Vec<Range> { pieces.iter().filter_map(|range| range.cut_to(length)).collect() };
        assert_eq!(cut(removed), ranges(parts[3]), "{row}");
        assert_eq!(cut(added), ranges(parts[4]), "{row}");
    }
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    for bad in ["[5,2]", "[-1,3]", "[5]", "[1,2,3]", "[]", "[0,5],[5,9]", "[5,9],[0,5]"] {
        let pairs: Vec<Vec<i64>> = serde_json::from_str(&format!("[{bad}]")).unwrap();
        assert!(validate(&pairs, 100).is_err(), "{bad}");
    }
    let pairs = vec![vec![5, 2], vec![-1]];
    assert_eq!(
        validate(&pairs, 100).unwrap_err().to_string(),
        "invalid ranges [[5 2] [-1]]"
    );
    assert!(validate(&vec![vec![0, 0]; 3], 2).is_err());
    assert_eq!(ranges("[0,5],[6,9]").len(), 2);
    assert_eq!(ranges("[100,9223372036854775807]")[0].cut_to(5), None);
}
