"""Labels: margins between logits, radii in which a label stays, by constants or by linear bounds on a ball."""
