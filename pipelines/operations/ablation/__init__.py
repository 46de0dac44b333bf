"""`spatialt2i ablation`: trains variants of stage 3 under several seeds and compares them in tables."""
