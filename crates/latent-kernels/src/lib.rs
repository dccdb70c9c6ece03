//! CPU kernels on plain slices: products, convolution, attention, norms, activations, optimiser; forward and backward.
