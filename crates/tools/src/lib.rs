//! Tools that reach other systems: search, fetch, browser, connectors, MCP servers.
