//! The runtime of our in-process servers: a thread of its own, so that they go on answering while a
//! test blocks its own runtime (redis-cli, waiting for a process).

use std::sync::LazyLock;

use tokio::runtime::{Builder, Handle, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("testkit")
        .enable_all()
        .build()
        .expect("a runtime can be built")
});

pub(crate) fn handle() -> &'static Handle {
    RUNTIME.handle()
}
