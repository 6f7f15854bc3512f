"""What to try and in which order: branch and bound, incumbent, local ascents, attempts for a layer at one size.

Every bound that is returned from here was made by `specnorm.certified`. A wrong choice here costs time or leaves a wide
interval; it cannot make a bound false. "At its size" means: at the ``input_shape`` of the layer's `ConvSpec`.
"""
