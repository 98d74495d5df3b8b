//! CPU kernels of OutRo on plain slices.
