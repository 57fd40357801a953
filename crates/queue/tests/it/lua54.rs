//! A server that runs the scripts as Dragonfly would: Lua 5.4, only declared keys, no globals of its own. It stands
//! before a real Redis, which does everything else. Servers of that kind are not to be had for tests; this shows
//! that the scripts stay within what they allow, not that those servers are sound.

use crate::raw::{Answer, Raw};
use mlua::{Function, Lua, Table, Value, Variadic};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What scripts must do without: gone or changed in Lua 5.4, or forbidden in scripts.
const STRICT: &str = r"
setmetatable(_G, {
  __index = function(_, name) error('global ' .. name .. ' does not exist in Lua 5.4', 2) end,
  __newindex = function(_, name) error('global ' .. name .. ' is assigned', 2) end,
})";

type Sources = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A piece of a script and what stands there instead.
pub(crate) type Mutation = (&'static str, &'static str);

/// Listens until the process ends. A mutation breaks the scripts that have the piece.
pub(crate) fn start(redis_port: u16, mutation: Option<Mutation>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sources, one_at_a_time) = (Sources::default(), Arc::new(Mutex::new(())));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, sources) = (client.unwrap(), Arc::clone(&sources));
            let one_at_a_time = Arc::clone(&one_at_a_time);
            std::thread::spawn(move || {
                let scripts = Scripts {
                    sources,
                    mutation,
                    redis: Raw::connect(redis_port),
                };
                serve(client, redis_port, scripts, &one_at_a_time);
            });
        }
    });
    port
}

/// What one connection needs to run scripts.
struct Scripts {
    sources: Sources,
    mutation: Option<Mutation>,
    redis: Raw,
}

fn serve(client: TcpStream, redis_port: u16, mut scripts: Scripts, one_at_a_time: &Mutex<()>) {
    client.set_nodelay(true).unwrap();
    let mut answers = client.try_clone().unwrap();
    let mut requests = BufReader::new(client);
    let upstream = TcpStream::connect(("127.0.0.1", redis_port)).unwrap();
    upstream.set_nodelay(true).unwrap();
    let mut upstream = BufReader::new(upstream);
    while let Some((words, bytes)) = request(&mut requests) {
        let name = String::from_utf8_lossy(&words[0]).to_uppercase();
        let answer = if name == "EVAL" || name == "EVALSHA" {
            let _alone = one_at_a_time.lock().unwrap();
            scripts.evaluate(&name, &words)
        } else {
            upstream.get_mut().write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            if relay(&mut upstream, &mut answer).is_none() {
                return;
            }
            answer
        };
        if answers.write_all(&answer).is_err() {
            return;
        }
    }
}

/// A command's words, and its bytes as they came; nothing when the client is gone.
fn request(from: &mut impl BufRead) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    let mut bytes = Vec::new();
    from.read_until(b'\n', &mut bytes).ok()?;
    let size = |line: &[u8]| {
        std::str::from_utf8(line.get(1..)?)
            .ok()?
            .trim()
            .parse::<usize>()
            .ok()
    };
    if bytes.first()? != &b'*' {
        let inline = bytes.trim_ascii().split(|byte| *byte == b' '); // how connections say hello
        return Some((inline.map(<[u8]>::to_vec).collect(), bytes.clone()));
    }
    let count = size(&bytes)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).ok()?;
        let mut word = vec![0; size(&line)? + 2];
        from.read_exact(&mut word).ok()?;
        bytes.extend(&line);
        bytes.extend(&word);
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some((words, bytes))
}

/// One whole answer, in either protocol version, as it stands.
fn relay(from: &mut impl BufRead, into: &mut Vec<u8>) -> Option<()> {
    let start = into.len();
    from.read_until(b'\n', into).ok()?;
    let line = into.get(start..)?.to_vec();
    let size: i64 = std::str::from_utf8(line.get(1..)?)
        .ok()?
        .trim()
        .parse()
        .unwrap_or(-1);
    match line[0] {
        b'$' | b'=' if size >= 0 => {
            let mut body = vec![0; size as usize + 2];
            from.read_exact(&mut body).ok()?;
            into.extend(body);
        }
        b'*' | b'~' | b'>' | b'%' => {
            let parts = if line[0] == b'%' { 2 * size } else { size };
            for _ in 0..parts {
                relay(from, into)?;
            }
        }
        _ => {}
    }
    Some(())
}

impl Scripts {
    fn evaluate(&mut self, name: &str, words: &[Vec<u8>]) -> Vec<u8> {
        let Some(source) = self.source(name, &words[1]) else {
            return b"-NOSCRIPT No matching script. Please use EVAL.\r\n".to_vec();
        };
        let keys: usize = String::from_utf8_lossy(&words[2]).parse().unwrap();
        match run(&source, &words[3..3 + keys], &words[3 + keys..], &mut self.redis) {
            Ok(answer) => answer,
            Err(fault) => format!("-ERR {}\r\n", fault.to_string().replace(['\r', '\n'], " ")).into_bytes(),
        }
    }

