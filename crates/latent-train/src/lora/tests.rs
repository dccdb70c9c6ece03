//! Against PEFT.
