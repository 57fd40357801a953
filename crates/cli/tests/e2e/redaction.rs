//! Secrets of the programs and personal details of people, looked for wherever something is kept or shown.

use crate::support::{LONG, Setup, System, message, script, shell};
use serde_json::json;
use std::path::Path;

/// A secret the workers know. No instruction contains it: the command puts it together.
const CANARY: &str = "canary-7f3e9a1c5b2d8e4f";
const COMMAND: &str = "a=canary; b=7f3e9a1c5b2d8e4f; printf '%s' \"$a-\"; printf '%s\\n' $b; \
    printf '%s' \"x$a-$b\" | base64; printf '%s' \"$a-$b\" | od -An -tx1 | tr -d ' \\n'; \
    printf 'first line\\n%s-%s\\n' $a $b >&2";
/// Personal details a user sends; kept in the run's own tables, which a take-over needs, and nowhere else.
const DETAILS: [&str; 4] = [
    "jane.roe@example.org",
    "+1 (555) 123-4567",
    "sk-live-0a1b2c3d4e",
    "Bearer 9f8e7d6c5b",
];
/// What a run needs unchanged to go on.
const OWN_TABLES: [&str; 4] = ["agent_runs", "agent_messages", "agent_steps", "agent_turns"];

/// The forms of the canary as the command and the stores might spell them.
fn spellings() -> Vec<String> {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    // Base64 of `x` and the canary, without the first two characters, which carry the `x`.
    vec![
        CANARY.to_owned(),
        hex,
        "NhbmFyeS03ZjNlOWExYzViMmQ4ZTRm".to_owned(),
    ]
}

impl System {
    /// Every row of every table, as (table, text).
    async fn all_rows(&self) -> Vec<(String, String)> {
        let tables =
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('public', 'runtime')";
        let mut rows = vec![];
        for table in self.sql(tables, "").await {
            let table: String = table.get(0);
            let text = format!("SELECT string_agg(t::text, E'\\n') FROM {table} t");
            rows.push((table, self.text(&text, "").await));
        }
        rows
    }

    /// Everything Redis holds, as its file spells it.
    fn redis_file(&self) -> String {
        self.redis.cli(&["CONFIG", "SET", "rdbcompression", "no"]);
        self.redis.cli(&["SAVE"]);
        let dir = self.redis.cli(&["CONFIG", "GET", "dir"]);
        let name = self.redis.cli(&["CONFIG", "GET", "dbfilename"]);
        let last = |answer: &str| answer.lines().last().unwrap_or_default().to_owned();
        let bytes = std::fs::read(Path::new(&last(&dir)).join(last(&name))).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn objects(&self) -> String {
        let client = self.s3.client();
        let listed = client
            .list_objects_v2()
            .bucket(self.s3.bucket())
            .send()
            .await
            .unwrap();
        let mut text = String::new();
        for object in listed.contents() {
            let key = object.key().unwrap();
            text.push_str(key);
            text.push_str(&String::from_utf8_lossy(&self.object(key).await.unwrap()));
        }
        text
    }

    fn logs(&self) -> String {
        let workers = self
            .workers
            .iter()
            .map(|worker| worker.stdout() + &worker.stderr());
        self.api.stdout() + &self.api.stderr() + &workers.collect::<String>()
    }

    async fn frames(&self, run: &str) -> String {
        let mut all = String::new();
        for url in [self.stream_url(run), self.named_url(run)] {
            let frames = self.watch(&url).await;
            all.extend(frames.into_iter().map(|frame| frame.raw));
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_tool_prints_is_kept_nowhere_in_no_encoding() {
    let system = Setup::workers(1)
        .worker_env("OPENAI_API_KEY", CANARY)
        .start()
        .await;
    let run = system.begin(&script(&[shell(COMMAND), message("done")])).await;
    system.wait_status(&run, "completed", LONG).await;
    let frames = system.frames(&run).await;
    assert!(frames.contains("[REDACTED]"), "the command printed it:\n{frames}");
    let mut places = vec![
        ("streams".to_owned(), frames),
        ("redis".to_owned(), system.redis_file()),
        ("objects".to_owned(), system.objects().await),
        ("logs".to_owned(), system.logs()),
    ];
    places.extend(system.all_rows().await);
    assert!(places.len() > 20, "all tables are looked at");
    for (place, text) in places {
        for spelling in spellings() {
            assert!(!text.contains(&spelling), "{spelling} is in {place}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_tell_about_themselves_stays_in_the_runs_own_tables() {
    let system = Setup::workers(1).start().await;
    let told = DETAILS.join(" and ");
    let run = system
        .begin(&script(&[message(&format!("You said {told}"))]))
        .await;
    system.wait_status(&run, "completed", LONG).await;
    system.execute(json!({"action": "create", "prompt": told})).await;
    let frames = system.frames(&run).await;
    assert!(
        frames
            .contains("You said [REDACTED_EMAIL] and [REDACTED_PHONE] and [REDACTED] and Bearer [REDACTED]")
    );
    let (own, others): (Vec<_>, Vec<_>) = system
        .all_rows()
        .await
        .into_iter()
        .partition(|(table, _)| OWN_TABLES.iter().any(|own| *table == format!("public.{own}")));
    let mut places = vec![
        ("streams".to_owned(), frames),
        ("redis".to_owned(), system.redis_file()),
        ("logs".to_owned(), system.logs()),
    ];
    places.extend(others);
    for detail in DETAILS {
        assert!(
            own.iter().any(|(_, text)| text.contains(detail)),
            "{detail} is needed to go on"
        );
        for (place, text) in &places {
            assert!(!text.contains(detail), "{detail} is in {place}: {text}");
        }
    }
}
