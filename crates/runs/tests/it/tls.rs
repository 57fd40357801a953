//! `sslmode` against a server with a certificate of its own authority.

use runs::Db;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Postgres;

fn openssl(dir: &Path, arguments: &str) {
    let run = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .expect("openssl is needed for this test: apt-get install openssl");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// An authority and a certificate for `localhost` (not for 127.0.0.1) in the server's directory.
fn certificates(dir: &Path) {
    openssl(
        dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca \
         -keyout ca.key -out ca.crt",
    );
    openssl(
        dir,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout server.key \
         -out server.csr",
    );
    std::fs::write(
        dir.join("san"),
        "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.crt",
    );
    let owner = std::fs::metadata(dir).unwrap();
    for file in ["server.key", "server.crt"] {
        chown(dir.join(file), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

async fn with_tls() -> (Postgres, PathBuf) {
    let mut postgres = Postgres::start().await;
    let dir = postgres.dir().to_owned();
    certificates(&dir);
    let psql = crate::support::connect(&postgres.url("postgres")).await;
    for (name, value) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
        let path = dir.join(value);
        psql.batch_execute(&format!("ALTER SYSTEM SET {name} = '{}'", path.display()))
            .await
            .unwrap();
    }
    psql.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    postgres.restart().await;
    (postgres, dir)
}

#[tokio::test]
async fn each_sslmode_checks_as_much_as_it_promises() {
    let (postgres, dir) = with_tls().await;
    let port = postgres.port();
    let roots = format!("sslrootcert={}", dir.join("ca.crt").display());
    let connects = async |host: &str, parameters: &str| {
        let url = format!("postgres://postgres@{host}:{port}/postgres?{parameters}");
        let db = Db::from_url(&url).unwrap();
        db.ping().await.is_ok()
    };
    for mode in ["disable", "prefer", "require"] {
        assert!(connects("127.0.0.1", &format!("sslmode={mode}")).await, "{mode}");
    }
    assert!(connects("localhost", &format!("sslmode=verify-full&{roots}")).await);
    assert!(
        !connects("127.0.0.1", &format!("sslmode=verify-full&{roots}")).await,
        "another name"
    );
    assert!(connects("127.0.0.1", &format!("sslmode=verify-ca&{roots}")).await);
    openssl(
        &dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=other -keyout o.key -out other.crt",
    );
    let strangers = format!("sslrootcert={}", dir.join("other.crt").display());
    for mode in ["verify-ca", "verify-full"] {
        assert!(
            !connects("localhost", &format!("sslmode={mode}&{strangers}")).await,
            "{mode}"
        );
    }
}

#[tokio::test]
async fn require_encrypts_and_refuses_a_server_without_tls() {
    let (postgres, _dir) = with_tls().await;
    let psql = crate::support::connect(&postgres.url("postgres")).await;
    psql.batch_execute("ALTER SYSTEM SET ssl = off").await.unwrap();
    let url = |mode: &str| {
        format!(
            "{}?sslmode={mode}&application_name=probe",
            postgres.url("postgres")
        )
    };
    let held = Db::from_url(&url("require")).unwrap();
    held.ping().await.unwrap();
    let sql = "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE application_name = 'probe'";
    assert!(
        psql.query_one(sql, &[]).await.unwrap().get::<_, bool>(0),
        "the connection is encrypted"
    );
    psql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let plain = async || Db::from_url(&url("require")).unwrap().ping().await.is_err();
    testkit::eventually(std::time::Duration::from_secs(10), plain).await;
    assert!(Db::from_url(&url("prefer")).unwrap().ping().await.is_ok());
}
