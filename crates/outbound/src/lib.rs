//! Connections to the outside that cannot be led to inner addresses.
