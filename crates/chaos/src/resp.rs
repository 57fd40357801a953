//! A Redis client of our own, so that what is checked and what checks share no code. One connection, no pipelining.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longest wait for a connection and for each reply.
const LIMIT: Duration = Duration::from_secs(5);

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A simple or a bulk string; bytes that are not UTF-8 are replaced.
    Text(String),
    Int(i64),
    Nil,
    Error(String),
    List(Vec<Reply>),
}

impl Reply {
    /// The texts of a list; anything else gives none.
    pub fn texts(&self) -> Vec<String> {
        let Self::List(items) = self else { return vec![] };
        let text = |item: &Self| match item {
            Self::Text(text) => Some(text.clone()),
            _ => None,
        };
        items.iter().filter_map(text).collect()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// To 127.0.0.1:`port`.
    pub async fn connect(port: u16) -> std::io::Result<Self> {
        let stream = limited(TcpStream::connect(("127.0.0.1", port))).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends one command and reads its reply.
    pub async fn call(&mut self, words: &[&str]) -> std::io::Result<Reply> {
        self.send(words).await?;
        limited(self.read()).await
    }

    /// Sends the commands as one transaction; the replies in their order.
    pub async fn transaction(&mut self, commands: &[&[&str]]) -> std::io::Result<Vec<Reply>> {
        self.call(&["MULTI"]).await?;
        for command in commands {
            self.call(command).await?;
        }
        match self.call(&["EXEC"]).await? {
            Reply::List(replies) => Ok(replies),
            other => Err(std::io::Error::other(format!("EXEC: {other:?}"))),
        }
    }

    async fn send(&mut self, words: &[&str]) -> std::io::Result<()> {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            let len = word.len();
            write!(text, "${len}\r\n{word}\r\n").map_err(std::io::Error::other)?;
        }
        limited(self.stream.get_mut().write_all(text.as_bytes())).await
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    async fn read(&mut self) -> std::io::Result<Reply> {
        let line = self.line().await?;
        let wrong = || std::io::Error::other(format!("not a reply: {line}"));
        let number = || line[1..].parse::<i64>().map_err(|_| wrong());
        match line.chars().next() {
            Some('+') => Ok(Reply::Text(line[1..].to_owned())),
            Some('-') => Ok(Reply::Error(line[1..].to_owned())),
            Some(':') => Ok(Reply::Int(number()?)),
            Some('$') => self.bulk(number()?).await,
            Some('*') => {
                let count = number()?;
                if count < 0 {
                    return Ok(Reply::Nil);
                }
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(Box::pin(self.read()).await?);
                }
                Ok(Reply::List(items))
            }
            _ => Err(wrong()),
        }
    }

    async fn bulk(&mut self, len: i64) -> std::io::Result<Reply> {
        let Ok(len) = usize::try_from(len) else {
            return Ok(Reply::Nil);
        };
        let mut bytes = vec![0; len + 2];
        self.stream.read_exact(&mut bytes).await?;
        Ok(Reply::Text(String::from_utf8_lossy(&bytes[..len]).into_owned()))
    }
}

async fn limited<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
