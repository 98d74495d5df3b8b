//! The `outro` command.
fn main() {}
