"""What is there for the machine's sake: convolutions, scans of equal layers, resizing, noise."""
