"""One forward pass into Zarr, and the reader of it."""
