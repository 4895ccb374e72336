"""Networks: backbones, and the parts that make KINet of them."""
