//! `outro serve`: an OpenAI-compatible server over [`outro::Engine`].

pub mod door;
