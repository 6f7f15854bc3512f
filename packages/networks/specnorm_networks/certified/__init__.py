"""Networks: operators, the graph that runs beside its model, and the rules that bound it."""
