//! Ports: the remembered one, else the preferred one, else a free one; remembered from then on.

use crate::failure::Failure;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};

/// Preferred ports. All listen on 127.0.0.1 only. The workers' are above the default of a worker started by hand.
const PREFERRED: [(&str, u16); 5] = [
    ("api", 8000),
    ("internal", 4100),
    ("postgres", 54320),
    ("redis", 63790),
    ("s3", 39000),
];
/// `worker-1` prefers the first one, `worker-2` the next …
const FIRST_WORKER: u16 = 19090;

/// Chooses ports; two names never get the same one.
#[derive(Debug)]
pub struct Ports {
    chosen: BTreeMap<String, u16>,
}

impl Ports {
    pub const fn remembered(chosen: BTreeMap<String, u16>) -> Self {
        Self { chosen }
    }

    pub fn into_map(self) -> BTreeMap<String, u16> {
        self.chosen
    }

    /// The port a name has or had.
    pub fn get(&self, name: &str) -> Option<u16> {
        self.chosen.get(name).copied()
    }

    /// The port for a name.
    pub fn choose(&mut self, name: &str) -> Result<u16, Failure> {
        let wanted = [self.chosen.get(name).copied(), preferred(name)];
        let port = wanted
            .into_iter()
            .flatten()
            .find(|port| !self.taken_by_another(name, *port) && is_free(*port));
        let port = match port {
            Some(port) => port,
            None => self.any_free(name)?,
        };
        self.chosen.insert(name.to_owned(), port);
        Ok(port)
    }

    /// Exactly this port, or a failure that names it.
    pub fn insist(&mut self, name: &str, port: u16) -> Result<u16, Failure> {
        if !is_free(port) {
            return Err(Failure::new(format!("port {port} is taken"))
                .because("another program listens there")
                .fix("name another one with --api-port, or leave it out for a free one"));
        }
        self.chosen.retain(|other, taken| other == name || *taken != port);
        self.chosen.insert(name.to_owned(), port);
        Ok(port)
    }

    fn taken_by_another(&self, name: &str, port: u16) -> bool {
        self.chosen
            .iter()
            .any(|(other, taken)| other != name && *taken == port)
    }

    fn any_free(&self, name: &str) -> Result<u16, Failure> {
        // Held until one fits, so that the system does not give the same one twice.
        let mut held = vec![];
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            if !self.taken_by_another(name, port) {
                return Ok(port);
            }
            held.push(listener);
        }
    }
}

fn preferred(name: &str) -> Option<u16> {
    if let Some(number) = name.strip_prefix("worker-") {
        return FIRST_WORKER.checked_add(number.parse::<u16>().ok()?.checked_sub(1)?);
    }
    PREFERRED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, port)| *port)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_port_is_kept_and_a_taken_one_is_left() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let mut ports = Ports::remembered(BTreeMap::from([("redis".to_owned(), port)]));
        assert_ne!(ports.choose("redis").unwrap(), port);
        let kept = ports.choose("redis").unwrap();
        assert_eq!(ports.choose("redis").unwrap(), kept);
        assert!(ports.insist("api", port).is_err());
    }

    #[test]
    fn two_names_never_share_a_port() {
        let mut ports = Ports::remembered(BTreeMap::new());
        let first = ports.choose("unknown-a").unwrap();
        ports.chosen.insert("unknown-b".to_owned(), first);
        assert_ne!(ports.choose("unknown-b").unwrap(), first);
    }
}
