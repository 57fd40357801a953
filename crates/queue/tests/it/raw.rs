//! A blocking connection that sends what it is told to: looks at a server past the crate under test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Nil,
    Status(String),
    Error(String),
    Number(i64),
    Bytes(Vec<u8>),
    Many(Vec<Answer>),
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Number(number) => number.to_string(),
            other => panic!("no text: {other:?}"),
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::Many(all) => all.iter().map(Self::text).collect(),
            other => panic!("no list: {other:?}"),
        }
    }

    /// A flat list of names and values.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let texts = self.texts();
        texts
            .chunks(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect()
    }
}

#[derive(Debug)]
pub(crate) struct Raw(BufReader<TcpStream>);

impl Raw {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn call<T: AsRef<[u8]>>(&mut self, words: &[T]) -> Answer {
        self.send(words);
        self.read()
    }

    /// Many commands, one round trip.
    pub(crate) fn pipeline(&mut self, commands: &[&[&str]]) -> Vec<Answer> {
        for words in commands {
            self.send(words);
        }
        commands.iter().map(|_| self.read()).collect()
    }

    fn send<T: AsRef<[u8]>>(&mut self, words: &[T]) {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend(format!("${}\r\n", word.as_ref().len()).into_bytes());
            out.extend(word.as_ref());
            out.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&out).unwrap();
    }

    fn read(&mut self) -> Answer {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        let size: i64 = rest.parse().unwrap_or(0);
        match kind {
            "+" => Answer::Status(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Number(size),
            "$" | "*" if size < 0 => Answer::Nil,
            "$" => {
                let mut bytes = vec![0; size as usize + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(size as usize);
                Answer::Bytes(bytes)
            }
            "*" => Answer::Many((0..size).map(|_| self.read()).collect()),
            _ => panic!("not an answer: {line:?}"),
        }
    }
}
