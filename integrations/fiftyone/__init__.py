"""FiftyOne: a product's images, predictions and reviews under one roof, for curation."""
