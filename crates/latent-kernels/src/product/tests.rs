//! Every instruction set's tile against the portable one.
