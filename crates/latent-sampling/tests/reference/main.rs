//! The crate against torch and diffusers, number by number.

mod choice;
mod compat;
mod fixture;
mod k_diffusion;
mod papers;
mod random;
mod samplers;
mod schedules;
mod training;
