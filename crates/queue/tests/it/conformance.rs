//! What the scripts may use, so that they run on Redis 7.0 and on servers that are stricter.

use std::path::Path;

/// Gone or changed in Lua 5.4, or commands that Redis 7.0 does not have.
const FORBIDDEN: [&str; 22] = [
    "unpack(",
    "table.getn",
    "table.maxn",
    "setfenv",
    "getfenv",
    "loadstring",
    "math.pow",
    "math.log10",
    "string.gfind",
    "%d\"",
    "'%d",
    "%i",
    "tostring(",
    "cjson",
    "cmsgpack",
    "bit.",
    "redis.pcall",
    "redis.log",
    "'LMOVEM'",
    "'HGETDEL'",
    "'HEXPIRE'",
    "'HSETEX'",
];

/// Name and text of each file.
pub(crate) fn scripts() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lua");
    let files = std::fs::read_dir(dir).unwrap();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    files.map(|file| read(file.unwrap().path())).collect()
}

/// Lines without comments.
fn code(source: &str) -> impl Iterator<Item = &str> {
    source
        .lines()
        .map(|line| line.split_once("--").map_or(line, |(code, _)| code))
}

#[test]
fn scripts_use_nothing_that_differs_between_lua_versions() {
    let mut wrong = Vec::new();
    for (name, source) in scripts() {
        for line in code(&source) {
            let found = FORBIDDEN.iter().filter(|word| line.contains(*word));
            wrong.extend(found.map(|word| format!("{name}: {word} in {line}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn scripts_name_their_keys_by_the_prelude_only() {
    let names = [
        "HIGH",
        "PENDING",
        "PROCESSING",
        "RETRY",
        "FAILED",
        "DUE",
        "LEASE",
        "META",
        "BODY",
        "WAKE",
        "PAUSED",
        "INCARNATION",
        "GUARD",
        "SUSPECTS",
        "PLACE",
        "key",
        "high == 1 and HIGH or PENDING",
    ];
    let mut wrong = Vec::new();
    for (name, source) in scripts() {
        for line in code(&source) {
            if name != "prelude.lua" && line.contains("KEYS[") {
                wrong.push(format!("{name}: {line}"));
            }
            for call in line.split("call('").skip(1) {
                let Some((command, rest)) = call.split_once("', ") else {
                    continue;
                };
                let key = rest.split([',', ')']).next().unwrap().trim();
                if command != "TIME" && !names.contains(&key) && !key.starts_with("LIST[") {
                    wrong.push(format!("{name}: {command} {key}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
