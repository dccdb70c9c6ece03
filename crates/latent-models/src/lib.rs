//! Architectures, their configs, weight names and tokenizers.
