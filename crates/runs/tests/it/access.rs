use crate::support::{ids, new_run, store, user};
use runs::{ApiKeys, Created, Credits, Db, StoreError};
use std::sync::Arc;
use testkit::Postgres;

#[tokio::test]
async fn a_key_is_known_by_its_hash_until_it_is_revoked() {
    let store = store().await;
    let keys = ApiKeys::new(store.db.clone(), Arc::new(store.clock.clone()), ids());
    let made = keys.create(&user(), "ci", true).await.unwrap();
    assert!(made.key.starts_with("sk_agent_"));
    assert_eq!(made.key.len(), 9 + 43);
    assert_eq!(made.stored.key_prefix, made.key[..12]);
    assert!(!format!("{made:?}").contains(&made.key));
    let found = keys.lookup(&made.key).await.unwrap().unwrap();
    assert_eq!((found.user_id.clone(), found.is_admin), (user(), true));
    assert_eq!(keys.lookup("sk_agent_x").await.unwrap(), None);
    assert!(keys.list().await.unwrap()[0].last_used_at.is_some());
    let sql = format!(
        "SELECT count(*) FROM api_keys k WHERE k::text LIKE '%{}%'",
        &made.key[14..]
    );
    assert_eq!(store.count(&sql).await, 0, "the key itself is not stored");
    assert!(keys.revoke(found.id).await.unwrap());
    assert!(keys.revoke(found.id).await.unwrap());
    assert_eq!(keys.lookup(&made.key).await.unwrap(), None);
    assert!(!keys.revoke(uuid::Uuid::max()).await.unwrap());
}

#[tokio::test]
async fn the_last_use_of_a_key_is_written_once_a_minute() {
    let store = store().await;
    let keys = ApiKeys::new(store.db.clone(), Arc::new(store.clock.clone()), ids());
    let made = keys.create(&user(), "ci", false).await.unwrap();
    let used = async || {
        keys.lookup(&made.key).await.unwrap().unwrap();
        keys.list().await.unwrap()[0].last_used_at.unwrap()
    };
    let first = used().await;
    store.clock.advance(jiff::SignedDuration::from_secs(59));
    assert_eq!(used().await, first);
    store.clock.advance(jiff::SignedDuration::from_secs(2));
    assert!(used().await > first);
}

#[tokio::test]
async fn a_run_goes_on_while_its_user_has_credits_and_an_exempt_one_always() {
    let store = store().await;
    let credits = Credits::new(store.db.clone());
    let run = store.created(false).await.run.id;
    assert!(!credits.may_go_on(run).await.unwrap(), "no balance");
    credits.grant_initial(&user(), 1.0).await.unwrap();
    assert!(credits.may_go_on(run).await.unwrap());
    let spend = "UPDATE credit_balances SET available_credits = 0";
    store.psql().await.batch_execute(spend).await.unwrap();
    assert!(!credits.may_go_on(run).await.unwrap());
    credits.grant_initial(&user(), 1.0).await.unwrap();
    assert!(!credits.may_go_on(run).await.unwrap(), "granted once");
    let exempt = store.orchestration.exempt_from_credits(true);
    let Created::New(made) = exempt.create(new_run(false), None).await.unwrap() else {
        panic!("a new run");
    };
    assert!(credits.may_go_on(made.run.id).await.unwrap());
}

#[tokio::test]
async fn a_lost_store_is_unavailable_and_works_again_without_help_once_it_is_back() {
    let mut postgres = Postgres::start().await;
    let db = Db::from_url(&postgres.migrated_database().await).unwrap();
    db.ping().await.unwrap();
    postgres.stop();
    for _ in 0..3 {
        assert!(matches!(db.ping().await, Err(StoreError::Unavailable(_))));
    }
    postgres.restart().await;
    testkit::eventually(std::time::Duration::from_secs(10), async || {
        db.ping().await.is_ok()
    })
    .await;
    assert!(db.schema_is_current().await.unwrap());
}
