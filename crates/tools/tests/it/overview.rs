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

/// With these settings the line of this name is a fault that says so, with a remedy that holds this.
async fn is_broken(name: &str, settings: &[(&str, &str)], programs: bool, (what, fix): (&str, &str)) {
    let (said, to_do) = of(&options(settings), programs, name).await.unwrap_err();
    assert!(said.contains(what), "{settings:?}: {said}");
    assert!(to_do.contains(fix), "{settings:?}: {to_do}");
    assert!(!said.contains("127.0.0.1"), "{said}");
}

#[tokio::test]
async fn a_broken_setting_is_a_fault_with_what_to_do() {
    let told = ("SEARXNG_URL: ", "http or https");
    is_broken("search", &[("searxng-url", "ftp://h/")], true, told).await;
    let settings = [("linear-api-key", "k"), ("linear-api-url", "nonsense")];
    is_broken(
        "connectors",
        &settings,
        true,
        ("LINEAR_API_URL: ", "http or https"),
    )
    .await;
    let told = ("FETCH_MAX_BYTES: must be 1 to ", "correct");
    is_broken("tools", &[("fetch-max-bytes", "0")], true, told).await;
    let broken = servers("{");
    let broken = broken.path().display().to_string();
    let told = ("MCP_SERVERS_FILE: ", "mend the file");
    is_broken("mcp", &[("mcp-servers-file", &broken)], true, told).await;
    let file = servers(r#"{"mcpServers": {"notes": {"command": "x"}, "far": {"url": "http://h/"}}}"#);
    let file = file.path().display().to_string();
    let settings = [("mcp-servers-file", &*file), ("mcp-default-servers", "away")];
    let told = ("MCP_DEFAULT_SERVERS names \"away\"", "mend");
    is_broken("mcp", &settings, true, told).await;
    let told = (
        "notes: programs are started only with TOOL_EXECUTOR=local",
        "url in MCP_SERVERS_FILE",
    );
    is_broken("mcp", &[("mcp-servers-file", &file)], false, told).await;
}

#[tokio::test]
async fn a_browser_that_is_not_there_is_a_fault_with_what_to_do() {
    let told = (
        "BROWSER_BIN /nowhere/chromium: No such file",
        "apt-get install chromium",
    );
    is_broken("browser", &[("browser-bin", "/nowhere/chromium")], true, told).await;
    is_broken(
        "browser",
        &[("browser-bin", "/etc/passwd")],
        true,
        ("is no program", "apt-get"),
    )
    .await;
    let bin = chromium().display().to_string();
    let told = ("only with TOOL_EXECUTOR=local", "BROWSER_CDP_URL in its place");
    is_broken("browser", &[("browser-bin", &bin)], false, told).await;
    let free = format!("http://127.0.0.1:{}", testkit::free_port());
    let told = ("BROWSER_CDP_URL: no connection: ", "--remote-debugging-port");
    is_broken("browser", &[("browser-cdp-url", &free)], true, told).await;
}
