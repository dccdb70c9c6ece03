//! Bytes on disk to plain data and back: weights, configs, pictures.
