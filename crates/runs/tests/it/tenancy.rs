//! The second lock between users: what queries see that forget to ask for one user's rows.

use crate::support::{Store, new_run, store};
use domain::command::Command;
use domain::ids::{RunId, UserId};
use runs::{CommandError, Created};
use tokio_postgres::Client;

/// Hold nothing of users: topics, sequence numbers, hashes, workers of the internal surface, keys of the programs.
const NOT_OF_USERS: [&str; 7] = [
    "public.signing_keys",
    "runtime.schema_migrations",
    "runtime.projection_checkpoints",
    "runtime.projection_drift",
    "runtime.run_summaries",
    "runtime.workers",
    "runtime.worker_events",
];

async fn tables(client: &Client) -> Vec<String> {
    let sql =
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('public', 'runtime')";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn of_users(client: &Client) -> Vec<String> {
    let mut all = tables(client).await;
    all.retain(|table| !NOT_OF_USERS.contains(&table.as_str()));
    all
}

/// A run of this user with rows in every table of users.
async fn run_of(store: &Store, user: &str) -> RunId {
    let mut new = new_run(true);
    new.user_id = user.into();
    let Created::New(made) = store.orchestration.create(new, None).await.unwrap() else {
        panic!("no key was given");
    };
    let run = made.run.id;
    let sql = format!(
        "INSERT INTO agent_idempotency VALUES ('{user}', 'k', 'h', '{{}}', now());
         INSERT INTO credit_balances VALUES ('{user}', 5, now());
         INSERT INTO credit_transactions VALUES (gen_random_uuid(), '{user}', '{run}', NULL, 1, 4, now());
         INSERT INTO api_keys VALUES (gen_random_uuid(), '{user}', 'n', 'sk_agent_abc', '{user}', 'user', now());
         INSERT INTO agent_turns VALUES ('{run}', 1, '{{}}', '[]', NULL, 'm', 'p', now());
         INSERT INTO agent_steps (id, run_id, step_number, phase_number, turn, action, tool_name, effect, status,
             idempotency_key, created_at)
             VALUES (gen_random_uuid(), '{run}', 1, 1, 1, 0, 'message', 'pure', 'completed', '{user}', now());
         INSERT INTO agent_artifacts VALUES (gen_random_uuid(), '{run}', NULL, '{user}', 'f', 'f', 't', 1, 'h', 'b', 'k', now());
         INSERT INTO token_records VALUES (gen_random_uuid(), '{run}', '{user}', 'm', 'p', 1, 1, false, now());
         INSERT INTO budget_reservations VALUES ('{run}', 1, 1, '{user}', 1, 1, now());
         INSERT INTO agent_interrupts VALUES (gen_random_uuid(), '{run}', 'question', 1, 0, NULL, NULL, NULL, NULL, '[]', 'm',
             'r', '{{}}', 'open', NULL, NULL, NULL, now());
         INSERT INTO agent_workspaces VALUES ('{run}', 1, 1, now());
         INSERT INTO runtime.run_frames VALUES ('{run}', 'f-1', 't', '{{}}', now())"
    );
    store.psql().await.batch_execute(&sql).await.unwrap();
    run
}

async fn act_for(client: &Client, user: Option<&str>) {
    client.batch_execute("SET ROLE agent_app").await.unwrap();
    if let Some(user) = user {
        let sql = "SELECT set_config('app.actor', 'user', false), set_config('app.user_id', $1, false)";
        client.query(sql, &[&user]).await.unwrap();
    }
}

async fn count(client: &Client, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn every_table_of_users_is_locked_and_the_programs_role_cannot_open_it() {
    let store = store().await;
    let client = store.psql().await;
    let sql = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'runtime') AND c.relkind = 'r'
          AND (NOT c.relrowsecurity OR NOT c.relforcerowsecurity OR pg_get_userbyid(c.relowner) = 'agent_app')";
    let mut open: Vec<String> = client
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    open.sort();
    let mut expected = NOT_OF_USERS.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(
        open, expected,
        "a new table needs a policy, or a place in the list and a reason"
    );
    let sql = "SELECT rolsuper OR rolbypassrls OR rolcanlogin FROM pg_roles WHERE rolname = 'agent_app'";
    assert!(!client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
    let views = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'runtime') AND c.relkind = 'v'
          AND NOT coalesce(c.reloptions @> '{security_invoker=true}', false)";
    assert_eq!(
        store.count(views).await,
        0,
        "a view shows what its reader may see"
    );
}

#[tokio::test]
async fn queries_without_any_filter_see_and_change_no_foreign_row() {
    let store = store().await;
    for user in ["jane", "john"] {
        run_of(&store, user).await;
    }
    let client = store.psql().await;
    let tables = of_users(&client).await;
    assert!(tables.len() >= 15, "{tables:?}");
    for (user, share) in [(Some("jane"), 2), (Some("nobody"), 0), (None, 0)] {
        let all = store.psql().await;
        let own = store.psql().await;
        act_for(&own, user).await;
        for table in &tables {
            let there = count(&all, table).await;
            assert!(there >= 2, "{table} has rows of both");
            let expected = if share == 0 { 0 } else { there / share };
            assert_eq!(count(&own, table).await, expected, "{user:?} in {table}");
        }
    }
    let own = store.psql().await;
    act_for(&own, Some("nobody")).await;
    for table in tables.iter().filter(|table| *table != "runtime.run_events") {
        let deleted = own.execute(&format!("DELETE FROM {table}"), &[]).await.unwrap();
        assert_eq!(deleted, 0, "{table}");
    }
    let changed = own
        .execute("UPDATE agent_runs SET prompt = 'x'", &[])
        .await
        .unwrap();
    assert_eq!(changed, 0);
    act_for(&own, Some("jane")).await;
    assert!(
        own.execute("UPDATE agent_runs SET user_id = 'john'", &[])
            .await
            .is_err()
    );
    assert_eq!(
        count(&own, "runtime.runs").await,
        1,
        "the view shows one's own runs"
    );
}

#[tokio::test]
async fn what_is_read_and_written_for_a_user_is_that_users_even_when_it_is_asked_for_another() {
    let store = store().await;
    let (hers, his) = (run_of(&store, "jane").await, run_of(&store, "john").await);
    let jane = UserId("jane".to_owned());
    let reader = store.reader.of_user(&jane);
    assert!(reader.run(hers).await.unwrap().is_some());
    assert!(reader.run(his).await.unwrap().is_none());
    assert!(reader.head(his).await.unwrap().is_none());
    assert_eq!(reader.events_after(his, 0, 10).await.unwrap(), []);
    let john = UserId("john".to_owned());
    let orchestration = store.orchestration.of_user(&jane);
    let stop = orchestration.command(&john, his, Command::Stop, "").await;
    assert!(matches!(stop, Err(CommandError::NotFound)), "{stop:?}");
    orchestration
        .command(&jane, hers, Command::Stop, "")
        .await
        .unwrap();
    let mut new = new_run(false);
    new.user_id = john;
    assert!(
        orchestration.create(new, None).await.is_err(),
        "nobody makes runs for others"
    );
    // The connection that acted for a user serves the system again.
    assert!(store.reader.run(his).await.unwrap().is_some());
}
