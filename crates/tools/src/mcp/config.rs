//! `MCP_SERVERS_FILE`: the form that common clients use. Members we do not know are left to them.

use domain::mcp::is_server_name;
use http::{HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file of settings is small.
const LARGEST_FILE: u64 = 1024 * 1024;

/// What is wrong with the file: names it, the server and the member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MCP_SERVERS_FILE: {0}")]
pub struct ConfigFault(pub String);

/// How to come to a server.
#[derive(Clone)]
pub(crate) enum Way {
    /// A program of its own for each drive of a run, spoken to over its standard input and output.
    Program {
        argv: Vec<String>,
        env: Vec<(String, SecretString)>,
        network: bool,
        readable: Vec<PathBuf>,
    },
    /// Streamable HTTP.
    Http {
        url: Url,
        headers: Vec<(HeaderName, SecretString)>,
        /// What of the address must not be shown: values of variables in it, and the whole of one with a query.
        in_url: Vec<SecretString>,
    },
}

/// Arguments and addresses often have keys in them.
impl std::fmt::Debug for Way {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Program { .. } => "Program(..)",
            Self::Http { .. } => "Http(..)",
        })
    }
}

/// One server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub way: Way,
    /// What its tools must hash to (`sha256:…`), if the operator wrote one down.
    pub pin: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "mcpServers")]
    servers: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    allow_network: bool,
    #[serde(default)]
    readable: Vec<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    disabled: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    pin: Option<String>,
}

