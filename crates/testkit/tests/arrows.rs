//! The crates' arrows: which crate may see which, ours and others'. Read from `cargo metadata`, normal
//! dependencies only (`[dev-dependencies]` may be anything).
#![cfg(test)]

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// Each of our crates and those of ours that it may use.
const OURS: [(&str, &[&str]); 17] = [
    ("domain", &[]),
    ("bootstrap", &[]),
    ("runs", &["domain"]),
    ("queue", &["domain"]),
    ("agent", &["domain"]),
    ("objectstore", &["domain"]),
    // Knows nothing of runs: addresses only.
    ("outbound", &[]),
    ("tools", &["domain", "agent", "outbound"]),
    ("workspace", &["domain", "bootstrap"]),
    // Runs beside foreign code, in an image of its own: none of ours but the formats.
    ("toolbox", &[]),
    ("tool-supervisor", &["toolbox"]),
    ("api", &["domain", "runs", "queue", "bootstrap", "workspace"]),
    ("openagents-runtime-service", &["api"]),
    (
        "worker",
        &[
            "domain",
            "runs",
            "queue",
            "agent",
            "bootstrap",
            "workspace",
            "toolbox",
            "tools",
            "outbound",
        ],
    ),
    (
        "cli",
        &[
            "domain",
            "runs",
            "queue",
            "bootstrap",
            "objectstore",
            "api",
            "worker",
            "workspace",
        ],
    ),
    ("testkit", &["domain", "objectstore"]),
    // Not the code it checks: its checker must be independent.
    ("chaos", &["domain", "testkit"]),
];

/// Foreign crates (by the start of their names) that only these of ours may use.
const FOREIGN: [(&str, &[&str]); 15] = [
    ("rmcp", &["tools"]),
    ("tokio-tungstenite", &["tools"]),
    ("html2text", &["tools"]),
    ("fred", &["queue"]),
    ("redis", &[]),
    ("deadpool-postgres", &["runs"]),
    ("tokio-postgres", &["runs", "cli", "testkit", "chaos"]),
    ("sqlx", &[]),
    ("aws-", &["workspace", "worker", "cli", "testkit"]),
    ("s3s", &["objectstore"]),
    ("kube", &["worker"]),
    ("k8s-", &["worker"]),
    ("axum", &["api", "bootstrap", "worker", "testkit", "chaos"]),
    (
        "reqwest",
        &[
            "api",
            "bootstrap",
            "worker",
            "cli",
            "testkit",
            "chaos",
            "outbound",
            "tools",
        ],
    ),
    ("anyhow", &["api", "worker"]),
];

/// All that `domain` may use: no runtime, no IO.
const OF_DOMAIN: [&str; 10] = [
    "serde",
    "serde_json",
    "thiserror",
    "uuid",
    "jiff",
    "sha2",
    "rand",
    "aho-corasick",
    "base64",
    "percent-encoding",
];

/// Crate to its normal dependencies.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies");
        let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
        (
            text(&package["name"]),
            normal.map(|dependency| text(&dependency["name"])).collect(),
        )
    };
    packages.iter().map(of).collect()
}

#[test]
fn our_crates_see_only_what_the_design_allows() {
    let found = dependencies();
    let known: Vec<&str> = OURS.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for (name, uses) in &found {
        let Some((_, allowed)) = OURS.iter().find(|(own, _)| own == name) else {
            wrong.push(format!("{name} is not in the table of crates"));
            continue;
        };
        let ours = uses.iter().filter(|used| known.contains(&used.as_str()));
        let forbidden = ours.filter(|used| !allowed.contains(&used.as_str()));
        wrong.extend(forbidden.map(|used| format!("{name} uses {used}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in known {
        assert!(
            found.contains_key(name),
            "{name} is in the table of crates, but not in the workspace"
        );
    }
}

#[test]
fn each_heavy_library_stays_in_the_crates_that_own_it() {
    let mut wrong = Vec::new();
    for (name, uses) in dependencies() {
        for used in uses {
            let owner = FOREIGN.iter().find(|(start, _)| used.starts_with(start));
            if owner.is_some_and(|(_, owners)| !owners.contains(&name.as_str())) {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_domain_has_no_runtime_and_no_io() {
    let uses = &dependencies()["domain"];
    let wrong: Vec<_> = uses
        .iter()
        .filter(|used| !OF_DOMAIN.contains(&used.as_str()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
