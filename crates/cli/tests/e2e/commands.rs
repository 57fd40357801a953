//! `agentctl`, from `up` to `down`.
