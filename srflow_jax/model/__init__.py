"""What p(hr | lr) is: parts, nets, encoders, the flow, and how a configuration makes a model."""
