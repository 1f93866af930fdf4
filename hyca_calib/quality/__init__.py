"""How near a run is to the full one."""
