//! Files of runs through the API: pages, addresses, the zip, and what is said when there are none to be had.

use crate::harness::{Api, client, read};
use domain::RunId;
use domain::change::Change;
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testkit::S3;

const OWNER: &str = "auth0|jane";

struct Setup {
    api: Api,
    s3: S3,
}

async fn setup(extra: &[(&str, &str)]) -> Setup {
    let s3 = S3::start().await;
    let endpoint = s3.endpoint();
    let store = [
        ("S3_ENDPOINT", endpoint.as_str()),
        ("S3_ACCESS_KEY", s3.access_key()),
        ("S3_SECRET_KEY", s3.secret_key()),
        ("S3_REGION", s3.region()),
        ("S3_WORKSPACE_BUCKET", s3.bucket()),
    ];
    let all: Vec<_> = store.into_iter().chain(extra.iter().copied()).collect();
    let api = Api::start_with(&all).await;
    Setup { api, s3 }
}

/// Follows nowhere.
fn still() -> Client {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .build()
        .expect("a client can be built")
}

impl Setup {
    async fn put(&self, run: RunId, path: &str, content: &str) {
        let key = format!("users/auth0%7Cjane/runs/{run}/{path}");
        let put = self.s3.client().put_object().bucket(self.s3.bucket()).key(key);
        put.body(content.as_bytes().to_vec().into())
            .send()
            .await
            .expect("stored");
    }

    async fn get(&self, user: &str, path: &str) -> Response {
        let request = still().get(format!("{}{path}", self.api.base));
        request
            .bearer_auth(Api::token(user))
            .send()
            .await
            .expect("answered")
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        read(self.get(OWNER, path).await).await
    }

