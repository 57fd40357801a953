//! Starts a Redis and a Postgres, says where they are (one JSON line), and keeps them until it is ended,
//! in whatever way. For trying something by hand, and for the test that nothing outlives its test process.

use serde_json::json;
use testkit::{Postgres, Program, Redis};

#[tokio::main]
async fn main() {
    let redis = Redis::start().await;
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let child = Program::new("/bin/sleep").arg("1000").start();
    println!(
        "{}",
        json!({
            "redis_url": redis.url(), "database_url": database,
            "pids": [redis.pid(), postgres.pid(), child.pid()],
            "dirs": [redis.dir(), postgres.dir(), child.dir()],
        })
    );
    std::future::pending::<()>().await;
}