/// Reads the file. `variable` is the worker's environment, for `${NAME}` in values.
pub(crate) fn read(
    path: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, Server>, ConfigFault> {
    let fault = |error: &dyn std::fmt::Display| ConfigFault(format!("{}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| fault(&error))?.len();
    if size > LARGEST_FILE {
        return Err(fault(&"larger than 1 MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(&error))?;
    parse(&text, variable)
}

pub(crate) fn parse(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, Server>, ConfigFault> {
    let file: File = serde_json::from_str(text).map_err(|error| ConfigFault(error.to_string()))?;
    let mut servers = BTreeMap::new();
    for (name, entry) in file.servers {
        if entry.disabled {
            continue;
        }
        let fault = |said: String| ConfigFault(format!("server \"{name}\": {said}"));
        if !is_server_name(&name) {
            return Err(fault("a name has letters, digits, - and single _".to_owned()));
        }
        let server = server(entry, variable).map_err(fault)?;
        servers.insert(name, server);
    }
    Ok(servers)
}

fn server(entry: Entry, variable: &dyn Fn(&str) -> Option<String>) -> Result<Server, String> {
    let way = match (&entry.command, &entry.url) {
        (Some(command), None) => program(command.clone(), &entry, variable)?,
        (None, Some(url)) => http(url, &entry, variable)?,
        _ => return Err("give either command or url".to_owned()),
    };
    let pin = entry.pin.map(|pin| pin.to_ascii_lowercase());
    if let Some(pin) = &pin
        && pin.strip_prefix("sha256:").is_none_or(|hex| hex.len() != 64)
    {
        return Err("pin must be sha256: and 64 digits in hex".to_owned());
    }
    Ok(Server { way, pin })
}

fn program(command: String, entry: &Entry, variable: &dyn Fn(&str) -> Option<String>) -> Result<Way, String> {
    if command.trim().is_empty() || command.contains('\0') {
        return Err("command is empty".to_owned());
    }
    let mut env = vec![];
    for (name, value) in &entry.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("env: \"{name}\" is no name of a variable"));
        }
        let value = filled(value, variable).map_err(|said| format!("env {name}: {said}"))?;
        env.push((name.clone(), SecretString::from(value)));
    }
    if let Some(path) = entry.readable.iter().find(|path| !path.is_absolute()) {
        return Err(format!("readable: {} is not an absolute path", path.display()));
    }
    Ok(Way::Program {
        argv: [vec![command], entry.args.clone()].concat(),
        env,
        network: entry.allow_network,
        readable: entry.readable.clone(),
    })
}

fn http(url: &str, entry: &Entry, variable: &dyn Fn(&str) -> Option<String>) -> Result<Way, String> {
    if entry.kind.as_deref() == Some("sse") {
        return Err("type sse is not supported: only streamable HTTP".to_owned());
    }
    let used = RefCell::new(vec![]);
    let noting = |name: &str| {
        let value = variable(name)?;
        used.borrow_mut().push(SecretString::from(value.clone()));
        Some(value)
    };
    let url = filled(url, &noting).map_err(|said| format!("url: {said}"))?;
    let url = Url::parse(&url).map_err(|error| format!("url: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err("url must be http or https, without a user".to_owned());
    }
    let mut headers = vec![];
    for (name, value) in &entry.headers {
        let header = HeaderName::try_from(name).map_err(|_| format!("headers: {name} is no name"))?;
        let value = filled(value, variable).map_err(|said| format!("header {name}: {said}"))?;
        if HeaderValue::from_str(&value).is_err() {
            return Err(format!("header {name}: its value cannot be sent"));
        }
        headers.push((header, SecretString::from(value)));
    }
    let mut in_url = used.into_inner();
    in_url.extend(url.query().map(|_| SecretString::from(url.as_str())));
    Ok(Way::Http { url, headers, in_url })
}

/// Puts in `${NAME}` and `${NAME:-otherwise}`.
fn filled(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (inner, behind) = after.split_once('}').ok_or("${ without }")?;
        let (name, otherwise) = match inner.split_once(":-") {
            Some((name, otherwise)) => (name, Some(otherwise.to_owned())),
            None => (inner, None),
        };
        let value = variable(name).filter(|value| !value.is_empty()).or(otherwise);
        done.push_str(before);
        done.push_str(&value.ok_or_else(|| format!("${{{name}}} is not set"))?);
        rest = behind;
    }
    done.push_str(rest);
    Ok(done)
}

impl Server {
    /// What must never be shown.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let exposed = |value: &SecretString| value.expose_secret().to_owned();
        match &self.way {
            Way::Program { env, .. } => env.iter().map(|(_, value)| exposed(value)).collect(),
            Way::Http { headers, in_url, .. } => {
                let headers = headers.iter().map(|(_, value)| value);
                headers.chain(in_url).map(exposed).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "t0ken".to_owned())
    }

    fn one(entry: &str) -> Result<Server, String> {
        let text = format!("{{\"mcpServers\": {{\"one\": {entry}}}}}");
        let mut servers = parse(&text, &variable).map_err(|fault| fault.to_string())?;
        Ok(servers.remove("one").unwrap())
    }

    #[test]
    fn variables_are_put_into_values() {
        let server =
            one(r#"{"command": "srv", "args": ["-x"], "env": {"A": "b ${TOKEN}", "C": "${NO:-d}"}}"#)
                .unwrap();
        assert_eq!(server.secrets(), ["b t0ken", "d"]);
        let server =
            one(r#"{"url": "https://mcp.example/x", "headers": {"Authorization": "Bearer ${TOKEN}"}}"#)
                .unwrap();
        assert_eq!(server.secrets(), ["Bearer t0ken"]);
        let server = one(r#"{"url": "https://mcp.example/${TOKEN}/x"}"#).unwrap();
        assert_eq!(server.secrets(), ["t0ken"]);
        let server = one(r#"{"url": "https://mcp.example/x?key=${TOKEN}"}"#).unwrap();
        assert_eq!(server.secrets(), ["t0ken", "https://mcp.example/x?key=t0ken"]);
        assert!(!format!("{server:?}").contains("t0ken"));
    }

    #[test]
    fn faults_name_the_server_and_the_member() {
        for (entry, said) in [
            ("{}", "give either command or url"),
            (
                r#"{"command": "a", "url": "http://a/"}"#,
                "give either command or url",
            ),
            (
                r#"{"command": "a", "env": {"K": "${MISSING}"}}"#,
                "env K: ${MISSING} is not set",
            ),
            (
                r#"{"command": "a", "env": {"K": "${MISSING"}}"#,
                "env K: ${ without }",
            ),
            (r#"{"url": "ftp://a/"}"#, "url must be http or https"),
            (r#"{"url": "http://u:p@a/"}"#, "without a user"),
            (
                r#"{"url": "http://a/", "type": "sse"}"#,
                "type sse is not supported",
            ),
            (r#"{"command": "a", "pin": "ab"}"#, "pin must be sha256: and"),
            (
                r#"{"command": "a", "readable": ["x"]}"#,
                "is not an absolute path",
            ),
            (r#"{"command": 1}"#, "invalid type"),
        ] {
            let fault = one(entry).unwrap_err();
            assert!(
                fault.starts_with("MCP_SERVERS_FILE: ") && fault.contains(said),
                "{fault}"
            );
        }
        let fault = parse(r#"{"mcpServers": {"a__b": {"command": "x"}}}"#, &variable).unwrap_err();
        assert!(fault.to_string().contains("server \"a__b\""), "{fault}");
        assert!(parse(r#"{"servers": {}}"#, &variable).is_err());
        assert!(one(r#"{"command": "a", "disabled": false, "autoApprove": []}"#).is_ok());
    }
}
