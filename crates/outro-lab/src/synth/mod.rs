//! A seeded audio-visual world, rendered to short videos with questions about them.
