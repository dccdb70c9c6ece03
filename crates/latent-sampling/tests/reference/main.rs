//! The crate against torch and diffusers, number by number.

mod choice;
mod fixture;
mod random;
mod samplers;
mod training;
