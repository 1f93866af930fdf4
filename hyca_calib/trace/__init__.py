"""Recording hidden features of full runs into Zarr, and reading them."""
