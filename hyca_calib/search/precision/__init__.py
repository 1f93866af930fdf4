"""Which steps are computed in which precision, searched together with which are forecast."""
