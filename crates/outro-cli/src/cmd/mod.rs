//! One module per command. Each takes its validated configuration and the terminal.

pub(crate) mod ask;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod convert;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod prepare;
pub(crate) mod serve;
pub(crate) mod sinks;
pub(crate) mod synth;
pub(crate) mod trace;
pub(crate) mod tune;
