//! Placeholder until written.
pub(crate) fn works() -> bool {
    false
}
pub(crate) const BF16: super::Kernel = super::avx512::BF16;
