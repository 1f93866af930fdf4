"""Keys and values of the past of a video that is made chunk by chunk: which are kept, and where they then are.

Nothing here knows a network: all are functions of tensors.
"""