    async fn sql(&self, sql: &str) {
        let (client, session) = tokio_postgres::connect(&self.api.db_url, tokio_postgres::NoTls)
            .await
            .expect("connected");
        let session = tokio::spawn(session);
        client.batch_execute(sql).await.expect("done");
        drop(client);
        session.await.expect("ended").expect("ended well");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_listed_page_by_page_with_what_is_known_of_them() {
    let setup = setup(&[]).await;
    let run = setup.api.create(OWNER).await;
    for path in ["a.txt", "b/c.txt", "b/d.txt", ".agent/packs/x", "ü"] {
        setup.put(run, path, "12345").await;
    }
    setup
        .sql(&format!(
            "INSERT INTO agent_artifacts VALUES
             (gen_random_uuid(), '{run}', NULL, 'u', 'a.txt', 'a.txt', 't', 5, 'old', 'b', 'k', now() - interval '1 hour'),
             (gen_random_uuid(), '{run}', NULL, 'u', 'a.txt', 'a.txt', 't', 5, 'abc', 'b', 'k', now()),
             (gen_random_uuid(), '{run}', NULL, 'u', 'c.txt', 'b/c.txt', 't', 99, 'def', 'b', 'k', now())"
        ))
        .await;
    let (status, page) = setup.json(&format!("/agent/run/{run}/files?limit=3")).await;
    assert_eq!(status, 200, "{page}");
    let names: Vec<&Value> = page["files"]
        .as_array()
        .expect("files")
        .iter()
        .map(|file| &file["path"])
        .collect();
    assert_eq!(names, ["a.txt", "b/c.txt", "b/d.txt"]);
    assert_eq!(
        (&page["has_more"], &page["next_cursor"]),
        (&json!(true), &json!("b/d.txt"))
    );
    let first = &page["files"][0];
    assert_eq!((&first["bytes"], &first["sha256"]), (&json!(5), &json!("abc")));
    assert_eq!(
        page["files"][1]["sha256"],
        Value::Null,
        "of another size than the tool said"
    );
    assert_eq!(first["last_modified"].as_str().map(str::len), Some(27));
    let (_, rest) = setup
        .json(&format!("/agent/run/{run}/files?limit=3&cursor=b/d.txt"))
        .await;
    assert_eq!(rest["files"][0]["path"], "ü");
    assert_eq!(
        (&rest["has_more"], &rest["next_cursor"]),
        (&json!(false), &Value::Null)
    );
    let (status, refused) = setup.json(&format!("/agent/run/{run}/files?limit=0")).await;
    assert_eq!((status, &refused["code"]), (422, &json!("validation_error")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_fetched_from_the_store_by_whoever_has_its_address() {
    let setup = setup(&[("DOWNLOAD_URL_TTL_SECONDS", "60")]).await;
    let run = setup.api.create(OWNER).await;
    setup.put(run, "d/a b.txt", "hello").await;
    let sent = setup
        .get(OWNER, &format!("/agent/run/{run}/files/d/a%20b.txt"))
        .await;
    assert_eq!(sent.status(), 307);
    assert_eq!(sent.headers()["cache-control"], "no-store");
    let to = sent.headers()["location"].to_str().expect("text").to_owned();
    assert!(
        to.starts_with(&setup.s3.endpoint()) && to.contains("X-Amz-Expires=60"),
        "{to}"
    );
    let fetched = client().get(&to).send().await.expect("answered");
    assert_eq!(fetched.status(), 200);
    let disposition = fetched.headers()["content-disposition"]
        .to_str()
        .expect("text")
        .to_owned();
    assert_eq!(disposition, "attachment; filename*=UTF-8''a%20b%2Etxt");
    assert_eq!(fetched.text().await.expect("a body"), "hello");
    let (status, link) = setup
        .json(&format!("/agent/run/{run}/files/d/a%20b.txt?redirect=false"))
        .await;
    assert_eq!(status, 200, "{link}");
    assert_eq!(
        link["url"]
            .as_str()
            .map(|url| url.starts_with(&setup.s3.endpoint())),
        Some(true)
    );
    assert_eq!(link["expires_at"].as_str().map(str::len), Some(27));
    for (path, status, code, detail) in [
        ("none", 404, "file_not_found", "File not found: none"),
        ("a/..%2Fb", 400, "invalid_path", "Invalid path: a/../b"),
        (
            ".agent/packs/x",
            400,
            "invalid_path",
            "Invalid path: .agent/packs/x",
        ),
    ] {
        let (got, refused) = setup.json(&format!("/agent/run/{run}/files/{path}")).await;
        assert_eq!(
            (got, refused["code"].as_str(), refused["detail"].as_str()),
            (status, Some(code), Some(detail))
        );
    }
    let (status, refused) = setup
        .json(&format!("/agent/run/{run}/files/a?redirect=maybe"))
        .await;
    assert_eq!((status, &refused["code"]), (422, &json!("validation_error")));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_files_come_as_one_zip() {
    let setup = setup(&[]).await;
    let run = setup.api.create(OWNER).await;
    for number in 0..20 {
        setup.put(run, &format!("f/{number:02}"), "content").await;
    }
    let sent = setup.get(OWNER, &format!("/agent/run/{run}/files.zip")).await;
    assert_eq!(sent.status(), 200);
    assert_eq!(sent.headers()["content-type"], "application/zip");
    let disposition = format!("attachment; filename=\"run-{run}.zip\"");
    assert_eq!(sent.headers()["content-disposition"], disposition.as_str());
    let whole = sent.bytes().await.expect("a whole body");
    assert!(whole.starts_with(b"PK\x03\x04"));
    let names = (0..20).map(|number| format!("f/{number:02}"));
    let found: BTreeMap<String, usize> = names
        .map(|name| {
            (
                name.clone(),
                whole
                    .windows(name.len())
                    .filter(|part| *part == name.as_bytes())
                    .count(),
            )
        })
        .collect();
    assert!(
        found.values().all(|count| *count == 2),
        "once with the file, once in the directory: {found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_somebody_else_and_expired_ones_are_not_to_be_had() {
    let setup = setup(&[]).await;
    let run = setup.api.create(OWNER).await;
    setup.put(run, "a", "x").await;
    for path in ["files", "files/a", "files.zip"] {
        let path = format!("/agent/run/{run}/{path}");
        let (status, refused) = read(setup.get("john", &path).await).await;
        assert_eq!(
            (status, &refused["code"]),
            (404, &json!("run_not_found")),
            "{path}"
        );
    }
    let mark = format!(
        "UPDATE agent_runs SET metadata = metadata || '{{\"workspace\": \"expired\"}}' WHERE id = '{run}'"
    );
    setup.sql(&mark).await;
    for path in ["files", "files/a", "files.zip"] {
        let (status, refused) = setup.json(&format!("/agent/run/{run}/{path}")).await;
        assert_eq!(
            (status, &refused["code"]),
            (410, &json!("files_expired")),
            "{path}"
        );
        assert_eq!(
            refused["detail"],
            "The files of this run were deleted by retention"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_missing_or_away_is_told() {
    let api = Api::start().await;
    let run = api.create(OWNER).await;
    for path in ["files", "files/a", "files.zip"] {
        let sent = api.get(OWNER, &format!("/agent/run/{run}/{path}")).send().await;
        let (status, refused) = read(sent.expect("answered")).await;
        assert_eq!(
            (status, &refused["code"]),
            (409, &json!("not_configured")),
            "{path}"
        );
        assert_eq!(
            refused["detail"],
            "download of files is not configured: set S3_ACCESS_KEY and S3_SECRET_KEY"
        );
    }
    let mut setup = setup(&[]).await;
    let run = setup.api.create(OWNER).await;
    setup.s3.stop().await;
    for path in ["files", "files/a", "files.zip"] {
        let (status, refused) = setup.json(&format!("/agent/run/{run}/{path}")).await;
        assert_eq!((status, &refused["code"]), (503, &json!("unavailable")), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_may_ask_for_the_files_of_the_run_it_repeats() {
    let api = Api::start().await;
    let worker = api.worker().await;
    for (asked, stored) in [
        (json!(true), json!(true)),
        (json!(false), Value::Null),
        (Value::Null, Value::Null),
    ] {
        let run = api.created_and_started(OWNER).await;
        let epoch = worker.execute(run).await;
        let failed = Change::Status {
            to: domain::RunStatus::Failed,
            error: None,
        };
        worker.progress(run, epoch, vec![failed]).await;
        let answer = api
            .done(
                OWNER,
                json!({"action": "retry", "run_id": run, "copy_workspace": asked}),
            )
            .await;
        let id = answer["run_id"].as_str().expect("an id");
        let shown = api.get(OWNER, &format!("/agent/run/{id}")).send().await;
        let (_, shown) = read(shown.expect("answered")).await;
        assert_eq!(shown["run"]["metadata"]["copy_workspace"], stored, "{asked}");
    }
    let (status, refused) = api
        .execute(
            OWNER,
            json!({"action": "retry", "run_id": "x", "copy_workspace": "yes"}),
        )
        .await;
    assert_eq!((status, &refused["code"]), (422, &json!("validation_error")));
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_listed_newest_first_and_lead_to_the_very_file_they_name() {
    let setup = setup(&[]).await;
    let run = setup.api.create(OWNER).await;
    setup.put(run, "a.txt", "12345").await;
    setup.put(run, "b/c.txt", "12345").await;
    let id = |n: u32| format!("00000000-0000-4000-8000-00000000000{n}");
    let [old, new, other, longer] = [1, 2, 3, 4].map(id);
    setup
        .sql(&format!(
            "INSERT INTO agent_artifacts VALUES
             ('{old}', '{run}', NULL, 'u', 'a.txt', 'a.txt', 'text/plain', 5, 'old', 'b', 'k', now() - interval '2 hours'),
             ('{new}', '{run}', NULL, 'u', 'a.txt', 'a.txt', 'text/plain', 5, 'abc', 'b', 'k', now() - interval '1 hour'),
             ('{longer}', '{run}', NULL, 'u', 'c.txt', 'b/c.txt', 'text/plain', 99, 'x', 'b', 'k', now() - interval '3 hours'),
             ('{other}', '{run}', NULL, 'u', 'no.txt', 'no.txt', 'text/plain', 5, 'def', 'b', 'k', now())"
        ))
        .await;
    let (status, listed) = setup.json(&format!("/agent/run/{run}/artifacts?limit=2")).await;
    assert_eq!(status, 200, "{listed}");
    assert_eq!(listed["success"], true);
    let ids: Vec<&Value> = listed["artifacts"]
        .as_array()
        .expect("artifacts")
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(ids, [&json!(other), &json!(new)]);
    let shown = &listed["artifacts"][1];
    assert_eq!(
        (&shown["content_hash"], &shown["file_size"]),
        (&json!("abc"), &json!(5))
    );
    assert!(shown.get("storage_key").is_none(), "{shown}");
    let url = shown["download_url"].as_str().expect("a path").to_owned();
    let (status, link) = setup.json(&format!("{url}?redirect=false")).await;
    assert_eq!(status, 200, "{link}");
    let fetched = client()
        .get(link["url"].as_str().expect("a url"))
        .send()
        .await
        .expect("answered");
    assert_eq!(fetched.text().await.expect("a body"), "12345");
    assert_eq!(setup.get(OWNER, &url).await.status(), 307);
    let code = async |artifact: &str| {
        let (status, refused) = setup
            .json(&format!("/agent/run/{run}/artifacts/{artifact}"))
            .await;
        (status, refused["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(code(&old).await, (410, "artifact_replaced".to_owned()));
    assert_eq!(
        code(&longer).await,
        (410, "artifact_replaced".to_owned()),
        "its size is another one now"
    );
    assert_eq!(code(&other).await, (404, "file_not_found".to_owned()));
    assert_eq!(code(&id(9)).await, (404, "artifact_not_found".to_owned()));
    assert_eq!(code("1").await, (404, "artifact_not_found".to_owned()));
    assert_eq!(setup.get("auth0|john", &url).await.status(), 404);
}
