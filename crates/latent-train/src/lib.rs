//! Trains the autoencoder, the text encoder and the U-Net; measures them.
