"""What a cut won and what it cost, one number a file: its unit and its formula, computed from plain numbers and tensors."""
