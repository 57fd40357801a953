//! What a Redis server says of itself, over a plain connection: for `doctor` only.
//!
//! The queue has its own client; here it matters to ask a bare server, so this speaks just enough of the protocol.
//! Only `redis://` addresses are asked; for the others the queue's own answer must do.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What `doctor` wants to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    /// `noeviction` is the only policy under which no job is dropped.
    pub policy: Option<String>,
    /// Append-only file or snapshots.
    pub persists: bool,
}

/// Asks the server behind a `redis://` address.
pub async fn ask(url: &str) -> io::Result<Facts> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let url = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    let host = url.host_str().ok_or_else(|| wrong("no host"))?.to_owned();
    let port = url.port().unwrap_or(6379);
    let asked = async {
        let mut stream = BufReader::new(TcpStream::connect((host.trim_matches(['[', ']']), port)).await?);
        if let Some(password) = url.password() {
            let decode = |text: &str| {
                percent_encoding::percent_decode_str(text)
                    .decode_utf8_lossy()
                    .into_owned()
            };
            let user = if url.username().is_empty() {
                "default".to_owned()
            } else {
                decode(url.username())
            };
            command(&mut stream, &["AUTH", &user, &decode(password)]).await?;
        }
        let server = command(&mut stream, &["INFO", "server"]).await?;
        let persistence = command(&mut stream, &["INFO", "persistence"]).await?;
        // Managed servers refuse CONFIG; the policy is then unknown.
        let policy = command(&mut stream, &["CONFIG", "GET", "maxmemory-policy"])
            .await
            .ok();
        let snapshots = command(&mut stream, &["CONFIG", "GET", "save"]).await.ok();
        Ok(facts(
            &server,
            &persistence,
            policy.as_deref(),
            snapshots.as_deref(),
        ))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asked)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn facts(server: &str, persistence: &str, policy: Option<&str>, snapshots: Option<&str>) -> Facts {
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    let second = |text: Option<&str>| text.and_then(|text| text.lines().nth(1)).map(str::to_owned);
    Facts {
        version: field(server, "redis_version").unwrap_or_default(),
        policy: second(policy),
        persists: field(persistence, "aof_enabled").as_deref() == Some("1")
            || second(snapshots).is_some_and(|save| !save.is_empty()),
    }
}

/// Sends a command; the answer's texts, one per line. An error answer is an error.
async fn command(stream: &mut BufReader<TcpStream>, words: &[&str]) -> io::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.extend(["$", &word.len().to_string(), "\r\n", word, "\r\n"]);
    }
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut texts = vec![];
    let mut open = 1_usize;
    while open > 0 {
        open -= 1;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
        match kind {
            "-" => return Err(io::Error::other(rest.to_owned())),
            "$" => texts.push(bulk(stream, rest).await?),
            "*" => open += rest.parse::<usize>().unwrap_or_default(),
            _ => texts.push(rest.to_owned()),
        }
    }
    Ok(texts.join("\n"))
}

async fn bulk(stream: &mut BufReader<TcpStream>, length: &str) -> io::Result<String> {
    let Ok(length) = length.parse::<usize>() else {
        return Ok(String::new());
    };
    if length > MAX_ANSWER_BYTES {
        return Err(io::Error::other("the answer is too long"));
    }
    let mut bytes = vec![0_u8; length + 2];
    stream.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_what_a_server_says() {
        let said = facts(
            "# Server\r\nredis_version:7.0.15\r\n",
            "# Persistence\r\naof_enabled:1\r\n",
            Some("maxmemory-policy\nnoeviction"),
            None,
        );
        assert_eq!(said.version, "7.0.15");
        assert_eq!(said.policy.as_deref(), Some("noeviction"));
        assert!(said.persists);
        assert!(!facts("", "aof_enabled:0", None, Some("save\n")).persists);
    }
}
