//! A stream over a bare socket: small enough that one process holds thousands, and quick enough to measure with.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An open stream. It decodes chunks and splits frames; what is in them is the caller's to read.
#[derive(Debug)]
pub struct Watch {
    socket: TcpStream,
    chunks: Chunks,
    /// Decoded, up to the first unfinished frame.
    text: Vec<u8>,
    buffer: Vec<u8>,
}

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

impl Watch {
    /// Opens a stream of 127.0.0.1:`port`; the status when it is not 200.
    pub async fn open(
        port: u16,
        path: &str,
        token: &str,
        last: Option<i64>,
    ) -> io::Result<Result<Self, u16>> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        socket.set_nodelay(true)?;
        let position = last.map_or(String::new(), |last| format!("Last-Event-ID: {last}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n{position}\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let (status, rest) = head(&mut socket).await?;
        if status != 200 {
            return Ok(Err(status));
        }
        let mut stream = Self {
            socket,
            chunks: Chunks::default(),
            text: Vec::new(),
            buffer: Vec::new(),
        };
        stream.chunks.decode(&rest, &mut stream.text);
        Ok(Ok(stream))
    }

    /// Waits for bytes and gives each frame that is whole then, without its blank line; `false` when the stream is over.
    pub async fn read(&mut self, mut each: impl FnMut(&str)) -> bool {
        loop {
            if self.frames(&mut each) > 0 {
                return true;
            }
            if self.chunks.over {
                return false;
            }
            self.buffer.resize(READ_BYTES, 0);
            match self.socket.read(&mut self.buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.chunks.decode(&self.buffer[..count], &mut self.text),
            }
            // Thousands of idle streams hold no buffers.
            if self.text.is_empty() {
                self.buffer = Vec::new();
            }
        }
    }

    fn frames(&mut self, each: &mut impl FnMut(&str)) -> usize {
        let (mut from, mut count) = (0, 0);
        while let Some(length) = self.text[from..].windows(2).position(|pair| pair == b"\n\n") {
            let frame = std::str::from_utf8(&self.text[from..from + length]);
            each(frame.expect("a stream is UTF-8"));
            from += length + 2;
            count += 1;
        }
        self.text.drain(..from);
        if self.text.is_empty() {
            self.text = Vec::new();
        }
        count
    }
}

/// The `id:` of a frame.
pub fn frame_id(frame: &str) -> Option<i64> {
    frame.strip_prefix("id: ")?.split('\n').next()?.parse().ok()
}

/// Reads the head of an answer: its status, and what came behind it.
async fn head(socket: &mut TcpStream) -> io::Result<(u16, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            let text = String::from_utf8_lossy(&head);
            let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
            return Ok((status.ok_or(io::ErrorKind::InvalidData)?, rest));
        }
        if socket.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Decodes `Transfer-Encoding: chunked`.
#[derive(Debug, Default)]
struct Chunks {
    /// Bytes of the present chunk still to come, with its CR LF.
    left: usize,
    /// The line with the next chunk's size, as far as it is there.
    line: Vec<u8>,
    over: bool,
}

impl Chunks {
    fn decode(&mut self, mut bytes: &[u8], to: &mut Vec<u8>) {
        while !bytes.is_empty() && !self.over {
            if self.left > 0 {
                let take = self.left.min(bytes.len());
                // The last two are CR LF.
                let content = take.min(self.left.saturating_sub(2));
                to.extend_from_slice(&bytes[..content]);
                self.left -= take;
                bytes = &bytes[take..];
                continue;
            }
            self.line.push(bytes[0]);
            bytes = &bytes[1..];
            if self.line.ends_with(b"\r\n") {
                let line = std::mem::take(&mut self.line);
                let digits = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
                let size = usize::from_str_radix(&digits, 16).expect("the size of a chunk");
                self.over = size == 0;
                self.left = size + 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_the_bytes_gives_the_same_text() {
        let wire = b"5\r\nid: 1\r\n10\r\n\ndata: abcdefgh\n\r\n1\r\n\n\r\n0\r\n\r\n";
        for size in 1..wire.len() {
            let (mut chunks, mut text) = (Chunks::default(), Vec::new());
            wire.chunks(size)
                .for_each(|piece| chunks.decode(piece, &mut text));
            assert_eq!(text, b"id: 1\ndata: abcdefgh\n\n", "pieces of {size}");
            assert!(chunks.over);
        }
        assert_eq!(frame_id("id: 17\ndata: x"), Some(17));
        assert_eq!(frame_id("data: id: 17"), None);
    }
}
