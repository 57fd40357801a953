//! The long forms of what the tests show, each of which ends by itself.

use crate::figures::Figure;

pub(crate) async fn run(names: &[&str]) -> Vec<Figure> {
    panic!("no such drill: {names:?}")
}
