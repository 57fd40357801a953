use crate::setup::{Counting, InTurn, client, get, serve};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get as route;
use outbound::{Guard, MAX_REDIRECTS, Redirects, Refused, refusal_in};
use reqwest::{Client, Url};

fn to(location: String) -> impl IntoResponse {
    (StatusCode::FOUND, [(header::LOCATION, location)])
}

async fn fixed(location: &str) -> Url {
    let router = Router::new()
        .route(
            "/",
            route(|State(location): State<String>| async { to(location) }),
        )
        .with_state(location.to_owned());
    let address = serve(router).await;
    Url::parse(&format!("http://{address}/")).unwrap()
}

#[tokio::test]
async fn no_redirect_leads_inside() {
    let listener = Counting::start().await;
    let port = listener.port;
    for location in [
        format!("http://127.0.0.1:{port}/"),
        format!("//127.0.0.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://inside.test:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1:6379/_INFO".to_owned(),
    ] {
        let first = fixed(&location).await;
        let guard = Guard::new(false)
            .trusting([&first])
            .with_lookup(InTurn::new(&[&["127.0.0.1"]]));
        // A scheme that the client does not know ends as the redirect itself.
        match get(&guard, first.as_str()).await {
            Ok(answer) => assert_eq!(answer.status(), StatusCode::FOUND, "{location}"),
            Err(refused) => assert!(
                matches!(refused, Refused::Address | Refused::Scheme),
                "{location}: {refused}"
            ),
        }
    }
    assert_eq!(listener.seen(), 0);
}

#[tokio::test]
async fn a_trusted_host_is_trusted_at_its_port_only() {
    let listener = Counting::start().await;
    let first = fixed(&format!("http://api.test:{}/", listener.port)).await;
    let trusted = Url::parse(&format!("http://api.test:{}/", first.port().unwrap())).unwrap();
    let guard = Guard::new(false)
        .trusting([&trusted])
        .with_lookup(InTurn::new(&[&["127.0.0.1"]]));
    assert_eq!(get(&guard, trusted.as_str()).await.unwrap_err(), Refused::Address);
    assert_eq!(listener.seen(), 0);
}

#[tokio::test]
async fn redirects_are_followed_up_to_their_number() {
    let router = Router::new().route(
        "/{left}",
        route(|Path(left): Path<usize>| async move {
            match left.checked_sub(1) {
                Some(next) => to(format!("/{next}")).into_response(),
                None => "arrived".into_response(),
            }
        }),
    );
    let address = serve(router).await;
    let base = Url::parse(&format!("http://{address}/")).unwrap();
    let guard = Guard::new(false).trusting([&base]);
    let all = get(&guard, &format!("{base}{MAX_REDIRECTS}")).await.unwrap();
    assert_eq!(all.text().await.unwrap(), "arrived");
    let over = get(&guard, &format!("{base}{}", MAX_REDIRECTS + 1)).await;
    assert_eq!(over.unwrap_err(), Refused::Redirects);
}

#[tokio::test]
async fn a_client_with_credentials_is_not_sent_to_another_origin() {
    let listener = Counting::start().await;
    let elsewhere = Url::parse(&format!("http://127.0.0.1:{}/", listener.port)).unwrap();
    let first = fixed(elsewhere.as_str()).await;
    // Allowed by the guard all the same.
    let guard = Guard::new(false).trusting([&first, &elsewhere]);
    let strict = guard.client(Client::builder(), Redirects::SameOrigin).unwrap();
    let error = strict.get(first.clone()).send().await.unwrap_err();
    assert_eq!(refusal_in(&error), Some(Refused::Elsewhere));
    let still = guard.client(Client::builder(), Redirects::No).unwrap();
    let answer = still.get(first).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FOUND);
    assert_eq!(listener.seen(), 0);
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_not_asked() {
    // Whatever the environment says, the client goes straight.
    let address = serve(Router::new().route("/", route(|| async { "direct" }))).await;
    let url = format!("http://{address}/");
    let answer = client(&Guard::new(true)).get(url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "direct");
}
