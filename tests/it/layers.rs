//! Who may import whom: reads the `use` lines and every `crate::` path, and fails on any edge that is not listed.

use std::collections::BTreeMap;
use std::path::Path;

const ALLOWED: [(&str, &[&str]); 12] = [
    ("ids", &[]),
    ("clock", &[]),
    ("model", &["ids", "clock"]),
    ("room", &["ids", "model"]),
    ("protocol", &["ids", "model", "room"]),
    ("config", &["ids"]),
    ("upstream", &["ids", "clock", "model", "config"]),
    ("store", &["ids", "clock", "model", "room", "config"]),
    (
        "actors",
        &[
            "ids",
            "clock",
            "model",
            "room",
            "protocol",
            "config",
            "upstream",
            "store",
            "web::auth",
        ],
    ),
    (
        "web",
        &["ids", "clock", "config", "protocol", "upstream", "store", "actors"],
    ),
    (
        "app",
        &[
            "ids", "clock", "model", "room", "protocol", "config", "upstream", "store", "actors", "web",
        ],
    ),
    ("main", &["app", "config"]),
];

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn modules_import_only_what_is_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let may = allowed.get(module).unwrap_or_else(|| panic!("{module} is not listed"));
        for (number, line) in text.lines().enumerate() {
            for path in line.split("crate::").skip(1) {
                let target: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let listed = may.iter().any(|allowed| {
                    *allowed == target || allowed.split_once("::").is_some_and(|_| path.starts_with(allowed))
                });
                let is_module = allowed.contains_key(&*target);
                if is_module && target != module && !listed {
                    wrong.push(format!("{}:{}: {module} uses {target}", relative.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_modules_know_no_actors_no_database_and_no_log() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in ["model", "room", "protocol"] {
        let mut files = Vec::new();
        sources(&root.join(module), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for word in [
                "actix",
                "diesel",
                "log::",
                "tokio",
                "awc",
                "std::time::Instant",
                "SystemTime",
            ] {
                assert!(
                    !text
                        .lines()
                        .any(|line| line.trim_start().starts_with("use ") && line.contains(word)),
                    "{} uses {word}",
                    file.display()
                );
            }
        }
    }
}
