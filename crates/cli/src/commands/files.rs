//! Files of a run, straight from object storage; a zip, addresses and artifacts through the API.

use crate::args::{FilesAction, FilesArgs};
use crate::client::Api;
use crate::commands::artifacts;
use crate::console::{Console, harmless};
use crate::failure::{Code, Failure};
use crate::objects::{Bucket, Object, S3Settings};
use crate::place::Place;
use crate::render;
use domain::UserId;
use serde_json::json;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};
use workspace::run_prefix;

/// Below a run's prefix: ours, not the agent's (AA-90).
const HIDDEN: &str = ".agent/";

/// `agentctl files`
pub async fn files(console: Console, place: &Place, args: &FilesArgs) -> Result<Code, Failure> {
    let api = Api::at(place)?;
    let run = api.resolve(&args.run).await?;
    match &args.action {
        Some(FilesAction::Zip { output }) => return zip(console, &api, &run, output.as_deref()).await,
        Some(FilesAction::Url { path }) => return url(console, &api, &run, path).await,
        Some(FilesAction::Artifacts { json }) => return artifacts::list(console, &api, &run, *json).await,
        _ => {}
    }
    // An id of no artifact may still be the name of a file.
    if let Some(FilesAction::Get { path }) = &args.action
        && let Ok(id) = uuid::Uuid::parse_str(path)
        && let Some(code) = artifacts::get(console, &api, &run, &id.to_string()).await?
    {
        return Ok(code);
    }
    // Also the check that the run is ours: the API answers 404 for anybody else's.
    let answer = api.status(&run, &[]).await?;
    let user = answer["run"]["user_id"]
        .as_str()
        .ok_or_else(|| Failure::new("the API's answer names no user"))?;
    let bucket = Bucket::new(&S3Settings::of(place)?);
    let run_id = run
        .parse()
        .map_err(|_| Failure::new(format!("not a run id: {run}")))?;
    let prefix = run_prefix(&UserId::from(user), run_id);
    match &args.action {
        None => list(console, &bucket, &prefix, false).await,
        Some(FilesAction::Ls { json }) => list(console, &bucket, &prefix, *json).await,
        Some(FilesAction::Get { path }) => {
            let bytes = bucket.get(&format!("{prefix}{path}")).await?;
            console.raw(&bytes)?;
            Ok(Code::Ok)
        }
        Some(FilesAction::Pull { dir }) => pull(console, &bucket, &prefix, dir).await,
        Some(FilesAction::Zip { .. } | FilesAction::Url { .. } | FilesAction::Artifacts { .. }) => {
            Ok(Code::Ok)
        }
    }
}

/// Fetches the zip; a file of it is there only when it is whole.
async fn zip(console: Console, api: &Api, run: &str, output: Option<&Path>) -> Result<Code, Failure> {
    let mut answer = api.zip(run).await?;
    let cut = |error: reqwest::Error| {
        Failure::new("the zip broke off")
            .why(&error)
            .fix("try again; nothing was kept of it")
    };
    if output == Some(Path::new("-")) {
        while let Some(chunk) = answer.chunk().await.map_err(cut)? {
            console.raw(&chunk)?;
        }
        return Ok(Code::Ok);
    }
    let target = output.map_or_else(|| PathBuf::from(format!("run-{run}.zip")), Path::to_owned);
    let mut part = target.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let fetched = async {
        let mut file = std::fs::File::create(&part)?;
        while let Some(chunk) = answer.chunk().await.map_err(cut)? {
            file.write_all(&chunk)?;
        }
        std::fs::rename(&part, &target)?;
        Ok::<(), Failure>(())
    };
    if let Err(failure) = fetched.await {
        std::fs::remove_file(&part).ok();
        return Err(failure);
    }
    console.out(&target.to_string_lossy())?;
    Ok(Code::Ok)
}

async fn url(console: Console, api: &Api, run: &str, path: &str) -> Result<Code, Failure> {
    let link = api.file_url(run, path).await?;
    console.out(super::runs::text(&link, "url")?)?;
    let until = link["expires_at"].as_str().unwrap_or_default();
    console.note(&format!("good until {until}, for whoever has it"));
    Ok(Code::Ok)
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
