//! The first process of a tool pod: fetches the workspace, runs the tool, uploads what it left, reports.
