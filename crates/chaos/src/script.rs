//! The runs of the load: scripts of 1 to 20 items, drawn from the seed.

use rand::Rng;
use serde_json::{Value, json};

/// Most turns of a run.
const MAX_ITEMS: usize = 20;

fn tool(name: &str, input: Value) -> Value {
    json!({"type": "tool", "tool_name": name, "tool_input": input})
}

/// A call of one of the three counting tools that takes `ms`.
pub fn count(effect: &str, ms: u64, late: bool) -> Value {
    tool(&format!("count_{effect}"), json!({"ms": ms, "late": late}))
}

/// The prompt that makes the offline model follow these items.
pub fn prompt(items: &[Value]) -> String {
    json!({"script": items}).to_string()
}

/// The items of one run.
pub fn draw(rng: &mut impl Rng) -> Vec<Value> {
    let wanted = rng.random_range(1..=MAX_ITEMS);
    let mut items = Vec::new();
    while items.len() < wanted {
        draw_some(rng, &mut items);
    }
    items
}

fn draw_some(rng: &mut impl Rng, items: &mut Vec<Value>) {
    let ms = if rng.random_bool(0.1) {
        rng.random_range(500..3_000)
    } else {
        rng.random_range(0..300)
    };
    let late = rng.random_bool(0.5);
    match rng.random_range(0..100) {
        0..18 => items.push(count("pure", ms, late)),
        18..42 => items.push(count("idempotent", ms, late)),
        42..60 => items.push(count("at_most_once", ms, late)),
        60..68 => items.push(tool("message", json!({"message": "one more step"}))),
        68..78 => {
            let path = format!("file-{}.txt", items.len());
            items.push(tool("file_write", json!({"filepath": path, "content": "chaos"})));
            items.push(tool("file_read", json!({"filepath": path})));
        }
        78..80 => items.push(tool("shell", json!({"command": "true"}))),
        80..82 => items.push(tool("shell", json!({"command": "sleep 0.5"}))),
        82..91 => items.push(json!({"type": "sleep", "ms": ms})),
        91..95 => {
            let attempts = rng.random_range(1..=2);
            items.push(json!({"type": "error", "status": 503, "attempts": attempts}));
        }
        _ => items.push(json!({"type": "request_input", "message": "go on?"})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn the_same_seed_gives_the_same_runs() {
        let of = |seed| draw(&mut StdRng::seed_from_u64(seed));
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert!((0..200).all(|seed| (1..=MAX_ITEMS + 1).contains(&of(seed).len())));
    }
}
