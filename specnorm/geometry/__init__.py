"""What a layer is: its kernel's shape and geometry, validated once; the layer as a map of arrays."""
