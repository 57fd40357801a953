//! What operators are told of the tools that are set up.

use crate::browser::chromium;
use crate::setup::options;
use tools::{ToolLine, ToolOptions};

async fn of(options: &ToolOptions, programs: bool, name: &str) -> Result<String, (String, &'static str)> {
    let lines = options.overview(programs).await;
    let line: Option<ToolLine> = lines.into_iter().find(|line| line.name == name);
    line.unwrap_or_else(|| panic!("no line {name}"))
        .result
        .map_err(|fault| (fault.what, fault.fix))
}

fn servers(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test]
async fn what_is_not_set_up_is_no_fault_and_says_what_to_set() {
    let lines = options(&[]).overview(false).await;
    let names: Vec<&str> = lines.iter().map(|line| line.name).collect();
    assert_eq!(names, ["search", "connectors", "browser", "mcp"]);
    for line in lines {
        let said = line.result.unwrap();
        assert!(said.starts_with("not configured; set "), "{said}");
    }
}

#[tokio::test]
async fn what_is_set_up_is_named_without_its_keys() {
    let bin = chromium().display().to_string();
    let file = servers(r#"{"mcpServers": {"notes": {"command": "x"}, "far": {"url": "http://h/KEY"}}}"#);
    let path = file.path().display().to_string();
    let all = options(&[
        ("searxng-url", "http://searx.example/KEY"),
        ("slack-bot-token", "KEY"),
        ("github-token", "KEY"),
        ("browser-bin", &bin),
        ("mcp-servers-file", &path),
    ]);
    let lines = all.overview(true).await;
    let said: Vec<String> = lines.into_iter().map(|line| line.result.unwrap()).collect();
    assert_eq!(
        said,
        [
            "searxng at searx.example".to_owned(),
            "github, slack, for runs whose connector_ids name them".to_owned(),
            format!("{bin} in a sandbox"),
            "far, notes".to_owned(),
        ]
    );
    assert!(!said.join(" ").contains("KEY"));
}

#[tokio::test]
async fn a_broken_setting_is_a_fault_with_what_to_do() {
    let free = format!("http://127.0.0.1:{}", testkit::free_port());
    let broken = servers("{");
    let broken = broken.path().display().to_string();
    let file = servers(r#"{"mcpServers": {"notes": {"command": "x"}, "far": {"url": "http://h/"}}}"#);
    let file = file.path().display().to_string();
    let bin = chromium().display().to_string();
    for (name, settings, programs, what, fix) in [
        (
            "search",
            vec![("searxng-url", "ftp://h/")],
            true,
            "SEARXNG_URL: ",
            "http or https",
        ),
        (
            "connectors",
            vec![("linear-api-key", "k"), ("linear-api-url", "nonsense")],
            true,
            "LINEAR_API_URL: ",
            "http or https",
        ),
        (
            "tools",
            vec![("fetch-max-bytes", "0")],
            true,
            "FETCH_MAX_BYTES: must be 1 to ",
            "correct",
        ),
        (
            "browser",
            vec![("browser-bin", "/nowhere/chromium")],
            true,
            "BROWSER_BIN /nowhere/chromium: No such file",
            "apt-get install chromium",
        ),
        (
            "browser",
            vec![("browser-bin", "/etc/passwd")],
            true,
            "is no program",
            "apt-get",
        ),
        (
            "browser",
            vec![("browser-bin", &*bin)],
            false,
            "only with TOOL_EXECUTOR=local",
            "BROWSER_CDP_URL in its place",
        ),
        (
            "browser",
            vec![("browser-cdp-url", &*free)],
            true,
            "BROWSER_CDP_URL: no connection: ",
            "--remote-debugging-port",
        ),
        (
            "mcp",
            vec![("mcp-servers-file", &*broken)],
            true,
            "MCP_SERVERS_FILE: ",
            "mend the file",
        ),
        (
            "mcp",
            vec![("mcp-servers-file", &*file), ("mcp-default-servers", "away")],
            true,
            "MCP_DEFAULT_SERVERS names \"away\"",
            "mend",
        ),
        (
            "mcp",
            vec![("mcp-servers-file", &*file)],
            false,
            "notes: programs are started only with TOOL_EXECUTOR=local",
            "url in MCP_SERVERS_FILE",
        ),
    ] {
        let (said, to_do) = of(&options(&settings), programs, name).await.unwrap_err();
        assert!(said.contains(what), "{settings:?}: {said}");
        assert!(to_do.contains(fix), "{settings:?}: {to_do}");
        assert!(!said.contains("127.0.0.1"), "{said}");
    }
}
