//! Figures of a run with very many files, on a store of this machine: `cargo bench -p workspace`. Nothing is asserted.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops at the first failure"
)]

use clap::Parser;
use domain::{RunId, UserId};
use futures::StreamExt;
use std::time::Instant;
use testkit::S3;
use workspace::{RunWorkspace, S3Options, Workspaces, zip};

const FILES: usize = 10_000;
const BYTES: usize = 1024;
const AT_ONCE: usize = 32;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    s3: S3Options,
}

fn tell(what: &str, begun: Instant, note: &str) {
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{what:<28} {seconds:>8.2} s  {:>8.0} files/s  {note}",
        FILES as f64 / seconds
    );
}

fn of(workspaces: &Workspaces, number: u128) -> RunWorkspace {
    workspaces.of_run(&UserId::from("bench"), RunId(uuid::Uuid::from_u128(number)))
}

async fn fill(s3: &S3, workspace: &RunWorkspace) {
    let client = s3.client();
    futures::stream::iter(0..FILES)
        .for_each_concurrent(AT_ONCE, |number| {
            let key = format!("{}d{:02}/f{number:05}.txt", workspace.prefix(), number % 100);
            let put = client.put_object().bucket(s3.bucket()).key(key);
            async move { drop(put.body(vec![b'x'; BYTES].into()).send().await.unwrap()) }
        })
        .await;
}

async fn run() {
    let s3 = S3::start().await;
    let endpoint = s3.endpoint();
    let args = [
        ("--s3-endpoint", endpoint.as_str()),
        ("--s3-workspace-bucket", s3.bucket()),
        ("--s3-access-key", s3.access_key()),
        ("--s3-secret-key", s3.secret_key()),
    ];
    let args = args.iter().flat_map(|(name, value)| [*name, *value]);
    let settings = Settings::parse_from(std::iter::once("bench").chain(args));
    let workspaces = Workspaces::from_options(&settings.s3);
    let (source, target) = (of(&workspaces, 1), of(&workspaces, 2));
    fill(&s3, &source).await;

    let begun = Instant::now();
    let (mut after, mut pages) = (None, 0);
    loop {
        let page = source.page(after.as_deref(), 1000).await.unwrap();
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    tell("list, pages of 1000", begun, &format!("{pages} pages"));

    let begun = Instant::now();
    let mut bytes = 0;
    let mut chunks = Box::pin(zip(source.clone()));
    while let Some(chunk) = chunks.next().await {
        bytes += chunk.unwrap().len();
    }
    tell("zip", begun, &format!("{bytes} bytes"));

    let begun = Instant::now();
    let copied = target.copy_from(&source).await.unwrap();
    tell("copy", begun, &format!("{} files", copied.files));
    let begun = Instant::now();
    target.copy_from(&source).await.unwrap();
    tell("copy again after a crash", begun, "");

    let begun = Instant::now();
    let removed = target.remove_all().await.unwrap();
    tell("remove", begun, &format!("{} files", removed.files));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}
