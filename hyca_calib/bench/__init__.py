"""Plans beside all other methods: sweeps, rows, tables, documents; and what the runtime itself costs."""
