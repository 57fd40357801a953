use crate::setup::{error, of_run, options, told, tools};
use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use outbound::{Guard, Looked, Lookup};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tools::Tools;

const PRIVATE: (&str, &str) = ("fetch-allow-private", "true");

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn pages() -> SocketAddr {
    let html = "<html><head><title>Tea</title></head><body><p>Green <b>tea</b></p></body></html>";
    let typed = |kind: &'static str, body: &'static [u8]| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], body) })
    };
    let endless = || async {
        let pieces = futures::stream::repeat_with(|| Ok::<_, Infallible>("tea ".repeat(1000)));
        ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(pieces)).into_response()
    };
    let silent = || async { std::future::pending::<&str>().await };
    let gone = || async {
        (
            StatusCode::NOT_FOUND,
            [(header::CONTENT_TYPE, "text/html")],
            "<p>gone</p>",
        )
    };
    let moved = || async { (StatusCode::FOUND, [(header::LOCATION, "/page?x=1")]) };
    let inside = || async { (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.2:1/")]) };
    serve(
        Router::new()
            .route("/page", typed("text/html; charset=utf-8", html.as_bytes()))
            .route("/data", typed("application/json", b"{\"a\":1}"))
            .route("/picture", typed("image/png", b"\x89PNG"))
            .route("/bytes", typed("text/plain", b"\x00\x01"))
            .route("/endless", get(endless))
            .route("/silent", get(silent))
            .route("/gone", get(gone))
            .route("/moved", get(moved))
            .route("/inside", get(inside)),
    )
    .await
}

#[tokio::test]
async fn a_page_is_read_as_text_and_its_last_address_is_told() {
    let address = pages().await;
    let run = of_run(&tools(&[PRIVATE]), &[]);
    let url = format!("http://{address}/moved");
    let result = told(&run, "fetch", &json!({"url": url})).await;
    assert!(result.success, "{result:?}");
    let mut output = result.output.clone();
    let text = output["text"].take();
    assert!(text.as_str().unwrap().contains("tea"), "{text}");
    assert_eq!(
        output,
        json!({"url": url, "final_url": format!("http://{address}/page?x=1"), "status": 200,
            "content_type": "text/html; charset=utf-8", "title": "Tea", "text": null, "truncated": false})
    );
    let data = told(&run, "fetch", &json!({"url": format!("http://{address}/data")})).await;
    assert_eq!(data.output["text"], "{\"a\":1}");
    assert_eq!(data.output["title"], Value::Null);
    assert!((data.credits_used - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn what_is_no_text_or_too_long_or_too_slow_is_told() {
    let address = pages().await;
    let run = of_run(
        &tools(&[
            PRIVATE,
            ("fetch-timeout-seconds", "1"),
            ("fetch-max-bytes", "5000"),
        ]),
        &[],
    );
    let fetch =
        async |path: &str| told(&run, "fetch", &json!({"url": format!("http://{address}/{path}")})).await;
    assert_eq!(
        error(&fetch("picture").await),
        "Only text can be fetched, and this is image/png"
    );
    assert_eq!(
        error(&fetch("bytes").await),
        "Only text can be fetched, and this is none"
    );
    assert_eq!(error(&fetch("silent").await), "No answer within 1 s");
    let gone = fetch("gone").await;
    assert_eq!(error(&gone), "The page answered 404");
    assert_eq!(
        (
            &gone.output["status"],
            gone.output["text"].as_str().map(str::trim)
        ),
        (&json!(404), Some("gone"))
    );
    let endless = fetch("endless").await;
    assert_eq!(endless.output["truncated"], true);
    assert_eq!(endless.output["text"].as_str().unwrap().len(), 5000);
    let dead = json!({"url": format!("http://127.0.0.1:{}/", testkit::free_port())});
    assert_eq!(
        error(&told(&run, "fetch", &dead).await),
        "No connection to 127.0.0.1"
    );
}

#[tokio::test]
async fn wrong_addresses_are_wrong_input() {
    let run = of_run(&tools(&[]), &[]);
    for (input, said) in [
        (json!({}), "Invalid input: url is missing"),
        (
            json!({"url": "no address"}),
            "Invalid input: url: relative URL without a base",
        ),
        (json!({"url": "http://"}), "Invalid input: url: empty host"),
        (
            json!({"url": "https://example.org/", "max_bytes": 0}),
            "Invalid input: max_bytes must be 1 to 1048576",
        ),
        (
            json!({"url": "ftp://example.org/"}),
            "Address not allowed: only http and https",
        ),
        (
            json!({"url": "http://u:p@example.org/"}),
            "Address not allowed: user name or password in it",
        ),
    ] {
        let result = told(&run, "fetch", &input).await;
        assert_eq!((error(&result), result.credits_used), (said, 0.0), "{input}");
    }
}

/// Says where every name leads: outside first, then here.
#[derive(Debug, Default)]
struct Rebinding(AtomicUsize);

impl Lookup for Rebinding {
    fn addresses(&self, _: String) -> futures::future::BoxFuture<'static, Looked> {
        let outside = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        let address = if outside { "203.0.113.7" } else { "127.0.0.1" };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    }
}

#[tokio::test]
async fn inner_addresses_are_refused_in_text_in_names_and_in_redirects() {
    let seen = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let counted = seen.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let run = of_run(&tools(&[]), &[]);
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "0",
        "169.254.169.254",
    ] {
        let result = told(&run, "fetch", &json!({"url": format!("http://{host}:{port}/")})).await;
        assert_eq!(
            (error(&result), result.credits_used),
            ("Address not allowed", 0.0),
            "{host}"
        );
    }
    // The first address is of no network and refused too; the second is this machine.
    let guard = Guard::new(false).with_lookup(Arc::new(Rebinding::default()));
    let tools = Tools::with_guard(&options(&[]), guard).unwrap();
    let run = of_run(&tools, &[]);
    for _ in 0..3 {
        let result = told(
            &run,
            "fetch",
            &json!({"url": format!("http://page.test:{port}/")}),
        )
        .await;
        assert_eq!(error(&result), "Address not allowed");
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    // A page that may be read sends elsewhere inside.
    let address = pages().await;
    let base = format!("http://{address}/").parse().unwrap();
    let tools = Tools::with_guard(&options(&[]), Guard::new(false).trusting([&base])).unwrap();
    let result = told(
        &of_run(&tools, &[]),
        "fetch",
        &json!({"url": format!("{base}inside")}),
    )
    .await;
    assert_eq!(error(&result), "Address not allowed");
}
