"""What a run costs: FLOPs, time, memory, and budgets of them."""
