"""Everything outside the method: settings, catalog, blobs, file formats, Label Studio, FiftyOne."""
