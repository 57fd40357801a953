//! Dev-only: faults from a seeded schedule against the real programs under load, and an independent checker.
//!
//! | module | is |
//! | --- | --- |
//! | [`system`], [`node`], [`stores`], [`supervisor`] | programs and stores, a fault proxy on each link, new starts |
//! | [`history`] | what happened, as lines of a file |
//! | [`counting`] | the world outside: counts the effects of tools |
//! | [`script`], [`load`], [`client`], [`operator`] | users and operators |
//! | [`fault`], [`disk`], [`clock`], [`nemesis`] | faults and their schedule |
//! | [`resp`], [`sql`], [`facts`], [`observer`] | looking into the stores without the code under test |
//! | [`checker`] | the rules |
//! | [`campaign`], [`directed`], [`report`] | one whole run, one aimed at one promise, and what was found |
//! | [`drills`] | recovery, measured |
//!
//! It uses none of the crates it checks: a fault of theirs must not hide itself.

pub mod campaign;
pub mod checker;
pub mod client;
pub mod clock;
pub mod counting;
pub mod directed;
pub mod disk;
pub mod drills;
pub mod facts;
pub mod fault;
pub mod history;
pub mod load;
pub mod nemesis;
pub mod node;
pub mod observer;
pub mod operator;
pub mod report;
pub mod resp;
pub mod script;
pub mod sql;
pub mod stores;
pub mod supervisor;
pub mod system;
