//! Arithmetic on sound: mono at 16 kHz, and log-mel spectrograms.

pub(crate) mod mel;
pub(crate) mod resample;
