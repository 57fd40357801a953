//! Ports: the remembered one, else the preferred one, else a free one; remembered from then on.
//!
//! Between the choice and the moment a child listens another supervisor might choose the same port. So each choice is
//! also held as a UDP socket of the same number as long as the supervisor lives: supervisors see each other's choices,
//! of whatever user, and nothing is left behind when one is killed.

use crate::failure::Failure;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

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
    held: BTreeMap<String, UdpSocket>,
}

/// Held choices; dropped, they are free for others.
#[derive(Debug)]
pub struct Held {
    _sockets: Vec<UdpSocket>,
}

impl Ports {
    pub const fn remembered(chosen: BTreeMap<String, u16>) -> Self {
        Self {
            chosen,
            held: BTreeMap::new(),
        }
    }

    /// The choices, and what holds them.
    pub fn settle(self) -> (BTreeMap<String, u16>, Held) {
        let held = Held {
            _sockets: self.held.into_values().collect(),
        };
        (self.chosen, held)
    }

    /// The port a name has or had.
    pub fn get(&self, name: &str) -> Option<u16> {
        self.chosen.get(name).copied()
    }

    /// The port for a name.
    pub fn choose(&mut self, name: &str) -> Result<u16, Failure> {
        let wanted = [self.get(name), preferred(name)];
        for port in wanted.into_iter().flatten() {
            if !self.taken_by_another(name, port) && self.hold(name, port) {
                return Ok(port);
            }
        }
        // Refused ones stay open meanwhile, so that the system does not give the same one twice.
        let mut refused = vec![];
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            if !self.taken_by_another(name, port) && self.reserve(name, port) {
                return Ok(port);
            }
            refused.push(listener);
        }
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
        // Something may use the UDP port; it was asked for by name, so that does not matter.
        self.reserve(name, port);
        Ok(port)
    }

    fn taken_by_another(&self, name: &str, port: u16) -> bool {
        self.chosen
            .iter()
            .any(|(other, taken)| other != name && *taken == port)
    }

    fn hold(&mut self, name: &str, port: u16) -> bool {
        is_free(port) && self.reserve(name, port)
    }

    /// Takes the port in the eyes of other supervisors; false when one of them has it.
    fn reserve(&mut self, name: &str, port: u16) -> bool {
        self.held.remove(name);
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else {
            return false;
        };
        self.held.insert(name.to_owned(), socket);
        self.chosen.insert(name.to_owned(), port);
        true
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
    fn two_supervisors_never_choose_the_same_port_before_anybody_listens() {
        let mut first = Ports::remembered(BTreeMap::new());
        let port = first.choose("api").unwrap();
        let (map, held) = first.settle();
        let mut second = Ports::remembered(map.clone());
        assert_ne!(second.choose("api").unwrap(), port);
        drop(held);
        assert_eq!(Ports::remembered(map).choose("api").unwrap(), port);
    }

    #[test]
    fn two_names_never_share_a_port() {
        let mut ports = Ports::remembered(BTreeMap::new());
        let first = ports.choose("unknown-a").unwrap();
        ports.chosen.insert("unknown-b".to_owned(), first);
        assert_ne!(ports.choose("unknown-b").unwrap(), first);
    }
}
