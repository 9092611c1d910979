"""ONNX files in whole numbers: weights and activations of eight bits, scaled by what they are on real examples."""
