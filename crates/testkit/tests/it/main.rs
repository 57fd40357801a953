//! Tests of the test tools, against real processes.

mod servers;
