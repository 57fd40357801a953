//! The tools against strict stand-ins of their vendors, a real browser and real MCP servers on loopback.
#![cfg(test)]

mod bare;
mod browser;
mod connector;
mod faults;
mod fetch;
mod mcp;
mod overview;
mod remote;
mod search;
mod setup;
