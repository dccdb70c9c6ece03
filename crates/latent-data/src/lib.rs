//! Pictures and captions: data sets people have, and the builder of the built-in model's own.
