"""What a layer is: its kernel's shape and geometry, validated once, and what follows from them in integers."""
