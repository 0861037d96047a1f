"""What a model is worth: figures with intervals, on patients it has not seen."""