    fn source(&mut self, name: &str, word: &[u8]) -> Option<Vec<u8>> {
        let mut sources = self.sources.lock().unwrap();
        if name == "EVALSHA" {
            return sources.get(String::from_utf8_lossy(word).as_ref()).cloned();
        }
        let digest = self.redis.call(&[b"SCRIPT".as_slice(), b"LOAD", word]).text();
        let mut source = String::from_utf8_lossy(word).into_owned();
        if let Some((piece, instead)) = self.mutation {
            source = source.replace(piece, instead);
        }
        sources.insert(digest, source.clone().into_bytes());
        Some(source.into_bytes())
    }
}

fn run(source: &[u8], keys: &[Vec<u8>], args: &[Vec<u8>], redis: &mut Raw) -> mlua::Result<Vec<u8>> {
    let lua = Lua::new();
    let globals = lua.globals();
    let strings = |list: &[Vec<u8>]| -> mlua::Result<Table> {
        lua.create_sequence_from(
            list.iter()
                .map(|word| lua.create_string(word))
                .collect::<Result<Vec<_>, _>>()?,
        )
    };
    globals.set("KEYS", strings(keys)?)?;
    globals.set("ARGV", strings(args)?)?;
    let redis = std::cell::RefCell::new(redis);
    lua.scope(|scope| {
        let call = scope.create_function(|lua, words: Variadic<Value>| {
            let words: Vec<Vec<u8>> = words.iter().map(word).collect::<mlua::Result<_>>()?;
            check_keys(&words, keys)?;
            from_redis(lua, redis.borrow_mut().call(&words))
        })?;
        let table = lua.create_table()?;
        table.set("call", call)?;
        globals.set("redis", table)?;
        lua.load(STRICT).exec()?;
        let script: Function = lua.load(source).into_function()?;
        let mut out = Vec::new();
        to_client(&script.call::<Value>(())?, &mut out)?;
        Ok(out)
    })
}

fn fault(text: impl Into<String>) -> mlua::Error {
    mlua::Error::runtime(text.into())
}

/// Servers write a float into a command each in its own way, so there must be none.
fn word(value: &Value) -> mlua::Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        other => Err(fault(format!("argument of a command: {other:?}"))),
    }
}

/// Every key that a command touches is one of the script's KEYS.
fn check_keys(words: &[Vec<u8>], keys: &[Vec<u8>]) -> mlua::Result<()> {
    let name = String::from_utf8_lossy(&words[0]).into_owned();
    let touched = match name.as_str() {
        "TIME" => &words[..0],
        "EXISTS" | "DEL" => &words[1..],
        "LMOVE" => &words[1..3],
        "GET" | "SET" | "HGET" | "HMGET" | "HSET" | "HSETNX" | "HDEL" | "HEXISTS" | "HLEN" | "LPUSH"
        | "RPUSH" | "LPOP" | "LLEN" | "LRANGE" | "LREM" | "LTRIM" | "LINDEX" | "LSET" | "LPOS" | "ZADD"
        | "ZREM" | "ZSCORE" | "ZCARD" | "ZRANGE" | "ZRANGEBYSCORE" | "SADD" | "SMEMBERS" => &words[1..2],
        _ => return Err(fault(format!("which words of {name} are keys? teach this test"))),
    };
    match touched.iter().find(|key| !keys.contains(key)) {
        Some(key) => Err(fault(format!(
            "{name} touches {}, which is not declared",
            String::from_utf8_lossy(key)
        ))),
        None => Ok(()),
    }
}

fn from_redis(lua: &Lua, answer: Answer) -> mlua::Result<Value> {
    Ok(match answer {
        Answer::Nil => Value::Boolean(false),
        Answer::Number(number) => Value::Integer(number),
        Answer::Bytes(bytes) => Value::String(lua.create_string(bytes)?),
        Answer::Error(text) => return Err(fault(text)),
        Answer::Status(text) => {
            let status = lua.create_table()?;
            status.set("ok", text)?;
            Value::Table(status)
        }
        Answer::Many(all) => {
            let values = all
                .into_iter()
                .map(|one| from_redis(lua, one))
                .collect::<mlua::Result<Vec<_>>>()?;
            Value::Table(lua.create_sequence_from(values)?)
        }
    })
}

fn to_client(value: &Value, out: &mut Vec<u8>) -> mlua::Result<()> {
    match value {
        Value::Nil | Value::Boolean(false) => out.extend(b"_\r\n"),
        Value::Boolean(true) => out.extend(b":1\r\n"),
        Value::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
        Value::String(text) => {
            out.extend(format!("${}\r\n", text.as_bytes().len()).bytes());
            out.extend(text.as_bytes().iter());
            out.extend(b"\r\n");
        }
        Value::Table(table) => {
            let values = table
                .sequence_values::<Value>()
                .collect::<mlua::Result<Vec<_>>>()?;
            out.extend(format!("*{}\r\n", values.len()).bytes());
            for value in &values {
                to_client(value, out)?;
            }
        }
        other => return Err(fault(format!("answer of a script: {other:?}"))),
    }
    Ok(())
}
