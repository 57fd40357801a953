//! Files of a run, straight from object storage.

use crate::args::{FilesAction, FilesArgs};
use crate::client::Api;
use crate::console::{Console, harmless};
use crate::failure::{Code, Failure};
use crate::objects::{Bucket, Object, S3Settings, run_prefix};
use crate::place::Place;
use crate::render;
use serde_json::json;
use std::path::{Component, Path, PathBuf};

/// Below a run's prefix: ours, not the agent's (AA-90).
const HIDDEN: &str = ".agent/";

/// `agentctl files`
pub async fn files(console: Console, place: &Place, args: &FilesArgs) -> Result<Code, Failure> {
    let api = Api::at(place)?;
    let run = api.resolve(&args.run).await?;
    // Also the check that the run is ours: the API answers 404 for anybody else's.
    let answer = api.status(&run, &[]).await?;
    let user = answer["run"]["user_id"]
        .as_str()
        .ok_or_else(|| Failure::new("the API's answer names no user"))?;
    let bucket = Bucket::new(&S3Settings::of(place)?);
    let prefix = run_prefix(user, &run);
    match &args.action {
        None => list(console, &bucket, &prefix, false).await,
        Some(FilesAction::Ls { json }) => list(console, &bucket, &prefix, *json).await,
        Some(FilesAction::Get { path }) => {
            let bytes = bucket.get(&format!("{prefix}{path}")).await?;
            console.raw(&bytes)?;
            Ok(Code::Ok)
        }
        Some(FilesAction::Pull { dir }) => pull(console, &bucket, &prefix, dir).await,
    }
}

async fn visible(bucket: &Bucket, prefix: &str) -> Result<Vec<(String, Object)>, Failure> {
    let objects = bucket.list(prefix).await?;
    Ok(objects
        .into_iter()
        .filter_map(|object| {
            let path = object.key.strip_prefix(prefix)?.to_owned();
            (!path.is_empty() && !path.starts_with(HIDDEN)).then_some((path, object))
        })
        .collect())
}

async fn list(console: Console, bucket: &Bucket, prefix: &str, as_json: bool) -> Result<Code, Failure> {
    let objects = visible(bucket, prefix).await?;
    if objects.is_empty() && !as_json {
        console.note("the run has no files");
    }
    if as_json {
        for (path, object) in &objects {
            let line =
                json!({"path": path, "bytes": object.bytes, "key": object.key, "bucket": bucket.name()});
            console.out(&line.to_string())?;
        }
        return Ok(Code::Ok);
    }
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|(path, object)| vec![render::size(object.bytes), harmless(path)])
        .collect();
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(line))?;
    Ok(Code::Ok)
}

async fn pull(console: Console, bucket: &Bucket, prefix: &str, directory: &Path) -> Result<Code, Failure> {
    let mut code = Code::Ok;
    for (path, object) in visible(bucket, prefix).await? {
        let Some(target) = inside(directory, &path) else {
            console.note(&format!(
                "left out, its name leads elsewhere: {}",
                harmless(&path)
            ));
            code = Code::Failed;
            continue;
        };
        let bytes = bucket.get(&object.key).await?;
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, bytes)?;
        console.out(&target.to_string_lossy())?;
    }
    Ok(code)
}

/// The place of a file below a directory; nothing that leads out of it.
fn inside(directory: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path);
    let is_plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (is_plain && !path.is_empty()).then(|| directory.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_written_outside_the_directory() {
        let directory = Path::new("out");
        assert_eq!(inside(directory, "a/b.txt"), Some(PathBuf::from("out/a/b.txt")));
        for path in ["../x", "/etc/passwd", "a/../../x", "", "."] {
            assert_eq!(inside(directory, path), None, "{path}");
        }
    }
}
