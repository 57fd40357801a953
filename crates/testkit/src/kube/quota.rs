//! Quotas: counted as the real admission counts, finished Jobs included.

use super::kind::Kind;
use super::object;
use super::status::Status;
use super::store::State;
use serde_json::{Map, Value};

/// A quantity in thousandths.
pub(super) fn quantity(value: &Value) -> i128 {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let factor: i128 = match unit {
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => 1_000,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let part = format!("{part:0<3}");
    let thousandths = whole.parse::<i128>().unwrap_or(0) * 1_000 + part[..3].parse::<i128>().unwrap_or(0);
    thousandths * factor / 1_000
}

/// As the server prints it: whole units, binary ones for memory.
fn print(resource: &str, thousandths: i128) -> String {
    if thousandths % 1_000 != 0 {
        return format!("{thousandths}m");
    }
    let mut number = thousandths / 1_000;
    if !resource.contains("memory") || number == 0 {
        return number.to_string();
    }
    let mut unit = 0;
    while number % 1_024 == 0 && unit < 3 {
        number /= 1_024;
        unit += 1;
    }
    format!("{number}{}", ["", "Ki", "Mi", "Gi"][unit])
}

/// What an object takes of a resource that a quota limits; nothing when it takes none of it.
fn taken(kind: Kind, found: &Value, resource: &str) -> Option<i128> {
    let counted = resource
        .strip_prefix("count/")
        .map(|name| name.split_once('.').unwrap_or((name, "")));
    if counted == Some((kind.resource(), kind.group())) || (kind == Kind::Pod && resource == "pods") {
        return Some(1_000);
    }
    let wanted = match resource.split_once('.') {
        Some(("requests" | "limits", _)) if kind == Kind::Pod => resource,
        _ => return None,
    };
    let (which, name) = wanted.split_once('.')?;
    if object::has_ended(found) {
        return Some(0);
    }
    let sum = |list: &str| containers(found, list).map(|one| quantity(&one["resources"][which][name]));
    let main: i128 = sum("containers").sum();
    Some(main.max(sum("initContainers").max().unwrap_or(0)))
}

fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    pod["spec"][list].as_array().into_iter().flatten()
}

fn hard(quota: &Value) -> impl Iterator<Item = (&String, &Value)> {
    quota["spec"]["hard"].as_object().into_iter().flatten()
}

fn used_thousandths(state: &State, namespace: &str, resource: &str) -> i128 {
    let objects = state
        .all()
        .filter(|(_, found)| object::namespace(found) == namespace);
    objects
        .filter_map(|(kind, found)| taken(kind, found, resource))
        .sum()
}

/// `status.used` of a quota.
pub(super) fn used(state: &State, quota: &Value) -> Value {
    let namespace = object::namespace(quota);
    let one = |(resource, _): (&String, &Value)| {
        let used = print(resource, used_thousandths(state, namespace, resource));
        (resource.clone(), Value::from(used))
    };
    Value::Object(hard(quota).map(one).collect::<Map<_, _>>())
}

/// Refuses an object for which there is no room.
pub(super) fn admit(state: &State, kind: Kind, new: &Value) -> Result<(), Status> {
    let namespace = object::namespace(new);
    for quota in state.list(Kind::Quota, namespace) {
        requests_are_there(kind, new, quota)?;
        let (mut requested, mut used, mut limited) = (Vec::new(), Vec::new(), Vec::new());
        for (resource, limit) in hard(quota) {
            let Some(wanted) = taken(kind, new, resource) else {
                continue;
            };
            let there = used_thousandths(state, namespace, resource);
            if wanted > 0 && there + wanted > quantity(limit) {
                requested.push(format!("{resource}={}", print(resource, wanted)));
                used.push(format!("{resource}={}", print(resource, there)));
                limited.push(format!("{resource}={}", limit.as_str().unwrap_or_default()));
            }
        }
        if requested.is_empty() {
            continue;
        }
        let why = format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            object::name(quota),
            requested.join(","),
            used.join(","),
            limited.join(","),
        );
        return Err(Status::forbidden(kind, object::name(new), &why));
    }
    Ok(())
}

/// A quota on requests refuses any container that has none.
fn requests_are_there(kind: Kind, new: &Value, quota: &Value) -> Result<(), Status> {
    if kind != Kind::Pod {
        return Ok(());
    }
    let mut missing = Vec::new();
    for (resource, _) in hard(quota) {
        let Some((which @ ("requests" | "limits"), name)) = resource.split_once('.') else {
            continue;
        };
        let all = containers(new, "containers").chain(containers(new, "initContainers"));
        let without = all.filter(|one| one["resources"][which][name].is_null());
        let names: Vec<&str> = without.map(|one| object::text(one, "/name")).collect();
        if !names.is_empty() {
            missing.push(format!("{resource} for: {}", names.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "failed quota: {}: must specify {}",
        object::name(quota),
        missing.join("; ")
    );
    Err(Status::forbidden(kind, object::name(new), &why))
}

#[cfg(test)]
mod tests {
    use super::{print, quantity};
    use serde_json::json;

    #[test]
    fn quantities_are_read_and_printed_as_kubernetes_does() {
        assert_eq!(quantity(&json!("100m")), 100);
        assert_eq!(quantity(&json!("0.5")), 500);
        assert_eq!(quantity(&json!(2)), 2_000);
        assert_eq!(quantity(&json!("128Mi")), 128 * 1024 * 1024 * 1000);
        assert_eq!(print("requests.cpu", 25_000), "25");
        assert_eq!(print("requests.cpu", 100), "100m");
        assert_eq!(print("requests.memory", quantity(&json!("6400Mi"))), "6400Mi");
        assert_eq!(print("requests.memory", quantity(&json!("50Gi"))), "50Gi");
    }
}
