"""Translation with reversible encoders and decoders that attend (Reversible RNNs, MacKay et al. 2018, section 5)."""
