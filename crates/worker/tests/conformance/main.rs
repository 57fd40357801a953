//! What every sandbox must do: one list of cases ([`cases`]), here run on the local one.
#![cfg(test)]

mod cases;
mod local;
